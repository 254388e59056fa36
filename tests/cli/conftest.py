"""The command, in this process (`cli`) or in one of its own (`spawn`), and golden files for what it prints.

`CHECKREIN_UPDATE_GOLDEN=1 python -m pytest tests/cli` writes the golden files anew; read the diff before you keep it.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from checkrein.cli import main

GOLDEN = Path(__file__).parent / "golden"
UPDATE = os.environ.get("CHECKREIN_UPDATE_GOLDEN") == "1"
COMMAND = (sys.executable, "-m", "checkrein")
#: no process of these tests takes longer; each ends much sooner
PATIENCE_S = 60


class Ran(NamedTuple):
    """How a command ended, and what it printed where."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


def sound(ran: Ran) -> Ran:
    """The run itself, unless it ended in a way that nobody meant."""
    assert "Traceback" not in ran.err
    assert "checkrein itself failed" not in ran.err
    return ran


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("CHECKREIN_") or name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line through `main` in this process."""

    def run(*arguments: object, stdin: bytes = b"", **environment: str) -> Ran:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["checkrein", *map(str, arguments)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                main()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
        return sound(Ran(code, *capsys.readouterr()))

    return run


@pytest.fixture
def spawn() -> Run:
    """Run a command line in a process of its own."""

    def run(*arguments: object, stdin: bytes = b"", **environment: str) -> Ran:
        ended = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            env={**os.environ, **environment},
            timeout=PATIENCE_S,
            check=False,
        )
        return sound(Ran(ended.returncode, ended.stdout.decode(), ended.stderr.decode()))

    return run


class Serving(NamedTuple):
    """A server that runs: its process, its address, and what it said before it listened."""

    process: subprocess.Popen[str]
    url: str
    said: str


@pytest.fixture
def serving() -> Callable[..., Any]:
    """`checkrein serve` in a process of its own, on a free port, killed at the end if it still runs."""

    @contextmanager
    def serve(folder: Path, **environment: str) -> Iterator[Serving]:
        command = [*COMMAND, "serve", "--dir", str(folder), "--port", "0"]
        environ = {**os.environ, **environment}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ) as process:
            try:
                assert process.stderr is not None
                said, heard = "", process.stderr.readline()
                while "listening on " not in heard:
                    assert heard, f"it ended before it listened: {said}"
                    said, heard = said + heard, process.stderr.readline()
                yield Serving(process, heard.partition("listening on ")[2].partition(",")[0], said)
            finally:
                process.kill()

    return serve


def request(action: str = "read_file", user: str = "alice", **input: object) -> dict[str, Any]:
    """A request in AuthZEN's form."""
    return {
        "subject": {"type": "user", "id": user},
        "action": {"name": action, "properties": {"input": input or {"path": "notes.txt"}}},
        "resource": {"type": "tool", "id": action},
    }


MAIL = {"to": "press@example.com", "subject": "News", "body": "We are open."}


@pytest.fixture
def asking(tmp_path: Path) -> Callable[..., Path]:
    """A file with a request in it: `asking()` reads, `asking("send_email")` is reviewed, `asking("transfer_funds")`
    is denied."""
    inputs: dict[str, dict[str, object]] = {"send_email": MAIL, "transfer_funds": {"to": "ACME", "amount": 5}}

    def write(action: str = "read_file", user: str = "alice", **context: object) -> Path:
        path = tmp_path / f"{action}-{user}.json"
        path.write_text(json.dumps({**request(action, user, **inputs.get(action, {})), "context": context}))
        return path

    return write


@pytest.fixture
def golden(tmp_path: Path) -> Callable[[str, str], None]:
    """Compare with a golden file; what differs from run to run is named first."""

    def compare(name: str, text: str) -> None:
        for pattern, stands_for in (
            (re.escape(str(tmp_path)), "TMP"),
            (r"apr_[0-9a-f]{16}", "APPROVAL"),
            (r"key_[0-9a-f]{16}", "KEY"),
            (r"sha256:[0-9a-f]+", "DIGEST"),
            (r"[ \t]+$", ""),
        ):
            text = re.sub(pattern, stands_for, text, flags=re.MULTILINE)
        path = GOLDEN / f"{name}.txt"
        if UPDATE:
            path.write_text(text)
        assert path.exists(), f"golden/{path.name} is missing: run with CHECKREIN_UPDATE_GOLDEN=1, then read it"
        assert text == path.read_text(), "run with CHECKREIN_UPDATE_GOLDEN=1 if this is meant"

    return compare
