"""Ids that nobody guesses and nobody has twice."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from checkrein.services import ids

FORKS = """
import os
from checkrein.services.ids import fresh
fresh("", 16)
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, fresh("", 16).encode())
    os._exit(0)
os.wait()
print(os.read(read, 100).decode() != fresh("", 16))
"""


@pytest.mark.parametrize("count", [0, 1, 12, 4095, 4096, 10_000])
def test_as_many_bytes_come_as_are_asked_for(count: int) -> None:
    for _ in range(3):
        assert len(ids.noise(count)) == count
        assert len(ids.fresh("evl_", count)) == 4 + 2 * count


def test_no_id_comes_twice_in_any_thread() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [each for ran in pool.map(lambda _: [ids.fresh("", 12) for _ in range(2000)], range(8)) for each in ran]
    assert len(set(made)) == 16_000


def test_a_forked_child_does_not_repeat_its_parent() -> None:
    forked = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=True)
    assert forked.stdout == "True\n"
