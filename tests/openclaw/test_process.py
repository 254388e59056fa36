"""Starting and stopping, with a stand-in for the gateway: a fake that answers `/readyz`."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from checkrein.connectors.openclaw_home import Folder, Home
from checkrein.connectors.openclaw_process import GatewayProcess
from checkrein.model import CheckreinError, ConfigError

FAKE = """
import http.server, os, sys
print("starting", flush=True)
{first}
class Fake(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", {port}), Fake).serve_forever()
"""


def _gateway(tmp_path: Path, first: str = "", **times: float) -> GatewayProcess:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    entry = tmp_path / "fake_gateway.py"
    entry.write_text(FAKE.format(first=first, port=port))
    home = Home(gateway="g", url="http://127.0.0.1:1", port=port, node=sys.executable, entry=str(entry), model="m")
    folder = Folder(tmp_path / "home")
    folder.write(home, "crk_key")
    return GatewayProcess(folder, home, **times)


def test_inside_it_is_ready_and_outside_it_is_gone(tmp_path: Path) -> None:
    with _gateway(tmp_path) as gateway:
        assert gateway.running()
        port = int(gateway.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):
            pass
    assert not gateway.running()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_one_that_ends_at_once_says_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(CheckreinError, match="ended with status 3: no disk"):
        _gateway(tmp_path, "print('no disk', flush=True); os._exit(3)").start()


def test_one_that_is_never_ready_is_stopped(tmp_path: Path) -> None:
    gateway = _gateway(tmp_path, "import time; time.sleep(60)", ready_s=0.5)
    with pytest.raises(CheckreinError, match="not ready within"):
        gateway.start()
    assert not gateway.running()


def test_one_that_does_not_listen_to_sigterm_is_killed(tmp_path: Path) -> None:
    gateway = _gateway(tmp_path, "import signal; signal.signal(15, signal.SIG_IGN)", stop_s=0.3)
    with gateway:
        pass
    assert not gateway.running()


def test_a_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    gateway = _gateway(tmp_path)
    with gateway, pytest.raises(ConfigError, match="listens on port"):
        GatewayProcess(gateway._folder, gateway._home).start()
