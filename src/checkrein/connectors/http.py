"""The `Upstream` port over aiohttp: one configured server, its credential injected, its answer streamed.

What crosses is named here: two lists of headers, one each way. Everything else stays behind, above all the
caller's `Authorization` and `Cookie`, and hop-by-hop headers. No redirect is followed and no proxy is read
from the environment, so a request ends at the configured address or nowhere.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator, Collection, Mapping

import aiohttp
import msgspec
from yarl import URL

from checkrein import __version__
from checkrein.connectors.addresses import ForbiddenAddress, Network, Resolver, admits, networks, written_out
from checkrein.model import BadRequest, ConfigError, UpstreamUnavailable, UpstreamUnreachable
from checkrein.ports import Reply

#: what a caller's request may carry on to the upstream
REQUEST_HEADERS = frozenset({"accept", "content-type", "idempotency-key", "openai-beta", "traceparent", "tracestate"})
#: what an upstream's answer may carry back, besides `x-ratelimit-*`
REPLY_HEADERS = frozenset(
    {"content-type", "openai-processing-ms", "openai-version", "retry-after", "x-backend", "x-request-id"}
)

_PATH = re.compile(r"(?:/[A-Za-z0-9._~:@!$&'()*+,;=%-]*)+(?:\?[A-Za-z0-9._~:@!$&'()*+,;=%/?-]*)?")
_DOTS = re.compile(r"/(?:\.|%2[Ee]){1,2}(?:/|\?|$)")
# Servers commonly drop an idle connection after 5 s; ours must go first, or a POST meets a closed door.
_KEEPALIVE_S = 4.0
_ONE_WRITE = 256 * 1024
#: paths whose address is remembered
_URLS = 64


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. `connect` includes the wait for a free connection; `idle` is the longest silence in a body."""

    connect: float = 5.0
    first_byte: float = 300.0
    idle: float = 60.0
    total: float = 600.0


class HttpUpstream:
    """One server. A `/v1` that ends `base_url`, as OpenAI clients write it, is not repeated from the path.

    `credential` goes out in `credential_header`, as `Bearer ...` where that is `authorization`. Its name leads to
    public addresses or into `listed` networks. Connections belong to the event loop of the first request; `close` in
    that loop.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        credential: str = "",
        credential_header: str = "authorization",
        timeouts: Timeouts | None = None,
        max_connections: int = 512,
        listed: Collection[str] = (),
    ) -> None:
        self._name = name
        self._listed = networks(listed)
        self._base = _checked_base(name, base_url, self._listed)
        #: what every request carries, whatever its caller sends
        self._fixed = {
            # identity: the body must be readable as it arrives, to be decided and redacted
            "accept-encoding": "identity",
            "user-agent": f"checkrein/{__version__}",
            **_credential_headers(name, credential, credential_header),
        }
        self._timeouts = timeouts or Timeouts()
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        #: the address at each path that was asked for before
        self._urls: dict[str, URL] = {}

    @property
    def name(self) -> str:
        return self._name

    async def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """POST `body`; returns once the reply's headers are here. Raises `UpstreamUnavailable`."""
        return await self._request("POST", path, body, headers)

    async def get(self, path: str, headers: Mapping[str, str]) -> Reply:
        """GET, for lists such as `/v1/models`. Raises `UpstreamUnavailable`."""
        return await self._request("GET", path, None, headers)

    async def close(self) -> None:
        """Drop every connection; later requests raise `UpstreamUnavailable`. A second call does nothing."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        url, sent = self._url(path), self._outgoing(headers)
        if body is not None:
            sent.setdefault("content-type", "application/json")
        session = self._open()
        times = self._timeouts
        deadline = asyncio.get_running_loop().time() + times.total
        try:
            async with asyncio.timeout(min(times.first_byte, times.total)):
                response = await session.request(method, url, data=_payload(body), headers=sent, allow_redirects=False)
        # `from None`: aiohttp's errors carry the request's headers, and with them the credential
        except aiohttp.ConnectionTimeoutError:
            raise self._unreachable(f"accepted no connection within {times.connect:g} s") from None
        except TimeoutError:
            raise self._failure(
                f"did not begin to answer within {min(times.first_byte, times.total):g} s",
                "try again, or give it more time in `checkrein.toml`",
            ) from None
        except aiohttp.ClientConnectorCertificateError:
            raise self._failure("shows a certificate that does not verify", "mend its certificate") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, ForbiddenAddress):
                raise self._forbidden() from None
            raise self._unreachable("cannot be reached") from None
        except aiohttp.ClientResponseError:
            raise self._failure("did not answer in HTTP", "check that its `base_url` is an HTTP server") from None
        except (aiohttp.ClientError, OSError):
            raise self._failure("broke off before it answered", "look at its log; it may have run") from None
        if not 200 <= response.status < 600 or 300 <= response.status < 400:
            response.close()
            raise self._failure(
                f"answered with status {response.status}, which is not followed",
                "set its final address as `base_url` in `checkrein.toml`",
            )
        return _HttpReply(response, self, deadline)

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise self._failure("is closed", "open Checkrein again")
        if self._session is None:
            # aiohttp sets TCP_NODELAY on every connection. It times only the connecting here: it has one
            # timeout for reading, where the first byte and a silence in the body need different ones.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections, keepalive_timeout=_KEEPALIVE_S, resolver=Resolver(self._listed)
                ),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect),
                headers=self._fixed,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    def _url(self, path: str) -> URL:
        known = self._urls.get(path)
        if known is not None:
            return known
        if not _PATH.fullmatch(path) or _DOTS.search(path):
            raise BadRequest("the path cannot be sent to an upstream", hint="send an absolute path without dots")
        if self._base.endswith("/v1") and path.startswith("/v1/"):
            url = URL(self._base + path.removeprefix("/v1"), encoded=True)
        else:
            url = URL(self._base + path, encoded=True)
        if len(self._urls) < _URLS:
            self._urls[path] = url
        return url

    def _outgoing(self, headers: Mapping[str, str]) -> dict[str, str]:
        sent: dict[str, str] = {}
        for name, value in headers.items():
            lower = name.lower()
            if lower in REQUEST_HEADERS and lower not in self._fixed:
                if not (value.isascii() and value.isprintable()):
                    raise BadRequest(f"the header `{lower}` is not plain text", hint="send printable ASCII")
                sent[lower] = value
        return sent

    def _failure(self, what: str, hint: str) -> UpstreamUnavailable:
        return UpstreamUnavailable(f"the upstream `{self._name}` {what}", hint=hint)

    def _unreachable(self, what: str) -> UpstreamUnreachable:
        hint = f"check that it runs and that the `base_url` of `{self._name}` is right"
        return UpstreamUnreachable(f"the upstream `{self._name}` {what}", hint=hint)

    def _forbidden(self) -> UpstreamUnreachable:
        hint = f"if it is right, list the network: `networks` of `[upstreams.{self._name}]`"
        return UpstreamUnreachable(f"the name of the upstream `{self._name}` leads to no public address", hint=hint)


class _HttpReply:
    """`Reply` over one aiohttp response."""

    __slots__ = ("_deadline", "_response", "_upstream", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, upstream: HttpUpstream, deadline: float) -> None:
        self._response = response
        self._upstream = upstream
        self._deadline = deadline
        self.status = response.status
        self.headers: dict[str, str] = {}
        for name, value in response.headers.items():
            lower = name.lower()
            if lower in REPLY_HEADERS or lower.startswith("x-ratelimit-"):
                self.headers[lower] = value

    async def body(self) -> AsyncIterator[bytes]:
        content, idle = self._response.content, self._upstream._timeouts.idle
        clock = asyncio.get_running_loop().time
        try:
            while not content.at_eof():
                left = self._deadline - clock()
                if left <= 0:  # a flood never waits, so no timer would end it
                    raise TimeoutError
                chunk = content.read_nowait()
                if not chunk:
                    async with asyncio.timeout(min(idle, left)):
                        chunk = await content.readany()
                if chunk:
                    yield chunk
        except TimeoutError:
            what = "took too long to finish" if clock() >= self._deadline else f"sent nothing for {idle:g} s"
            raise self._upstream._failure(what, "try again, or give it more time in `checkrein.toml`") from None
        except (aiohttp.ClientError, OSError):
            raise self._upstream._failure("broke off in its answer", "look at its log; it may have run") from None
        finally:
            await self.close()

    async def close(self) -> None:
        if not self._response.closed:  # it is once all of it has come, and its connection serves others
            self._response.close()


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    # a large body goes out in pieces, so that others are served in between
    return io.BytesIO(body) if body is not None and len(body) > _ONE_WRITE else body


def _checked_base(name: str, base_url: str, listed: Collection[Network]) -> str:
    try:
        url = URL(base_url)
        sound = url.scheme in ("http", "https") and bool(url.host) and not (url.user or url.password)
        sound = sound and not (url.query_string or url.fragment) and url.port != 0
    except ValueError:
        sound = False
    if not sound:
        # the address itself stays out of the message: it may hold a password
        raise ConfigError(
            f"the `base_url` of the upstream `{name}` cannot be used",
            hint="write `http://host:port` or `https://host/v1`, without user, password or query",
        )
    host = url.host or ""
    if written_out(host) and not admits(host, host, listed):
        raise ConfigError(
            f"the `base_url` of the upstream `{name}` is a link-local address",
            hint=f"if it is right, list the network: `networks` of `[upstreams.{name}]`",
        )
    return str(url).rstrip("/")


def _credential_headers(name: str, credential: str, header: str) -> dict[str, str]:
    if not credential:
        return {}
    if not (credential.isascii() and credential.isprintable() and " " not in credential):
        raise ConfigError(f"the credential of the upstream `{name}` is not one plain word", hint="copy it again")
    if not re.fullmatch(r"[A-Za-z0-9-]+", header):
        raise ConfigError(f"`{header}` is not the name of a header", hint="write `authorization` or `x-api-key`")
    header = header.lower()
    return {header: f"Bearer {credential}" if header == "authorization" else credential}
