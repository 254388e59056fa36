"""Looks through the records of a SQLite store in runs, with a process for each core when there are many.

A process reads its share of the file, checks it (`ledger.section`) and answers with one message for each
`SPAN` of numbers: its sections, with None in the place of one that somebody must look at. What no process
answers is done here. Started as a plain command, so that neither the threads nor the main module of the
program that verifies are copied.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import apsw
import msgspec

from checkrein.ledger.section import RUN, Section, section
from checkrein.storage.database import connect

#: numbers in one message
SPAN = 16 * RUN
#: below this many records starting processes costs more than it brings
MANY = 65_536
#: more would wait for the one that joins their answers
_MOST = 8
_LENGTH_BYTES = 4
_ROWS = (
    "SELECT seq, id, kind, trace_id, ts_us, data, user, agent, action, outcome, risk, approval, evaluation, leaf"
    " FROM record WHERE seq >= ? AND seq < ? ORDER BY seq"
)

_Helper = subprocess.Popen[bytes]
Runs = list[Section | None]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Runs)


def runs(connection: apsw.Connection, start: int, end: int) -> Runs:
    """The records `start` to `end` - 1 in sections of `RUN`; None where one of them is missing or in doubt."""
    made: Runs = []
    for low in range(start, end, RUN):
        high = min(low + RUN, end)
        try:
            rows = connection.execute(_ROWS, (low, high)).fetchall()
        except (apsw.Error, UnicodeDecodeError):
            rows = []
        whole = len(rows) == high - low and rows[0][0] == low
        made.append(section(rows) if whole else None)
    return made


@contextmanager
def walked(connection: apsw.Connection, database: Path, size: int) -> Iterator[Iterator[Runs]]:
    """The runs of the first `size` records, `SPAN` by `SPAN`."""
    count = min(_MOST, len(os.sched_getaffinity(0))) if size >= MANY and sys.executable else 1
    command = [sys.executable, "-m", __name__, str(database), str(size), str(count)]
    helpers = [_start([*command, str(at)]) for at in range(count if count > 1 else 0)]
    try:
        yield _joined(connection, size, helpers)
    finally:
        for helper in filter(None, helpers):
            helper.kill()
            helper.wait()
            if helper.stdout is not None:
                helper.stdout.close()


def _start(command: list[str]) -> _Helper | None:
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None  # its share is done here


def _joined(connection: apsw.Connection, size: int, helpers: list[_Helper | None]) -> Iterator[Runs]:
    for number, start in enumerate(range(0, size, SPAN)):
        end = min(start + SPAN, size)
        helper = helpers[number % len(helpers)] if helpers else None
        answer = _receive(helper.stdout) if helper else None
        expected = -(-(end - start) // RUN)
        yield answer if answer is not None and len(answer) == expected else runs(connection, start, end)


def _receive(pipe: IO[bytes] | None) -> Runs | None:
    """The next message, or None if the process has ended or does not speak our words."""
    length = pipe.read(_LENGTH_BYTES) if pipe else b""
    data = pipe.read(int.from_bytes(length, "big")) if pipe and len(length) == _LENGTH_BYTES else b""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError:
        return None


def main(database: str, size: str, count: str, mine: str) -> None:
    """One of the processes: every `count`-th span, from number `mine`."""
    gc.disable()  # what is made here has no circles, and looking for them would take a fifth of the time
    connection = connect(Path(database), reads_only=True)
    connection.execute("BEGIN")
    for start in range(int(mine) * SPAN, int(size), int(count) * SPAN):
        data = _encoder.encode(runs(connection, start, min(start + SPAN, int(size))))
        sys.stdout.buffer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
