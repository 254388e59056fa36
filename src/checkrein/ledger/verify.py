"""Walk the whole log once and say whether it is what was written, naming the first record that is not.

A record is right when its bytes are canonical and say the same as the columns beside them, its number follows
the one before, its time does not fall, its hash is the hash of its bytes, and, if it starts an execution, an
earlier decision of the same trace let it run. The log is right when the tree over all records has the stored
head, and when the tree as it was at the signed checkpoint has the signed root. The head lies beside the
records and whoever can change one can change the other; only the checkpoint, signed and kept apart, tells a
rewritten log from the first.

Who may sign changes on the way: a rotation counts if both keys signed it for exactly the log that stands before it,
and a key that is known vouches for those before and after it (`rotation`). A checkpoint that a witness cosigned must
be a beginning of the log too.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice

import msgspec

from checkrein.ledger.checkpoint import COSIGNATURE, Checkpoint, Cosigned, VerifierKey
from checkrein.ledger.record import Facets, Record, decode, facets
from checkrein.ledger.rotation import KIND, Keys, Rotation
from checkrein.ledger.section import RUN, RUNS, Section, section
from checkrein.ledger.tree import HASH_BYTES, Frontier, Head, leaf_hash
from checkrein.model import ConfigError, LedgerInvalid

#: a walk through a ruined log stops listing problems here, not looking
MAX_PROBLEMS = 20
#: decisions that may run, remembered for the starts to come; older ones are looked up
WINDOW = 4096


class Entry(msgspec.Struct, frozen=True):
    """A record as stored: its columns (believed only if the bytes say the same) and its claimed leaf hash.

    `fault` says why the row is none that a store writes; nothing else of it but the number then counts.
    """

    record: Record
    facets: Facets
    leaf: bytes
    fault: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """One consistent view of a stored log, for one walk.

    `checkpoint` is the signed note, read before the rest, or empty. `trail` are the leaf hashes kept outside
    the database, as far as they reach, to name a record that was changed together with its hash. `earlier`
    gives the records of a trace below a sequence number; without it the walk remembers every decision itself.
    `parts` are the same records as `entries`, from a store that has looked through runs of them already: a
    `Section` where nothing is wrong, entries where one must look. `rotated` are the bytes of every rotation record,
    in order, so that the keys are known before the walk begins. `cosigned` are checkpoints that came back from
    witnesses.
    """

    head: Head
    entries: Iterable[Entry]
    checkpoint: str = ""
    trail: Iterable[bytes] = ()
    earlier: Callable[[str, int], Iterable[Record]] | None = None
    parts: Iterable[Section | Iterable[Entry]] | None = None
    rotated: Sequence[bytes] = ()
    cosigned: Sequence[Cosigned] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk found. `checkpoint_size` is None when there was no checkpoint to compare with.

    `witnessed` says of each witness asked for how many records it cosigned last.
    """

    records: int
    root: bytes
    checkpoint_size: int | None = None
    first_bad: int | None = None
    problems: tuple[str, ...] = ()
    witnessed: Mapping[str, int] = {}

    def summary(self) -> str:
        """One line for people."""
        if self.problems:
            return f"{self.records} records, {len(self.problems)} problems: {self.problems[0]}"
        if self.checkpoint_size is None:
            return f"{self.records} records verify, with no checkpoint to compare with"
        seen = "".join(f"; {name} cosigned {size}" for name, size in self.witnessed.items())
        waiting = self.records - self.checkpoint_size
        if not waiting:
            return f"{self.records} records verify, all of them under the signed checkpoint{seen}"
        under = f"{self.checkpoint_size} under the signed checkpoint"
        return f"{self.records} records verify: {under}, the newest {waiting} await the next one{seen}"

    def to_json(self) -> dict[str, object]:
        return {
            "ok": not self.problems,
            "records": self.records,
            "root": self.root.hex(),
            "checkpoint_size": self.checkpoint_size,
            "first_bad": self.first_bad,
            "problems": list(self.problems),
            "witnessed": dict(self.witnessed),
        }

    def with_problems(self, more: Iterable[str]) -> Report:
        """With further problems that a walk does not see."""
        return msgspec.structs.replace(self, problems=(*self.problems, *more))

    def require(self) -> Report:
        """The report itself; raises `LedgerInvalid` with the problems if there are any."""
        if self.problems:
            raise LedgerInvalid(
                f"the ledger does not verify: {self.problems[0]}",
                problems=self.problems,
                hint="stop writing, keep a copy of the data directory, and compare with a backup or an export",
            )
        return self


def examine(snapshot: Snapshot, *, vkey: str = "", witnesses: Iterable[VerifierKey] = ()) -> Report:
    """Walk the log. Memory does not grow with it, unless `earlier` is missing.

    `vkey` has one key a line. Without checkpoint and `vkey` the records are checked against the stored head alone,
    and `checkpoint_size` stays None. One without the other proves nothing and is a problem, and so is a witness that
    cosigned nothing.
    """
    walk = _Walk(snapshot, vkey, tuple(witnesses))
    try:
        for part in _parts(snapshot.entries) if snapshot.parts is None else snapshot.parts:
            if isinstance(part, Section):
                walk.section(part)
            else:
                for entry in part:
                    walk.record(entry)
    except LedgerInvalid as error:
        walk.unreadable(error)
    else:
        walk.end(snapshot.head)
    return Report(
        records=walk.tree.size,
        root=walk.tree.root,
        checkpoint_size=walk.signed.size if walk.signed else None,
        first_bad=walk.first_bad,
        problems=tuple(walk.problems),
        witnessed=walk.witnessed,
    )


def _parts(entries: Iterable[Entry]) -> Iterator[Section | Iterable[Entry]]:
    left = iter(entries)
    while run := list(islice(left, RUN)):
        made = None if any(entry.fault for entry in run) else section([_row(entry) for entry in run])
        yield made or run


def _row(entry: Entry) -> tuple[object, ...]:
    record = entry.record
    found = (text or None for text in msgspec.structs.astuple(entry.facets))
    place = (record.seq, record.id, record.kind, record.trace_id or None, record.ts_us)
    return (*place, record.data, *found, entry.leaf)


class _Trail:
    """The leaf hashes kept outside, read once from the first to the last."""

    def __init__(self, leaves: Iterable[bytes]) -> None:
        self._left = iter(leaves)
        self._at = 0

    def differs(self, first: int, leaves: bytes) -> int | None:
        """The first record whose hash, of these from `first`, is not the one kept; None where none is kept."""
        if first < self._at:
            return None  # out of order, which is a problem of its own
        deque(islice(self._left, first - self._at), maxlen=0)
        kept = b"".join(islice(self._left, len(leaves) // HASH_BYTES))
        self._at = first + len(leaves) // HASH_BYTES
        if leaves.startswith(kept):
            return None
        wrong = (at for at in range(0, len(kept), HASH_BYTES) if kept[at : at + HASH_BYTES] != leaves[at:][:HASH_BYTES])
        return first + next(wrong) // HASH_BYTES


class _Walk:
    """What is remembered from record to record, and the problems so far."""

    def __init__(self, snapshot: Snapshot, vkey: str, witnesses: tuple[VerifierKey, ...]) -> None:
        self.problems: list[str] = []
        self.first_bad: int | None = None
        self.witnessed: dict[str, int] = {}
        self.tree = Frontier()
        self._keys = _readable_keys(vkey, snapshot.rotated) if vkey else None
        self.signed = self._signed_head(snapshot.checkpoint)
        self._cosigned = self._cosigned_heads(snapshot.cosigned, witnesses)
        rotated = [rotation.head for rotation in self._keys.rotations] if self._keys else []
        heads = [*([self.signed] if self.signed else []), *(head for _, head in self._cosigned), *rotated]
        #: sizes at which the root is looked at, the next one last, and the roots so far
        self._sizes = sorted({head.size for head in heads if head.size}, reverse=True)
        self._roots = {0: self.tree.root}
        self._next = 0
        self._ts_us = 0
        self._earlier = snapshot.earlier
        self._allowed: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._trail = _Trail(snapshot.trail)
        self._differs: int | None = None

    def _bad(self, seq: int | None, problem: str) -> None:
        if seq is not None:
            self.first_bad = seq if self.first_bad is None else min(seq, self.first_bad)
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def _signed_head(self, text: str) -> Head | None:
        if not text or not self._keys:
            if text or self._keys:
                missing = "no public key to check the checkpoint with" if text else "no checkpoint for the public key"
                self._bad(None, f"there is {missing}")
            return None
        try:
            return self._keys.verify(text)
        except LedgerInvalid as error:
            self._bad(None, str(error))
            return None

    def _cosigned_heads(
        self, cosigned: Iterable[Cosigned], witnesses: tuple[VerifierKey, ...]
    ) -> list[tuple[str, Head]]:
        """What witnesses saw of this log, each with its name; notes for how many records those asked for stand."""
        found: list[tuple[str, Head]] = []
        if not self._keys:
            return found
        for kept in cosigned:
            try:
                witness = VerifierKey.parse(kept.vkey, COSIGNATURE)
                if not Checkpoint.parse(kept.note).signed_by([witness]):
                    raise LedgerInvalid(f"`{witness.origin}` has not signed it")
                found.append((witness.origin, self._keys.verify(kept.note)))
            except (LedgerInvalid, ConfigError) as error:
                self._bad(None, f"what a witness cosigned cannot be used: {error}")
                continue
            if witness in witnesses:
                self.witnessed[witness.origin] = found[-1][1].size
        for witness in witnesses:
            if witness.origin not in self.witnessed:
                self._bad(None, f"the witness `{witness.origin}` has cosigned nothing")
        return found

    def section(self, run: Section) -> None:
        """Records that are right in themselves; what is left is how they join those before."""
        if run.first != self._next:
            self._gap(run.first)
        if run.since_us < self._ts_us:
            self._bad(run.first, f"record {run.first} is older than the record before it")
        for seq, trace_id, evaluation in run.open:
            self._start(seq, trace_id, evaluation)
        for trace_id, evaluation in run.allowed:
            self._allow(trace_id, evaluation)
        self._ts_us = max(self._ts_us, run.until_us)
        self._next = max(self._next, run.first + run.frontier.size)
        self._grow(run.first, run.leaves, run.frontier)

    def record(self, entry: Entry) -> None:
        stored, seq = entry.record, entry.record.seq
        if seq != self._next:
            self._gap(seq)
        self._next = max(self._next, seq + 1)
        self._grow(seq, entry.leaf, Frontier(1, (entry.leaf,)))
        if entry.fault:
            self._bad(seq, f"record {seq} is damaged: {entry.fault}")
            return
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
        if said.kind == KIND:
            self._rotation(said)
        elif said.kind == "decision" and entry.facets.outcome in RUNS:
            self._allow(said.trace_id, entry.facets.evaluation)
        elif said.kind == "execution.started":
            self._start(seq, said.trace_id, entry.facets.evaluation)

    def _grow(self, first: int, leaves: bytes, frontier: Frontier) -> None:
        """The tree with these leaf hashes, and its root at the sizes to look at on the way."""
        size = self.tree.size
        while self._sizes and self._sizes[-1] <= size + frontier.size:
            at = self._sizes.pop()
            self._roots[at] = self.tree.extend(_hashes(leaves)[: at - size]).root
        try:
            self.tree = self.tree.join(frontier)
        except ValueError:  # after a gap the runs stand no longer where the tree has its nodes
            self.tree = self.tree.extend(_hashes(leaves))
        if self._differs is None:
            self._differs = self._trail.differs(first, leaves)

    def _rotation(self, record: Record) -> None:
        """A key changes hands here: as was said before the walk, and for the log as it was walked."""
        listed = {rotation.seq: rotation for rotation in self._keys.rotations} if self._keys else {}
        try:
            rotation = Rotation.read(record.data)
        except LedgerInvalid as error:
            self._bad(record.seq, str(error))
            return
        if self._keys and listed.get(record.seq) != rotation:
            self._bad(record.seq, f"record {record.seq} rotates a key that was not the log's, or was not to be found")
        elif self._keys and self._roots.get(rotation.head.size) != rotation.head.root:
            self._bad(record.seq, f"record {record.seq} rotates the key of a log with other records before it")

    def _gap(self, seq: int) -> None:
        if seq < self._next:
            self._bad(seq, f"record {seq} stands out of order, where {self._next} should")
        elif seq == self._next + 1:
            self._bad(self._next, f"record {self._next} is missing")
        else:
            self._bad(self._next, f"records {self._next} to {seq - 1} are missing")

    def _allow(self, trace_id: str, evaluation: str) -> None:
        self._allowed[trace_id, evaluation] = None
        if self._earlier is not None and len(self._allowed) > WINDOW:
            self._allowed.popitem(last=False)

    def _start(self, seq: int, trace_id: str, evaluation: str) -> None:
        if (trace_id, evaluation) in self._allowed:
            return
        for record in self._earlier(trace_id, seq) if self._earlier is not None else ():
            try:
                found = facets(record.body)
            except LedgerInvalid:
                continue  # a damaged decision allows nothing; it is named where it stands
            if record.kind == "decision" and found.outcome in RUNS and found.evaluation == evaluation:
                return
        self._bad(seq, f"record {seq} starts an execution that no earlier decision of its trace allowed")

    def unreadable(self, error: LedgerInvalid) -> None:
        """The walk ended early: the file itself is damaged where the next record should stand."""
        self._bad(self._next, f"record {self._next} cannot be read: {error}")

    def end(self, stored: Head) -> None:
        """All records were seen."""
        self._compare_head(self.tree.head, stored)
        if self.signed:
            self._compare_checkpoint(self.tree.size, self.signed, self._roots.get(self.signed.size))
        for name, head in self._cosigned:
            if self._roots.get(head.size) != head.root:
                self._bad(None, f"`{name}` cosigned {head.size} records that the log does not begin with")
        self._compare_trail()

    def _compare_head(self, walked: Head, stored: Head) -> None:
        if walked.size < stored.size:
            missing = f"the head names {stored.size} records but {walked.size} are stored"
            self._bad(walked.size, f"{missing}: the end of the log was cut off")
        elif walked.size > stored.size:
            extra = f"the head names {stored.size} records but {walked.size} are stored"
            self._bad(stored.size, f"{extra}: the others were added by somebody else")
        elif walked.root != stored.root:
            self._bad(None, "the tree over the stored records does not have the stored root")

    def _compare_checkpoint(self, records: int, signed: Head, root: bytes | None) -> None:
        if root is None:
            missing = f"the checkpoint covers {signed.size} records but {records} are stored"
            self._bad(records, f"{missing}: the end of the log was cut off")
        elif root != signed.root:
            covered = f"the first {signed.size} records do not have the root of the checkpoint"
            self._bad(None, f"{covered}: at least one was changed after it was signed")

    def _compare_trail(self) -> None:
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


def _readable_keys(vkey: str, rotated: Iterable[bytes]) -> Keys:
    """The keys as far as the rotations are right; the first that is not is named where it stands."""
    keys = Keys.of(vkey)
    with suppress(LedgerInvalid):
        for data in rotated:
            keys = keys.after(Rotation.read(data))
    return keys


def _hashes(joined: bytes) -> list[bytes]:
    return [joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)]


def _difference(said: Record, stored: Record) -> str:
    names = [
        name for name in ("seq", "id", "kind", "trace_id", "ts_us") if getattr(said, name) != getattr(stored, name)
    ]
    return ", ".join(f"`{name}` is not what its bytes say" for name in names)
