"""What every route asks first: is this host ours, who is calling, may they do this."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import Scope

from checkrein.model import Caller, Permission, Unauthorized
from checkrein.ports import Identities
from checkrein.services.keys import Keys

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
#: what parts a token in compact form
_JWT_DOTS = 2
#: an IPv6 address in brackets, or a name or IPv4 address; and a port
_HOST = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?))(?::([0-9]{1,5}))?")


def host_name(value: str) -> str:
    """The host of a `Host` header, without port and brackets, lower case; empty if it is not in that form."""
    match = _HOST.fullmatch(value.lower())
    return (match[1] or match[2]) if match and int(match[3] or 0) < 65536 else ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class ForeignHost(Unauthorized):
    """The request names a host that is not ours."""


class ForeignOrigin(Unauthorized):
    """A browser's page of another origin asks."""


class Guard:
    """Refuses foreign names in `Host` and `Origin` (DNS rebinding), and callers without a live key.

    An address literal is accepted as a host: a rebinding attack needs a name. A browser's `Origin` must be the
    very host that is called; there is no page of ours elsewhere.
    """

    def __init__(self, keys: Keys, identities: Identities, allowed_hosts: Iterable[str]) -> None:
        self._keys = keys
        self._identities = identities
        self._hosts = {host.lower() for host in allowed_hosts} | set(_LOOPBACK)

    def check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        host = host_name(hosts[0]) if len(hosts) == 1 else ""
        if not host:
            raise ForeignHost("the request names no single host", hint="send one `Host` header", forbidden=True)
        if host not in self._hosts and not _is_address(host):
            raise ForeignHost(
                f"the host `{host[:100]}` is not served here",
                hint="add it to `server.allowed_hosts` in checkrein.toml",
                forbidden=True,
            )
        origins, own = headers.getlist("origin"), hosts[0].lower()
        if origins and origins not in ([f"http://{own}"], [f"https://{own}"]):
            raise ForeignOrigin("a page of another origin may not call this", forbidden=True)

    async def caller(self, headers: Headers) -> Caller:
        """Who calls, by a key or by a token of an issuer that is trusted here; raises `Unauthorized`."""
        values = headers.getlist("authorization")
        scheme, _, secret = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        return await bearer(secret.strip() if scheme.lower() == "bearer" else "", self._keys, self._identities)


async def bearer(secret: str, keys: Keys, identities: Identities) -> Caller:
    """Whose key or token this is; raises `Unauthorized`."""
    if secret.count(".") == _JWT_DOTS:  # no key has any
        return await identities.caller(secret)
    found = keys.find(secret) if secret else None
    if found is None:
        raise Unauthorized(
            "no valid key", hint="send `Authorization: Bearer crk_...`; `checkrein keys create` makes one"
        )
    return found


def allow(scope: Scope, *permissions: Permission) -> Caller:
    """The key of this request, if it has one of the permissions; raises `Unauthorized`."""
    key = scope["checkrein.key"]
    if not isinstance(key, Caller) or not set(permissions) & set(key.permissions):
        wanted = " or ".join(f"`{permission.value}`" for permission in permissions)
        raise Unauthorized(
            f"this key may not do that; it needs {wanted}",
            hint=f"`checkrein keys create NAME --can {permissions[0].value}` makes one",
            forbidden=True,
        )
    return key
