"""What stands beside the gateway in its benchmark: each is started before the same upstream, and forwards to it.

LiteLLM and Portkey are installed into environments of their own below `.venv`, the first time they are asked for
(`--rivals`). Only Checkrein decides, redacts and records; the others forward.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec

from benchmarks.processes import free_port, running
from checkrein.compose import open_system
from checkrein.defaults import write

LITELLM, PORTKEY = "litellm[proxy]==1.106.2", "@portkey-ai/gateway@1.15.2"
HOME = Path(".venv")


class Contender(msgspec.Struct, frozen=True):
    """`share` is the part of the requests that it is given: the slow ones would take all day."""

    name: str
    url: str
    headers: dict[str, str]
    pid: int = 0
    share: float = 1.0


@contextmanager
def direct(upstream: int) -> Iterator[Contender]:
    yield Contender("direct", f"http://127.0.0.1:{upstream}", {})


@contextmanager
def checkrein(upstream: int) -> Iterator[Contender]:
    """The default folder: decided, redacted, durably recorded, in both directions."""
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp) / "governance"
        write(folder)
        config = folder / "checkrein.toml"
        config.write_text(config.read_text() + f'\n[upstreams.bench]\nbase_url = "http://127.0.0.1:{upstream}/v1"\n')
        system = open_system(folder)
        _, secret = system.keys.create("bench", owner="bench", roles=("staff",), by="benchmark")
        system.close()
        port = free_port()
        command = [sys.executable, "-m", "checkrein", "serve", "--dir", str(folder), "--port", str(port)]
        with running(command, port) as pid:
            yield Contender("checkrein", f"http://127.0.0.1:{port}", {"authorization": f"Bearer {secret}"}, pid)


@contextmanager
def nginx(upstream: int) -> Iterator[Contender]:
    port = free_port()
    with tempfile.TemporaryDirectory() as temp:
        config = Path(temp) / "nginx.conf"
        config.write_text(
            f"daemon off; pid {temp}/pid; error_log /dev/null; worker_processes 1; events {{}}\n"
            f"http {{ access_log off; upstream model {{ server 127.0.0.1:{upstream}; keepalive 64; }}\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://model; proxy_buffering off;\n"
            'proxy_http_version 1.1; proxy_set_header Connection ""; } } }\n'
        )
        with running(["nginx", "-p", temp, "-c", str(config)], port) as pid:
            yield Contender("nginx", f"http://127.0.0.1:{port}", {}, pid)


@contextmanager
def litellm(upstream: int) -> Iterator[Contender]:
    home, port = HOME / "litellm", free_port()
    if not (home / "bin/litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
        subprocess.run([*pip, LITELLM], check=True)
    with tempfile.TemporaryDirectory() as temp:
        config = Path(temp) / "litellm.yaml"
        params = {"model": "openai/bench", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
        config.write_text(json.dumps({"model_list": [{"model_name": "bench", "litellm_params": params}]}))
        command = [str(home / "bin/litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
        key = f"sk-{secrets.token_hex(24)}"  # it does not start without one
        settings = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": key}
        with running(command, port, settings) as pid:
            yield Contender("litellm", f"http://127.0.0.1:{port}", {"authorization": f"Bearer {key}"}, pid, 0.05)


@contextmanager
def portkey(upstream: int) -> Iterator[Contender]:
    home, port = HOME / "portkey", free_port()
    start = home / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not start.exists():
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--no-fund", "--prefix", str(home), PORTKEY], check=True)
    headers = {
        "authorization": "Bearer none",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
    }
    with running(["node", str(start), f"--port={port}", "--headless"], port) as pid:
        yield Contender("portkey", f"http://127.0.0.1:{port}", headers, pid, 0.3)


Start = Callable[[int], AbstractContextManager[Contender]]


def chosen(*, rivals: bool) -> list[tuple[str, Start]]:
    """Who is measured, by name, and how each is started before an upstream's port."""
    found: list[Start] = [direct, checkrein]
    if shutil.which("nginx"):
        found.insert(1, nginx)
    if rivals:
        found.append(litellm)
        if shutil.which("npm"):
            found.append(portkey)
    return [(start.__name__, start) for start in found]
