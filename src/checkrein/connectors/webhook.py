"""Signed webhooks by the Standard Webhooks specification: one POST, answered in time or failed.

No redirect is followed and no proxy is read from the environment. The signature is HMAC-SHA256 over id, time and
body; while a secret is replaced, both sign.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from urllib.parse import urlsplit

import aiohttp

from checkrein import __version__
from checkrein.model import ConfigError, UpstreamUnavailable
from checkrein.ports import Posted

PREFIX = "whsec_"
#: the specification: 24 to 64 bytes
_SECRET_BYTES = range(24, 65)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ANSWER_BYTES = 64 * 1024


def read_secret(text: str) -> bytes:
    """The key in `whsec_...`; raises `ConfigError`, which never shows it."""
    hint = "make one with `python -c \"import base64,os;print('whsec_'+base64.b64encode(os.urandom(32)).decode())\"`"
    encoded = text.strip().removeprefix(PREFIX)
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError("a webhook secret is not `whsec_` and base64", hint=hint) from None
    if len(key) not in _SECRET_BYTES:
        raise ConfigError(f"a webhook secret is {len(key)} bytes long, not 24 to 64", hint=hint)
    return key


def check_url(url: str) -> None:
    """Raise `ConfigError` for an address that records must not be sent to."""
    if is_private(url):
        return
    if url.startswith("http://"):
        raise ConfigError(
            "the address of a webhook is not https", hint="records travel in the clear over http: use https"
        )
    raise ConfigError("the address of a webhook is not an http(s) address", hint="write `https://host/path`")


def is_private(url: str) -> bool:
    """Whether what is said to this address stays between us: https, or http on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or "@" in parts.netloc or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)


def signature(keys: Sequence[bytes], id: str, at_s: int, body: bytes) -> str:
    """The `webhook-signature` header: one `v1,` signature for each key."""
    signed = f"{id}.{at_s}.".encode() + body
    made = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    return " ".join(f"v1,{text}" for text in made)


class Webhook:
    """The `Hook` port: one address and the keys that sign for it."""

    def __init__(self, url: str, keys: Sequence[bytes], *, timeout_s: float = 10.0) -> None:
        check_url(url)
        self._url = url
        self._keys = tuple(keys)
        self._timeout = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def post(self, id: str, body: bytes, content_type: str, at_s: int) -> Posted:
        """Send it; raises `UpstreamUnavailable` when no answer comes in time."""
        headers = {
            "content-type": content_type,
            "user-agent": f"checkrein/{__version__}",
            "webhook-id": id,
            "webhook-timestamp": str(at_s),
        }
        if self._keys:
            headers["webhook-signature"] = signature(self._keys, id, at_s, body)
        session = self._open()
        try:
            async with asyncio.timeout(self._timeout):
                async with session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                    await answer.content.read(_ANSWER_BYTES)
                    return Posted(answer.status, _seconds(answer.headers.get("retry-after", "")))
        # `from None`: the client's errors may carry the address and the headers
        except TimeoutError:
            raise UpstreamUnavailable(f"gave no answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamUnavailable(f"cannot be reached: {type(error).__name__}") from None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


def _seconds(text: str) -> float:
    """`Retry-After` in seconds; a date, which few send, counts as nothing."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0
