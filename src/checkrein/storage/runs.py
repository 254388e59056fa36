"""Gate runs on disk: a header that says what the run is about, then a line for each answer, as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from checkrein.model import BadRequest
from checkrein.model.json import canonical
from checkrein.services.gates import Line


class RunFile:
    """The file of one run. One that is about something else is begun anew; a line that was cut off is asked again."""

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path = path
        header = canonical({"about": dict(about)})
        self.lines: dict[tuple[str, str], Line] = {}
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = path.read_bytes().splitlines() if path.exists() else []
        if not kept or kept[0] != header:
            path.write_bytes(header + b"\n")
            kept = []
        for text in kept[1:]:
            try:
                line = msgspec.json.decode(text, type=Line)
            except msgspec.MsgspecError:
                continue  # the last line of a run that was cut off
            self.lines[line.arm, line.answered.case] = line
        self._file = path.open("ab")

    def add(self, line: Line) -> None:
        self.lines[line.arm, line.answered.case] = line
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_run(path: Path) -> dict[tuple[str, str], Line]:
    """The answers in a run's file; raises `BadRequest`."""
    try:
        lines = path.read_bytes().splitlines()
        header = msgspec.json.decode(lines[0]) if lines else {}
        if not isinstance(header, dict) or "about" not in header:
            raise BadRequest(f"`{path}` is no gate run", hint="runs lie below `.checkrein/gates`")
        read = [msgspec.json.decode(line, type=Line) for line in lines[1:]]
    except (OSError, msgspec.MsgspecError) as error:
        raise BadRequest(f"`{path}` cannot be read as a gate run", hint="runs lie below `.checkrein/gates`") from error
    return {(line.arm, line.answered.case): line for line in read}
