"""A client of a running Checkrein, with nothing but the standard library.

`CHECKREIN_API_URL` and `CHECKREIN_API_KEY` are read from the environment, then from `.env` in this folder.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

from dotenv import dotenv_values

from checkrein.model import CheckreinError, ConfigError, UpstreamUnavailable
from checkrein.model.json import load_object

DEFAULT_URL = "http://127.0.0.1:8642"


class HttpError(CheckreinError):
    """Checkrein answered with an error; `status` is the HTTP status and `body` the parsed answer."""

    def __init__(self, message: str, *, status: int, body: dict[str, Any], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.body = body


class Client:
    """Ask a running Checkrein. One connection a call; safe to share between threads."""

    def __init__(self, api_url: str = "", api_key: str = "", *, timeout: float = 60.0) -> None:
        self._url = urlsplit((api_url or _setting("CHECKREIN_API_URL") or DEFAULT_URL).rstrip("/"))
        self._key = api_key or _setting("CHECKREIN_API_KEY")
        self._timeout = timeout
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise ConfigError("the api url is not an http(s) address", hint="set CHECKREIN_API_URL")
        if not self._key:
            raise ConfigError("no api key", hint="set CHECKREIN_API_KEY, or pass `api_key=`")

    def submit_request(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Submit one request and return the answer.

        In AuthZEN form (`subject`, `action`, `resource`) it is decided and recorded. With `messages`, or `prompt`
        as a short form, it is a chat completion that is governed and run, and the answer has its members too.
        Every answer has `decision` (true or false) and `context` with `outcome`, `risk` and `trace_id`: a denial,
        or a wait for people, is an answer and not an exception.
        """
        if "action" in request:
            return self._call("POST", "/access/v1/evaluation", request)
        body = dict(request)
        if "prompt" in body:
            body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
        body.setdefault("model", "default")
        try:
            answer = self._call("POST", "/v1/chat/completions", body)
        except HttpError as error:
            details = error.body.get("error")
            context = details.get("checkrein") if isinstance(details, dict) else None
            if error.status != 403 or context is None:
                raise
            return {"decision": False, "context": context}
        return {**answer, "decision": True}

    def get_audit_logs(self, *, limit: int = 100, **filters: str) -> list[dict[str, Any]]:
        """Ledger records, newest first; filter by `user`, `agent`, `action`, `outcome`, `risk`, `trace_id`, `kind`."""
        query = urlencode({"limit": limit, **filters})
        return cast("list[dict[str, Any]]", self._call("GET", f"/api/v1/audit/records?{query}")["records"])

    def get_activities(self, user_id: str = "", *, limit: int = 100) -> list[dict[str, Any]]:
        """What happened, one row an action, newest first."""
        query = urlencode({"limit": limit, "user": user_id})
        return cast("list[dict[str, Any]]", self._call("GET", f"/api/v1/activities?{query}")["activities"])

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        secure = self._url.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=self._timeout)
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        data = json.dumps(body, allow_nan=False).encode() if body is not None else None
        try:
            connection.request(method, self._url.path + path, body=data, headers=headers)
            response = connection.getresponse()
            status, text = response.status, response.read()
            given = {name.lower(): value for name, value in response.getheaders()}
        except (OSError, http.client.HTTPException) as error:
            raise UpstreamUnavailable(
                f"`{self._url.geturl()}` cannot be reached", hint="start it with `checkrein serve`"
            ) from error
        finally:
            connection.close()
        if status >= 400:
            raise _error(status, text)
        answer = load_object(text)
        if "x-checkrein-outcome" in given:
            answer["context"] = {
                "outcome": given["x-checkrein-outcome"],
                "risk": {"level": given.get("x-checkrein-risk", "")},
                "trace_id": given.get("x-checkrein-trace-id", ""),
            }
        return answer


def _error(status: int, text: bytes) -> HttpError:
    try:
        body: dict[str, Any] = load_object(text)
    except CheckreinError:
        body = {}
    error = body.get("error")
    inner = error.get("message") if isinstance(error, dict) else body.get("title")
    message = str(inner or text.decode("utf-8", "replace")[:500] or f"HTTP {status}")
    return HttpError(message, status=status, body=body)


def _setting(name: str) -> str:
    return os.environ.get(name) or dotenv_values(".env", interpolate=False).get(name) or ""
