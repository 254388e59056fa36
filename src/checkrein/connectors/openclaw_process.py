"""Starts an OpenClaw Gateway, waits until it is ready, stops it."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from checkrein.connectors.openclaw_home import Folder, Home, environment
from checkrein.connectors.openclaw_runtime import Runtime
from checkrein.model import CheckreinError, ConfigError

#: the first start of a version takes longest
READY_S = 120.0
#: the gateway lets open runs end; after this it is killed
STOP_S = 20.0
_LOG_BYTES = 4000


class GatewayProcess:
    """One gateway as a process of ours; a context manager that is ready inside and gone outside."""

    def __init__(self, folder: Folder, home: Home, *, ready_s: float = READY_S, stop_s: float = STOP_S) -> None:
        self._folder = folder
        self._home = home
        self._ready_s = ready_s
        self._stop_s = stop_s
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{home.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and return when it takes requests; raises `CheckreinError` with the end of its log."""
        runtime = Runtime(Path(self._home.node), Path(self._home.entry))
        if _answers(self._home.port):
            raise ConfigError(
                f"something listens on port {self._home.port} already",
                hint="stop it, or run `checkrein openclaw setup` with another `--port`",
            )
        with os.fdopen(os.open(self._folder.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log:
            self._process = subprocess.Popen(
                runtime.command("gateway", "run"),
                cwd=self._folder.workspace,
                env=environment(self._folder, runtime.node),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is ours to pass on
            )
        try:
            self._until_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_s: float) -> int | None:
        """The exit status when the gateway ends within `timeout_s`, else None."""
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for all of it when that does not help. A second call does nothing."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(self._stop_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _until_ready(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + self._ready_s
        while time.monotonic() < end:
            if process.poll() is not None:
                raise CheckreinError(
                    f"the gateway ended with status {process.returncode}: {self._last_words()}",
                    hint=f"its log is {self._folder.log}",
                )
            if _is_ready(self._home.port):
                return
            time.sleep(0.2)
        raise CheckreinError(
            f"the gateway was not ready within {self._ready_s:g} s", hint=f"its log is {self._folder.log}"
        )

    def _last_words(self) -> str:
        lines = self._folder.log.read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace").strip().splitlines()
        text = lines[-1] if lines else "it said nothing"
        return "".join(char for char in text if char.isprintable())[:300]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
