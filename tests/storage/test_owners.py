from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from checkrein.storage.owners import Owner, alive

CHILD = """
import sys; from pathlib import Path; from checkrein.storage.owners import Owner
owner = Owner(Path(sys.argv[1])); print(owner.token, flush=True); sys.stdin.read()
"""


def test_a_process_is_alive_until_it_closes(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "owners")
    assert alive(tmp_path / "owners", owner.token)
    owner.close()
    owner.close()
    assert not alive(tmp_path / "owners", owner.token)
    assert not list((tmp_path / "owners").iterdir())


def test_a_killed_process_is_dead_at_once_and_its_file_goes(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        token = child.stdout.readline().strip()
        assert alive(tmp_path, token)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert (tmp_path / token).exists()
    assert not alive(tmp_path, token)
    assert not (tmp_path / token).exists()


def test_a_token_is_never_used_as_a_path(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("")
    assert not alive(tmp_path / "owners", "../victim")
    assert (tmp_path / "victim").exists()
