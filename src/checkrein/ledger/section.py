"""A run of records looked at together: the quick way to say that nothing is wrong with any of them.

`section` makes every check on a record that `verify` makes, on columns instead of one by one, and gives up at
the first doubt; who then must be named is for the slow way to find out. What a run cannot know by itself
(what came before it) stays in the `Section` for `verify` to join. A section is made where the rows are, maybe
in another process, and is small: 32 bytes a record and its decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Any

import msgspec

from checkrein.ledger.record import decode_all, found_under
from checkrein.ledger.rotation import KIND
from checkrein.ledger.tree import Frontier

#: records in one section: few enough to stay in the processor's cache, many enough to spread the cost of a call
RUN = 256
#: outcomes that let an execution start
RUNS = ("allow", "allow_with_redaction")

#: a row is: seq, id, kind, trace id, time, data, the seven facets in their order, leaf hash; what is empty is None
_FACETS = slice(6, 13)
_OUTCOME, _EVALUATION = 9, 12


class Section(msgspec.Struct, frozen=True):
    """Records `first` to `first + len(leaves) / 32 - 1`, each right in itself and after the one before it."""

    first: int
    #: the leaf hashes, joined
    leaves: bytes
    #: their tree by itself
    frontier: Frontier
    since_us: int
    until_us: int
    #: (trace id, evaluation id) of decisions that let an execution start
    allowed: list[tuple[str, str]]
    #: (seq, trace id, evaluation id) of starts whose decision does not stand in this section
    open: list[tuple[int, str, str]]


def section(rows: Sequence[Any]) -> Section | None:
    """The section of these rows, or None if any of them must be looked at by itself. At least one row."""
    seqs, ids, kinds, traces, times, datas, *_, leaves = zip(*rows, strict=True)
    first = seqs[0]
    if seqs != tuple(range(first, first + len(rows))) or {*map(type, datas)} != {bytes} or {*map(type, times)} != {int}:
        return None
    if leaves != tuple([sha256(b"\x00" + data).digest() for data in datas]):
        return None
    read = decode_all(datas)
    if read is None or any(before > after for before, after in pairwise(times)):
        return None
    if (
        [said.seq for said in read] != [*seqs]
        or [said.id for said in read] != [*ids]
        or [said.kind for said in read] != [*kinds]
        or [said.trace_id or None for said in read] != [*traces]
        or [said.ts_us for said in read] != [*times]
    ):
        return None
    allowed: dict[tuple[str, str], None] = {}
    unknown: list[tuple[int, str, str]] = []
    for said, row in zip(read, rows, strict=True):
        if found_under(said.body) != row[_FACETS]:
            return None
        if said.kind == "decision":
            if row[_OUTCOME] in RUNS:
                allowed[said.trace_id, row[_EVALUATION] or ""] = None
        elif said.kind == "execution.started":
            key = (said.trace_id, row[_EVALUATION] or "")
            if key not in allowed:
                unknown.append((said.seq, *key))
        elif said.kind == KIND:
            return None  # who may sign next is nothing to look at in passing
    return Section(
        first, b"".join(leaves), Frontier().extend(leaves), times[0], times[-1], list(allowed), unknown
    )  # fmt: skip
