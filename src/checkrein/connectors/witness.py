"""The way to a C2SP tlog-witness over HTTP: one POST a checkpoint, no redirect, no proxy, nothing of ours but that."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

from checkrein import __version__
from checkrein.model import UpstreamUnavailable

#: a longer answer is nobody's cosignatures
_MAX_ANSWER = 65_536
_TIMEOUT_S = 10.0


class HttpWitness:
    """`url` is the submission prefix, checked before: `https://witness.example/prefix`."""

    def __init__(self, name: str, url: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._name = name
        self._url = urlsplit(url)
        self._timeout_s = timeout_s

    def add_checkpoint(self, body: bytes) -> tuple[int, str]:
        """See `services.witness.Reached`."""
        secure = self._url.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=self._timeout_s)
        try:
            headers = {"content-type": "text/plain; charset=utf-8", "user-agent": f"checkrein/{__version__}"}
            connection.request("POST", f"{self._url.path.rstrip('/')}/add-checkpoint", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_MAX_ANSWER).decode("utf-8")
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
            raise UpstreamUnavailable(
                f"the witness `{self._name}` cannot be reached: {type(error).__name__}",
                hint="check its `url` in checkrein.toml; it is asked again",
            ) from error
        finally:
            connection.close()
