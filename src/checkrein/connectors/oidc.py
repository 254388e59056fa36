"""People as OpenID Connect issuers know them: their keys, and who a token is of (`tokens` says what it must hold).

Keys come from the issuer's own discovery document and from nowhere else: no redirect is followed, nothing in a token
names an address. They are kept for an hour; a token with a key that is not known has them fetched again, at most every
half minute, so that made-up tokens cost the issuer nothing. An issuer that is down is done without for a day.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from time import monotonic

import aiohttp

from checkrein.connectors.tokens import Expected, Peeked, PublicKey, peek, read_keys, verify
from checkrein.connectors.webhook import is_private
from checkrein.model import BadRequest, Caller, Unauthorized, UpstreamUnavailable
from checkrein.model.json import load_object
from checkrein.ports import Clock

log = logging.getLogger("checkrein.oidc")

DISCOVERY = "/.well-known/openid-configuration"
#: seconds: how long keys are taken as they are, how long at most while the issuer is down, how often they are fetched
FRESH_S, STALE_S, AGAIN_S = 3600.0, 24 * 3600.0, 30.0
_TIMEOUT_S, _MAX_BYTES = 5.0, 512 * 1024


class Issuer:
    """One issuer. For one event loop."""

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self._keys: dict[str, PublicKey] = {}
        self._fetched = self._tried = float("-inf")
        self._busy = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def caller(self, token: str, said: Peeked, now_s: int) -> Caller:
        """Who the token is of; raises `Unauthorized`, or `UpstreamUnavailable` if it cannot be checked now."""
        return verify(token, await self._key(said.kid), self.expected, now_s)

    async def keys(self) -> int:
        """Fetch the keys now; how many there are. Raises `UpstreamUnavailable`."""
        self._keys = await self._fetch()
        self._fetched = monotonic()
        return len(self._keys)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _key(self, kid: str) -> PublicKey:
        found = self._known(kid)
        if found is None or monotonic() - self._fetched > FRESH_S:
            await self._refresh(kid)
            found = self._known(kid)
        if monotonic() - self._fetched > STALE_S:
            raise UpstreamUnavailable(
                f"the keys of the issuer `{self.expected.name}` cannot be had", hint="try again in a minute"
            )
        if found is None:
            raise Unauthorized("the token is signed with a key that its issuer does not publish", hint="log in again")
        return found

    def _known(self, kid: str) -> PublicKey | None:
        if not kid and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid) if kid else None

    async def _refresh(self, kid: str) -> None:
        """Fetch the keys, unless that was tried a moment ago; what is known stays when it fails."""
        async with self._busy:
            again = monotonic() - self._tried >= AGAIN_S
            stale = monotonic() - self._fetched > FRESH_S
            if not again or (self._known(kid) is not None and not stale):
                return
            self._tried = monotonic()
            try:
                await self.keys()
            except UpstreamUnavailable as error:
                log.warning("the keys of the issuer %s stay as they are: %s", self.expected.name, error)

    async def _fetch(self) -> dict[str, PublicKey]:
        what = f"the issuer `{self.expected.name}`"
        try:
            found = load_object(await self._get(self.expected.issuer.rstrip("/") + DISCOVERY))
            address = found.get("jwks_uri")
            if found.get("issuer") != self.expected.issuer:
                raise BadRequest("its discovery document is of another issuer")
            if not isinstance(address, str) or not self._may_fetch(address):
                raise BadRequest("its `jwks_uri` is not an https address")
            keys = read_keys(await self._get(address))
        except BadRequest as error:
            raise UpstreamUnavailable(f"{what} cannot be used: {error}", hint="compare `issuer`") from error
        # `from None`: the client's errors may carry addresses
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            raise UpstreamUnavailable(f"{what} cannot be reached: {type(error).__name__}", hint="try again") from None
        if not keys:
            raise UpstreamUnavailable(f"{what} publishes no key that can be used", hint="see its `jwks_uri`")
        return keys

    def _may_fetch(self, address: str) -> bool:
        """An issuer that is reached over https does not lead into the clear, nor to this machine."""
        return is_private(address) and (
            address.startswith("https://") or not self.expected.issuer.startswith("https://")
        )

    async def _get(self, address: str) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar())
        async with asyncio.timeout(_TIMEOUT_S), self._session.get(address, allow_redirects=False) as answer:
            body = await answer.content.read(_MAX_BYTES + 1)
            while not answer.content.at_eof() and len(body) <= _MAX_BYTES:
                body += await answer.content.read(_MAX_BYTES + 1)
            if answer.status != 200 or len(body) > _MAX_BYTES:
                raise BadRequest(f"it answered {answer.status}, with {len(body)} bytes")
            return body


class Issuers:
    """See `ports.Identities`. A token chooses among the configured issuers; its issuer's keys then check it."""

    def __init__(self, expected: Iterable[Expected], clock: Clock) -> None:
        self._issuers = {each.issuer: Issuer(each) for each in expected}
        self._clock = clock

    async def caller(self, token: str) -> Caller:
        said = peek(token)
        issuer = self._issuers.get(said.issuer)
        if issuer is None:
            raise Unauthorized("the token is of an issuer that is not trusted here", hint="see `[oidc.NAME]`")
        return await issuer.caller(token, said, self._clock.now_us() // 1_000_000)

    async def close(self) -> None:
        for issuer in self._issuers.values():
            await issuer.close()
