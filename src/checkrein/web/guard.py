"""What every route asks first: is this host ours, who is calling, may they do this."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import Scope

from checkrein.model import ApiKey, Permission, Unauthorized
from checkrein.services.keys import Keys

_LOOPBACK = ("localhost",)


def host_name(value: str) -> str:
    """The host of a `Host` header or of an origin, without port and brackets, lower case."""
    host = value.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Guard:
    """Refuses foreign names in `Host` and `Origin` (DNS rebinding), and callers without a live key.

    An address literal is accepted as a host: a rebinding attack needs a name. A browser's `Origin` must be the
    very host that is called; there is no page of ours elsewhere.
    """

    def __init__(self, keys: Keys, allowed_hosts: Iterable[str]) -> None:
        self._keys = keys
        self._hosts = {host.lower() for host in allowed_hosts} | set(_LOOPBACK)

    def check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not hosts[0]:
            raise Unauthorized("the request names no single host", hint="send one `Host` header", forbidden=True)
        host = host_name(hosts[0])
        if host not in self._hosts and not _is_address(host):
            raise Unauthorized(
                f"the host `{host[:100]}` is not served here",
                hint="add it to `server.allowed_hosts` in checkrein.toml",
                forbidden=True,
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != hosts[0].strip().lower():
            raise Unauthorized("a page of another origin may not call this", forbidden=True)

    def key(self, headers: Headers) -> ApiKey:
        """The caller's key; raises `Unauthorized`."""
        values = headers.getlist("authorization")
        scheme, _, secret = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        found = self._keys.find(secret.strip()) if scheme.lower() == "bearer" and secret.strip() else None
        if found is None:
            raise Unauthorized(
                "no valid key", hint="send `Authorization: Bearer crk_...`; `checkrein keys create` makes one"
            )
        return found


def allow(scope: Scope, *permissions: Permission) -> ApiKey:
    """The key of this request, if it has one of the permissions; raises `Unauthorized`."""
    key = scope["checkrein.key"]
    if not isinstance(key, ApiKey) or not set(permissions) & set(key.permissions):
        wanted = " or ".join(f"`{permission.value}`" for permission in permissions)
        raise Unauthorized(
            f"this key may not do that; it needs {wanted}",
            hint=f"`checkrein keys create NAME --can {permissions[0].value}` makes one",
            forbidden=True,
        )
    return key
