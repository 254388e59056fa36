"""Whatever is typed: a clear line, a next step, the right exit code, never a traceback, and nothing written."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

BROKEN_CEDAR = """@id("ok") @owner("x") @reason("y")
permit (principal, action in Action::"llm", resource);

@id("open") @owner("x") @reason("y")
permit (principal, action, resource
"""

#: a transcript: command lines, run in a folder where these stand, with what they say and how they end
COMMANDS = """
decide nope.json
decide .
decide broken.json
decide twice.json
decide list.json
decide members.json
decide types.json
decide deep.json
decide huge.json
decide latin.json
decide read.json --dir nowhere
decide read.json --dir empty
decide read.json --dir unknown-field
decide read.json --dir broken-toml
decide read.json --dir broken-cedar
decide read.json --dir bad-manifest
decide read.json --data read.json
decide read.json --data read.json/store
decide read.json --dry-run --dir broken-cedar
decide
decide read.json -o yaml
check nowhere
check empty
check unknown-field
check broken-toml
check broken-cedar
check bad-manifest
check bad-manifest -o json
test nowhere
test broken-cedar
init .
init read.json
init read.json/governance
init /proc/governance
serve --port 99999
serve --port none
serve --host no.such.host.invalid --port 0
serve --dir no-credential --port 0
serve --dir missing-key-file --port 0
serve --dir unknown-field
serve --dir broken-cedar
approvals list --dir nowhere
approvals list --state soon
approvals show apr_none
approvals approve apr_none
approvals approve apr_none --as mallory
approvals approve apr_none --as bob
approvals deny apr_none --as bob
audit list --dir nowhere
audit list --outcome maybe
audit list --risk blue
audit list --limit 0
audit show 999
audit show rec_none
audit verify --dir nowhere
audit verify --key nope.pub
audit verify --key empty.pub
audit export --to nowhere/ledger.jsonl
audit export --to .
audit export --format xml
activity --dir nowhere
keys create ' '
keys create bot --can fly
keys create bot --can ,
keys create bot --expires soon
keys create bot --dir nowhere
keys revoke key_none
frobnicate
""".strip().splitlines()


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch, cli: Run) -> Path:
    """The working folder of the transcript: a governance folder with a store, and all kinds of wrong things in it."""
    files: dict[str, bytes] = {
        "read.json": b'{"subject":{"type":"user","id":"alice"},"action":{"name":"read_file","properties":{"input":'
        b'{"path":"a"}}},"resource":{"type":"tool","id":"read_file"}}',
        "broken.json": b'{\n  "subject": {"type": "user",\n}',
        "twice.json": b'{"subject": 1, "subject": 2}',
        "list.json": b"[]",
        "members.json": b'{"subject": {"type": "user", "id": "alice"}, "action": {"name": "read_file"}}',
        "types.json": b'{"subject": {"type": "user", "id": 7}, "action": {"name": "x"}, "resource": {}}',
        "deep.json": b'{"a":' * 5000 + b"1" + b"}" * 5000,
        "huge.json": b" " * (8 * 1024 * 1024 + 1),
        "latin.json": '{"subject": "\u00e9"}'.encode("latin-1"),
        "empty.pub": b"",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "empty").mkdir()
    good = (folder / "checkrein.toml").read_text()
    upstream = '[upstreams.a]\nbase_url = "http://127.0.0.1:9/v1"\n'
    for name, toml in {
        "unknown-field": "[server]\nprot = 9000\n",
        "broken-toml": 'environment = "test"\n[server\nport = 1\n',
        "broken-cedar": good,
        "bad-manifest": good,
        "no-credential": upstream + 'api_key_env = "NO_SUCH_VARIABLE"\n',
        "missing-key-file": upstream + 'api_key_file = "nowhere/key"\n',
    }.items():
        (folder / name / "policies").mkdir(parents=True)
        (folder / name / "checkrein.toml").write_text(toml)
        policy = folder / "policies/main.cedar"
        (folder / name / "policies/main.cedar").write_text(policy.read_text())
        (folder / name / "tools.yaml").write_text((folder / "tools.yaml").read_text())
    (folder / "broken-cedar/policies/main.cedar").write_text(BROKEN_CEDAR)
    (folder / "bad-manifest/policies/main.cedar").write_text('@id("p") permit (principal, action, resource);\n')
    (folder / "bad-manifest/tools.yaml").write_text("tools:\n  read_file:\n    effects: [reed]\n")
    monkeypatch.chdir(folder)
    assert cli("keys", "create", "first").code == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder outside stores, and the checkpoint of its own store, which covers every record."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".checkrein" not in path.parts]
    return {str(path): path.read_bytes() for path in [*files, folder / ".checkrein/checkpoint"]}


def test_every_error_is_as_it_was_read_last(place: Path, cli: Run, golden: Callable[[str, str], None]) -> None:
    cli("decide", "read.json")  # whatever the first decision writes is written
    before = contents(place)
    told = []
    for line in COMMANDS:
        ran = cli(*shlex.split(line))
        assert ran.code != 0, line
        told.append(f"$ checkrein {line}\n{ran.out}{ran.err}[exit {ran.code}]\n")
        assert contents(place) == before, line
    golden("bad-input", "\n".join(told))


@pytest.mark.parametrize("line", ["decide deep.json", "check broken-cedar", "serve --dir no-credential --port 0"])
def test_a_process_of_its_own_ends_just_so(line: str, place: Path, cli: Run, spawn: Run) -> None:
    assert spawn(*line.split()) == cli(*line.split())


def test_a_port_in_use_is_named_and_nothing_is_served(place: Path, cli: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = cli("serve", "--port", port)
    assert ran.code == 2
    assert f"error: `127.0.0.1:{port}` is in use\nhint: stop the program that holds it" in ran.err


@pytest.fixture
def locked(place: Path) -> Iterator[Path]:
    """A folder that nobody may write to."""
    path = place / "locked"
    path.mkdir(mode=0o500)
    yield path
    path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is locked for root; /proc stands for it in the transcript")
@pytest.mark.parametrize(
    "line", ["init locked/governance", "decide read.json --data locked/store", "audit export --to locked/x"]
)
def test_a_folder_that_is_not_writable_is_named(line: str, locked: Path, cli: Run) -> None:
    ran = cli(*line.split())
    assert ran.code in (1, 2)
    assert "permission denied" in ran.err
    assert "hint: " in ran.err


def test_init_takes_back_what_it_wrote_when_the_rest_cannot_be_written(tmp_path: Path, cli: Run) -> None:
    (tmp_path / "policies").write_text("in the way")
    ran = cli("init", tmp_path)
    assert ran.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["policies"]


def test_init_never_writes_through_a_link(tmp_path: Path, cli: Run) -> None:
    target = tmp_path / "governance"
    target.mkdir()
    (target / "tools.yaml").symlink_to(tmp_path / "elsewhere")
    assert cli("init", target).code == 2
    assert not (tmp_path / "elsewhere").exists()


def test_init_keeps_a_gitignore_of_ones_own_and_says_so(tmp_path: Path, cli: Run) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    ran = cli("init", tmp_path)
    assert ran.code == 0
    assert "your .gitignore was kept" in ran.err
    assert (tmp_path / ".gitignore").read_text() == "mine\n"
