"""Approvals on a server: over HTTP, with the key or token in CHECKREIN_API_KEY. The server knows who that is, and
holds to the rules that the store of this machine would."""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from checkrein.cli.common import say
from checkrein.cli.desk import Given, Listed, Wish
from checkrein.client import Client, HttpError, address
from checkrein.flow.approval import Approval, State, VoteRefused
from checkrein.flow.grant import Grant
from checkrein.model import (
    BadRequest,
    CheckreinError,
    ConfigError,
    NotFound,
    StoreUnavailable,
    UpstreamUnavailable,
)
from checkrein.services.delegation import StandIn
from checkrein.services.showing import Details

_ROOT, _GRANTS, _DELEGATIONS = "/api/v1/approvals", "/api/v1/grants", "/api/v1/delegations"
_STORED = {"form": "stored"}
_HINT = "give `--url https://HOST`, or set CHECKREIN_URL"
#: how long an answer may take, and how long one call waits for people
_TIMEOUT_S, _WAIT_S = 30.0, 20
#: approvals in one answer
_ROWS = 1000
#: how soon a connection that broke is tried again, and how late at the most
_FIRST_S, _LAST_S = 0.5, 15.0
#: statuses of a server that is just being started again, or of a proxy before one
_BUSY = (502, 503, 504)
_GONE = (UpstreamUnavailable, StoreUnavailable)
#: what a status means to who runs a command, where the server names no rule
_KINDS: dict[int, type[CheckreinError]] = {
    **dict.fromkeys((400, 413, 415), BadRequest),
    **dict.fromkeys((401, 403), ConfigError),
    404: NotFound,
    **dict.fromkeys(_BUSY, StoreUnavailable),
}
Read = TypeVar("Read")


class There:
    def __init__(self, url: str) -> None:
        self._url = _safe(url)
        self._client = Client(self._url, timeout=_TIMEOUT_S)

    def listed(self, state: State | None) -> Listed:
        found: list[Approval] = []
        query: dict[str, object] = {**_STORED, "state": state.value if state else "all", "limit": _ROWS}
        while True:
            page = self._call("GET", _ROOT, query)
            found += self._read(page.get("approvals"), list[Approval])
            if not page.get("next"):
                return Listed(found, self._read(page.get("unreviewed", 0), int))
            query["after"] = page["next"]

    def show(self, id: str) -> tuple[Approval, Details | None]:
        approval, value = self._looked_at(id)
        details = value.get("details")
        return approval, self._read(details, Details) if details else None

    def vote(
        self, id: str, *, approve: bool, reason: str, behalf: str, seen: str, wish: Wish | None
    ) -> tuple[Approval, Given | None]:
        approval, value = self._looked_at(id)
        ballot: dict[str, object] = {
            "decision": "approve" if approve else "deny",
            "shown": value.get("shown"),
            "reason": reason,
            "on_behalf_of": behalf,
            "action_hash": seen,
            "grant": {"max": wish.span, "uses": wish.uses} if wish else None,
        }
        after = self._call("POST", f"{_path(approval.id)}/vote", _STORED, ballot)
        grant = after.get("grant")
        return self._read(after, Approval), self._read(grant, Given) if grant else None

    def edit(self, id: str, arguments: Mapping[str, object], *, reason: str, seen: str) -> Approval:
        approval, value = self._looked_at(id)
        said = {"arguments": arguments, "shown": value.get("shown"), "reason": reason, "action_hash": seen}
        return self._read(self._call("POST", f"{_path(approval.id)}/edit", _STORED, said), Approval)

    def settled(self, id: str, seconds: float) -> Approval:
        until = time.monotonic() + seconds
        patience = _Patience(until)
        while True:
            left = max(0.0, until - time.monotonic())
            wait_s = int(min(left, _WAIT_S)) or int(left > 0)
            try:
                approval, _ = self._looked_at(id, wait=wait_s)
            except _GONE as error:
                patience.lost(error)
                continue
            patience.heard()
            id = approval.edited_into or approval.id
            if not approval.edited_into and (approval.state is not State.PENDING or left <= wait_s):
                return approval

    def events(self) -> Iterator[dict[str, object]]:
        last, patience = -1, _Patience()
        while True:
            try:
                for seq, kind, told in self._client.events(last, form="stored"):
                    patience.heard()
                    if kind == "sync" and last >= 0:
                        say(f"what came after {last} is not known here; `checkrein approvals list` shows what waits")
                    last = seq
                    if kind != "sync":
                        yield told
                time.sleep(_FIRST_S)  # the server ends a stream after a while
            except HttpError as error:
                patience.lost(_plain(error, self._url))
            except UpstreamUnavailable as error:
                patience.lost(error)

    def delegations(self) -> list[StandIn]:
        return self._read(self._call("GET", _DELEGATIONS).get("delegations"), list[StandIn])

    def delegate(self, to: str, first: str, last: str) -> StandIn:
        said = {"delegate": to, "from": first, "until": last}
        return self._read(self._call("POST", f"{_DELEGATIONS}/give", body=said), StandIn)

    def undelegate(self) -> StandIn:
        return self._read(self._call("POST", f"{_DELEGATIONS}/end", body={}), StandIn)

    def grants(self, *, live: bool) -> list[Grant]:
        found = self._call("GET", _GRANTS, {} if live else {"all": "true"})
        return self._read(found.get("grants"), list[Grant])

    def revoke(self, id: str, reason: str) -> Grant:
        return self._read(self._call("POST", f"{_GRANTS}/{quote(id, safe='')}/revoke", body={"reason": reason}), Grant)

    def _looked_at(self, id: str, **query: object) -> tuple[Approval, dict[str, Any]]:
        """The approval, and all that the server says of it."""
        if not id.startswith("apr_"):  # other paths lead elsewhere
            raise NotFound(f"no approval `{id[:80]}`", hint="`checkrein approvals list --state all` shows the ids")
        value = self._call("GET", _path(id), {**_STORED, **query})
        return self._read(value, Approval), value

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> dict[str, Any]:
        try:
            return self._client.call(method, f"{path}?{urlencode(query)}" if query else path, body)
        except HttpError as error:
            raise _plain(error, self._url) from error

    def _read(self, value: object, kind: type[Read]) -> Read:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise _stranger(self._url) from error


class _Patience:
    """A connection that breaks is tried again, later and later. If nothing was ever heard, it is an error at once."""

    def __init__(self, until: float = math.inf) -> None:
        self._until = until
        self._connected = self._told = False
        self._pause_s = _FIRST_S

    def heard(self) -> None:
        self._connected, self._told, self._pause_s = True, False, _FIRST_S

    def lost(self, error: CheckreinError) -> None:
        """Wait for a while; raises the error where that does not help."""
        left = self._until - time.monotonic()
        if not self._connected or not isinstance(error, _GONE) or left <= 0:
            raise error
        if not self._told:
            say(f"{error}; trying again")
            self._told = True
        time.sleep(min(self._pause_s, left))
        self._pause_s = min(2 * self._pause_s, _LAST_S)


def _path(id: str) -> str:
    return f"{_ROOT}/{quote(id, safe='')}"


def _safe(text: str) -> str:
    """The address, if a key may be sent there: in the clear only within this machine. Raises `ConfigError`."""
    url = address(text, _HINT)
    host = url.hostname or ""
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = host == "localhost"
    if url.scheme != "https" and not inside:
        raise ConfigError("the key would cross the network in the clear", hint="ask by https; http is for this machine")
    return url.geturl()


def _plain(error: HttpError, url: str) -> CheckreinError:
    """What the server answered, as the error that the store of this machine would raise."""
    if code := error.body.get("code"):
        return VoteRefused(str(code), f"{error} ({code})", hint=error.hint)
    if error.status in _BUSY and "title" not in error.body:
        return StoreUnavailable(f"`{url}` answers {error.status}", hint="try again once its server runs")
    if 300 <= error.status < 400:
        return ConfigError(f"`{url}` leads elsewhere, and a key is not sent on", hint="give the address it leads to")
    if "title" not in error.body:
        return _stranger(url)
    if error.status == 401:
        return ConfigError(str(error), hint="CHECKREIN_API_KEY holds no key or token that this server takes")
    return _KINDS.get(error.status, CheckreinError)(str(error), hint=error.hint)


def _stranger(url: str) -> ConfigError:
    return ConfigError(
        f"what answers at `{url}` is not a Checkrein, or not of this version",
        hint="give the address that `checkrein serve` prints",
    )
