"""Walk the whole log once and say whether it is what was written, naming the first record that is not.

A record is right when its bytes are canonical and say the same as the columns beside them, its number follows
the one before, its time does not fall, its hash is the hash of its bytes, and, if it starts an execution, an
earlier decision of the same trace let it run. The log is right when the tree over all records has the stored
head, and when the tree as it was at the signed checkpoint has the signed root. The head lies beside the
records and whoever can change one can change the other; only the checkpoint, signed and kept apart, tells a
rewritten log from the first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

import msgspec

from checkrein.ledger import checkpoint as notes
from checkrein.ledger.record import Facets, Record, decode, facets
from checkrein.ledger.tree import Frontier, Head, leaf_hash
from checkrein.model import LedgerInvalid

#: a walk through a ruined log stops listing problems here, not looking
MAX_PROBLEMS = 20
#: decisions that may run, remembered for the starts to come; older ones are looked up
WINDOW = 4096
_RUNS = ("allow", "allow_with_redaction")


class Entry(msgspec.Struct, frozen=True):
    """A record as stored: its columns (believed only if the bytes say the same) and its claimed leaf hash."""

    record: Record
    facets: Facets
    leaf: bytes


class Snapshot(msgspec.Struct, frozen=True):
    """One consistent view of a stored log, for one walk.

    `checkpoint` is the signed note, read before the rest, or empty. `trail` are the leaf hashes kept outside
    the database, as far as they reach, to name a record that was changed together with its hash. `earlier`
    gives the records of a trace below a sequence number; without it the walk remembers every decision itself.
    """

    head: Head
    entries: Iterator[Entry]
    checkpoint: str = ""
    trail: Iterable[bytes] = ()
    earlier: Callable[[str, int], Iterable[Record]] | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk found. `checkpoint_size` is None when there was no checkpoint to compare with."""

    records: int
    root: bytes
    checkpoint_size: int | None = None
    first_bad: int | None = None
    problems: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for people."""
        if self.problems:
            return f"{self.records} records, {len(self.problems)} problems: {self.problems[0]}"
        if self.checkpoint_size is None:
            return f"{self.records} records verify, with no checkpoint to compare with"
        return f"{self.records} records verify; the checkpoint of {self.checkpoint_size} is signed and fits"

    def to_json(self) -> dict[str, object]:
        return {
            "ok": not self.problems,
            "records": self.records,
            "root": self.root.hex(),
            "checkpoint_size": self.checkpoint_size,
            "first_bad": self.first_bad,
            "problems": list(self.problems),
        }

    def require(self) -> Report:
        """The report itself; raises `LedgerInvalid` with the problems if there are any."""
        if self.problems:
            raise LedgerInvalid(
                f"the ledger does not verify: {self.problems[0]}",
                problems=self.problems,
                hint="stop writing, keep a copy of the data directory, and compare with a backup or an export",
            )
        return self


def examine(snapshot: Snapshot, *, vkey: str = "") -> Report:
    """Walk the log. Memory does not grow with it, unless `earlier` is missing.

    Without checkpoint and `vkey` the records are checked against the stored head alone, and `checkpoint_size`
    stays None. One without the other proves nothing and is a problem.
    """
    walk = _Walk(snapshot)
    signed = walk.signed_head(snapshot.checkpoint, vkey)
    at_checkpoint = Frontier().root if signed and signed.size == 0 else None
    tree = Frontier()
    for entry in snapshot.entries:
        walk.record(entry)
        tree = tree.append(entry.leaf)
        if signed and tree.size == signed.size:
            at_checkpoint = tree.root
    walk.head(tree.head, snapshot.head)
    if signed:
        walk.checkpoint(tree.size, signed, at_checkpoint)
    walk.end()
    return Report(
        records=tree.size,
        root=tree.root,
        checkpoint_size=signed.size if signed else None,
        first_bad=walk.first_bad,
        problems=tuple(walk.problems),
    )


class _Walk:
    """What is remembered from record to record, and the problems so far."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.problems: list[str] = []
        self.first_bad: int | None = None
        self._next = 0
        self._ts_us = 0
        self._earlier = snapshot.earlier
        self._allowed: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._trail = enumerate(snapshot.trail)
        self._differs: int | None = None

    def _bad(self, seq: int | None, problem: str) -> None:
        if seq is not None and self.first_bad is None:
            self.first_bad = seq
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def signed_head(self, text: str, vkey: str) -> Head | None:
        if not text or not vkey:
            if text or vkey:
                missing = "no public key to check the checkpoint with" if text else "no checkpoint for the public key"
                self._bad(None, f"there is {missing}")
            return None
        try:
            return notes.verify(text, vkey)
        except LedgerInvalid as error:
            self._bad(None, str(error))
            return None

    def record(self, entry: Entry) -> None:
        stored, seq = entry.record, entry.record.seq
        if seq != self._next:
            self._gap(seq)
        self._next = max(self._next, seq) + 1
        if self._differs is None and self._kept(seq) not in (None, entry.leaf):
            self._differs = seq
        if leaf_hash(stored.data) != entry.leaf:
            self._bad(seq, f"record {seq} was changed: its bytes do not have the stored hash")
        try:
            said, body = decode(stored.data)
        except ValueError as error:
            self._bad(seq, f"record {seq} is damaged: {error}")
            return
        if said != stored:
            self._bad(seq, f"record {seq} was moved or mislabelled: {_difference(said, stored)}")
        if facets(body) != entry.facets:
            self._bad(seq, f"record {seq} is mislabelled: it would be found under values it does not hold")
        if said.ts_us < self._ts_us:
            self._bad(seq, f"record {seq} is older than the record before it")
        self._ts_us = max(self._ts_us, said.ts_us)
        if said.kind == "decision":
            self._decided(said.trace_id, entry.facets)
        elif said.kind == "execution.started" and not self._may_start(said, entry.facets.evaluation):
            self._bad(seq, f"record {seq} starts an execution that no earlier decision of its trace allowed")

    def _gap(self, seq: int) -> None:
        if seq < self._next:
            self._bad(seq, f"record {seq} stands out of order, where {self._next} should")
        elif seq == self._next + 1:
            self._bad(self._next, f"record {self._next} is missing")
        else:
            self._bad(self._next, f"records {self._next} to {seq - 1} are missing")

    def _kept(self, seq: int) -> bytes | None:
        """The hash kept outside for this record, if it reaches that far; records are asked for in rising order."""
        return next((leaf for at, leaf in self._trail if at >= seq), None)

    def _decided(self, trace_id: str, found: Facets) -> None:
        if found.outcome in _RUNS:
            self._allowed[trace_id, found.evaluation] = None
            if self._earlier is not None and len(self._allowed) > WINDOW:
                self._allowed.popitem(last=False)

    def _may_start(self, started: Record, evaluation: str) -> bool:
        if (started.trace_id, evaluation) in self._allowed:
            return True
        for record in self._earlier(started.trace_id, started.seq) if self._earlier is not None else ():
            found = facets(record.body)
            if record.kind == "decision" and found.outcome in _RUNS and found.evaluation == evaluation:
                return True
        return False

    def head(self, walked: Head, stored: Head) -> None:
        if walked.size < stored.size:
            missing = f"the head names {stored.size} records but {walked.size} are stored"
            self._bad(walked.size, f"{missing}: the end of the log was cut off")
        elif walked.size > stored.size:
            extra = f"the head names {stored.size} records but {walked.size} are stored"
            self._bad(stored.size, f"{extra}: the others were added by somebody else")
        elif walked.root != stored.root:
            self._bad(None, "the tree over the stored records does not have the stored root")

    def checkpoint(self, records: int, signed: Head, root: bytes | None) -> None:
        if root is None:
            missing = f"the checkpoint covers {signed.size} records but {records} are stored"
            self._bad(records, f"{missing}: the end of the log was cut off")
        elif root != signed.root:
            covered = f"the first {signed.size} records do not have the root of the checkpoint"
            self._bad(None, f"{covered}: at least one was changed after it was signed")

    def end(self) -> None:
        """The hashes kept outside say where the log was changed, once the signed tree says that it was."""
        if self._differs is None:
            return
        if self.problems:
            self._bad(
                self._differs,
                f"record {self._differs} is the first whose hash differs from the one kept outside",
            )
        else:
            self._bad(None, f"the file of hashes is wrong at {self._differs}; the records themselves are as signed")


def _difference(said: Record, stored: Record) -> str:
    names = [
        name for name in ("seq", "id", "kind", "trace_id", "ts_us") if getattr(said, name) != getattr(stored, name)
    ]
    return ", ".join(f"`{name}` is not what its bytes say" for name in names)
