"""A client of a running Checkrein, with nothing but the standard library below it.

`CHECKREIN_API_URL` and `CHECKREIN_API_KEY` are read from the environment, then from `.env` in this folder. It
follows no redirect and uses no proxy: the key goes to the address that was given, and nowhere else.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from dotenv import dotenv_values

from checkrein.model import BadRequest, CheckreinError, ConfigError, UpstreamUnavailable
from checkrein.model.json import load_object

DEFAULT_URL = "http://127.0.0.1:8642"
#: a longer answer is not read: the page of records that `get_audit_logs` asks for is never this long
MAX_ANSWER_BYTES = 128 * 1024 * 1024

#: one call of `wait` lasts so long at most; longer than any approval lives
_POLL_S, _FOR_EVER_S = 25.0, 10 * 366 * 86_400.0
#: the share of the time-out for which an answer may wait for people
_PATIENCE = 0.8
#: a stream of events says that it lives every 15 seconds; no line of it is longer
_BEAT_S, _MAX_LINE_BYTES = 45.0, 1024 * 1024


class HttpError(CheckreinError):
    """Checkrein answered with an error; `status` is the HTTP status and `body` the parsed answer, if it was JSON."""

    def __init__(self, message: str, *, status: int, body: dict[str, Any], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.body = body


class Client:
    """Ask a running Checkrein. One connection a call; safe to share between threads.

    `timeout` is in seconds, for each step: connecting, and every wait for bytes. Raises `ConfigError` for an
    address or a key that cannot be used.
    """

    def __init__(self, api_url: str = "", api_key: str = "", *, timeout: float = 60.0) -> None:
        self._url = address(api_url or _setting("CHECKREIN_API_URL") or DEFAULT_URL)
        self._key = (api_key or _setting("CHECKREIN_API_KEY")).strip()
        self._timeout = timeout
        if not self._key:
            raise ConfigError("no api key", hint="set CHECKREIN_API_KEY; in Python, `api_key=` does too")
        if not self._key.isascii() or not self._key.isprintable():
            raise ConfigError("the api key holds characters that no key has", hint="copy it again: `crk_...`")

    def submit_request(self, request: Mapping[str, object], *, idempotency_key: str = "") -> dict[str, Any]:
        """Submit one request and return the answer.

        In AuthZEN form (`subject`, `action`, `resource`) it is decided and recorded. With `messages`, or `prompt`
        as a short form, it is a chat completion that is governed and run, and the answer has its members too.
        Every answer has `decision` (true or false) and `context` with `outcome`, `risk` and `trace_id`: a denial,
        or a wait for people, is an answer and not an exception.

        Sent again under the same `idempotency_key`, what ran before does not run again, and the answer is the same.

        Raises `HttpError` for any other answer, `UpstreamUnavailable` when none came, `BadRequest` for what cannot
        be sent.
        """
        if not isinstance(request, Mapping):
            raise BadRequest("the request is not a dict", hint='pass `{"prompt": "..."}` or the AuthZEN form')
        if request.keys() & {"subject", "action", "resource"}:
            return self.call("POST", "/access/v1/evaluation", request, idempotency_key)
        try:
            answer = self.call("POST", "/v1/chat/completions", _chat(request), idempotency_key)
        except HttpError as error:
            details = error.body.get("error")
            context = details.get("checkrein") if isinstance(details, dict) else None
            if error.status != 403 or context is None:
                raise
            return {"decision": False, "context": context}
        return {**answer, "decision": True}

    def wait(self, approval_id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Wait until people have settled an approval; its `state` is then `approved`, `denied`, `expired` or another.

        It is `pending` when `timeout` seconds were not enough. An approved request still has to be submitted again: it
        is decided afresh, and runs once.
        """
        until = time.monotonic() + (_FOR_EVER_S if timeout is None else timeout)
        path = f"/api/v1/approvals/{quote(approval_id, safe='')}"
        while True:
            left = until - time.monotonic()
            wait_s = max(0, min(left, _POLL_S, self._timeout * _PATIENCE))
            approval = self.call("GET", f"{path}?wait={int(wait_s) or int(wait_s > 0)}")
            if approval["state"] != "pending" or left <= wait_s:
                return approval

    def get_audit_logs(
        self,
        *,
        user: str = "",
        agent: str = "",
        action: str = "",
        outcome: str = "",
        risk: str = "",
        trace_id: str = "",
        approval: str = "",
        policy: str = "",
        kind: str = "",
        since: str = "",
        until: str = "",
        after_seq: int = -1,
        oldest_first: bool = False,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Ledger records, newest first. An empty filter filters nothing; `kind` may name several, with commas.

        `since` and `until` are times such as `2026-01-15T10:00:00Z`, or `2h` for two hours ago.
        At most 1000 at once: for more, ask `oldest_first` and go on with the last `seq` as `after_seq`.
        """
        given = {"user": user, "agent": agent, "action": action, "outcome": outcome, "risk": risk}
        given |= {"approval": approval, "policy": policy, "since": since, "until": until}
        given |= {"trace_id": trace_id, "kind": kind, "order": "asc" if oldest_first else "", "limit": str(limit)}
        given |= {"after_seq": str(after_seq)} if after_seq >= 0 else {}
        query = urlencode({name: value for name, value in given.items() if value})
        return cast("list[dict[str, Any]]", self.call("GET", f"/api/v1/audit/records?{query}")["records"])

    def get_activities(self, user_id: str = "", *, limit: int = 100) -> list[dict[str, Any]]:
        """What happened, one row an action, newest first."""
        query = urlencode({"limit": limit, "user": user_id})
        return cast("list[dict[str, Any]]", self.call("GET", f"/api/v1/activities?{query}")["activities"])

    def events(self, after: int = -1, *, form: str = "") -> Iterator[tuple[int, str, dict[str, Any]]]:
        """What happens to approvals, as it happens: the id of each event, its kind, and what is told of it.

        From now on, or after the event with this id. The server ends the stream after a while, and a connection may
        break (`UpstreamUnavailable`): call it again with the last id, and nothing is left out. The first event is
        `sync` where nobody knows what was before. Raises `HttpError` as `submit_request`.
        """
        headers = {"accept": "text/event-stream", **({"last-event-id": str(after)} if after >= 0 else {})}
        path = "/api/v1/approvals/events?" + urlencode({"form": form} if form else {})
        with self._sent("GET", path, None, headers, patience_s=max(self._timeout, _BEAT_S)) as response:
            if response.status != 200:
                raise _error(response.status, _whole(response))
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise self._stranger(response.status)
            found: dict[str, str] = {}
            while line := response.readline(_MAX_LINE_BYTES):
                name, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
                if name or value:  # a comment has no name; an empty line ends an event
                    found[name] = value.removeprefix(" ")
                elif {"id", "event", "data"} <= found.keys():
                    yield self._event(found)
                    found = {}

    def _event(self, found: Mapping[str, str]) -> tuple[int, str, dict[str, Any]]:
        try:
            return int(found["id"]), found["event"], load_object(found["data"])
        except (ValueError, BadRequest) as error:
            raise self._stranger(200) from error

    def call(
        self, method: str, path: str, body: Mapping[str, object] | None = None, idempotency_key: str = ""
    ) -> dict[str, Any]:
        """Any route: JSON goes there and comes back. Raises as `submit_request`."""
        if not idempotency_key.isascii() or not idempotency_key.isprintable():
            raise BadRequest("the idempotency key is not printable ASCII", hint="use a UUID")
        data = _encode(body) if body is not None else None
        status, headers, text = self._exchange(method, path, data, idempotency_key)
        if not 200 <= status < 300:
            raise _error(status, text)
        try:
            answer = load_object(text)
        except BadRequest as error:
            raise self._stranger(status) from error
        if path.startswith("/v1/"):
            if "x-checkrein-outcome" not in headers:
                raise self._stranger(status)
            answer["context"] = {
                "outcome": headers["x-checkrein-outcome"],
                "risk": {"level": headers.get("x-checkrein-risk", "")},
                "trace_id": headers.get("x-checkrein-trace-id", ""),
            }
        return answer

    def _exchange(
        self, method: str, path: str, data: bytes | None, idempotency_key: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of the answer; raises `UpstreamUnavailable` when there is none."""
        # it is not held longer than we listen
        headers = {"content-type": "application/json", "prefer": f"wait={int(self._timeout * _PATIENCE)}"}
        if idempotency_key:
            headers["idempotency-key"] = idempotency_key
        with self._sent(method, path, data, headers) as response:
            text = _whole(response)
            return response.status, {name.lower(): value for name, value in response.getheaders()}, text

    @contextlib.contextmanager
    def _sent(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str], patience_s: float = 0.0
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer, to be read in the block; what breaks there raises `UpstreamUnavailable` too. It waits for bytes
        for `patience_s`, if that is given."""
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=self._timeout)
        try:
            connection.connect()
            if patience_s:
                connection.sock.settimeout(patience_s)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", "") or type(error).__name__
            raise UpstreamUnavailable(
                f"`{self._url.geturl()}` cannot be reached: {str(why).lower()}", hint="start it with `checkrein serve`"
            ) from error
        try:
            with contextlib.suppress(ConnectionError):  # refused before all was sent: the answer says why
                authorized = {"authorization": f"Bearer {self._key}", **headers}
                connection.request(method, self._url.path + path, body=data, headers=authorized)
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise UpstreamUnavailable(
                f"no whole answer came from `{self._url.geturl()}`",
                hint="what was asked may have run all the same: `checkrein activity` shows it",
            ) from error
        finally:
            connection.close()

    def _stranger(self, status: int) -> HttpError:
        return HttpError(
            f"what answers at `{self._url.geturl()}` is not a Checkrein",
            status=status,
            body={},
            hint="give the address that `checkrein serve` prints",
        )


def _whole(response: http.client.HTTPResponse) -> bytes:
    """Its body, as far as we read any."""
    text = response.read(MAX_ANSWER_BYTES + 1)
    if response.length or len(text) > MAX_ANSWER_BYTES:
        raise http.client.HTTPException("cut off or too long")
    return text


def _chat(request: Mapping[str, object]) -> dict[str, object]:
    """The body of a chat completion; raises `BadRequest` for what this client would have to guess at."""
    body = dict(request)
    if "prompt" in body:
        if "messages" in body:
            raise BadRequest("both `prompt` and `messages` are given", hint="`prompt` is short for one user message")
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    if "messages" not in body:
        raise BadRequest(
            "the request has neither `action` nor `messages`", hint='pass `{"prompt": "..."}` or the AuthZEN form'
        )
    if body.get("stream"):
        raise BadRequest("an answer is not streamed here", hint="use an OpenAI client with this address and key")
    return {"model": "default", **body}


def _encode(body: Mapping[str, object]) -> bytes:
    try:
        return json.dumps(dict(body), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the request is not JSON: {error}", hint="pass text, numbers, lists and dicts") from error


def _error(status: int, text: bytes) -> HttpError:
    try:
        body: dict[str, Any] = load_object(text)
    except CheckreinError:
        body = {}
    error = body.get("error")
    inner = error.get("message") if isinstance(error, dict) else body.get("title")
    message = str(inner or text.decode("utf-8", "replace")[:500] or f"HTTP {status}")
    return HttpError(message, status=status, body=body, hint=str(body.get("detail", "")))


def address(
    text: str, hint: str = "set CHECKREIN_API_URL to an address such as `http://127.0.0.1:8642`"
) -> SplitResult:
    """The parsed address; it is not repeated in errors, since people write passwords into addresses."""
    try:
        url = urlsplit(text.strip().rstrip("/"))
        url.port  # noqa: B018 - raises when it is no number
    except ValueError as error:
        raise ConfigError("the api url is not an address", hint=hint) from error
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError("the api url is not an http(s) address", hint=hint)
    if "@" in url.netloc or url.query or url.fragment:
        raise ConfigError("the api url holds more than an address", hint=hint)
    if any(char.isspace() or not char.isprintable() or not char.isascii() for char in url.path):
        raise ConfigError("the path of the api url cannot be sent", hint=hint)
    return url


def _setting(name: str) -> str:
    if value := os.environ.get(name):
        return value
    try:
        return dotenv_values(".env", interpolate=False).get(name) or ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`.env` cannot be read: {error}", hint="make it a readable text, in UTF-8") from error
