"""A small log, as a store would hand it to the verifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from checkrein.ledger import Draft, Head, Record
from checkrein.ledger.checkpoint import Signer
from checkrein.ledger.record import encode, facets
from checkrein.ledger.tree import leaf_hash, root_of
from checkrein.ledger.verify import Entry, Snapshot

BASE_US = 1_767_225_600_000_000


def drafts(count: int) -> list[Draft]:
    """A decision, the start and the end of its execution, again and again."""
    found: list[Draft] = []
    for at in range(count):
        trace = f"{at // 3:032x}"
        ids = {"evaluation_id": f"evl_{at // 3}"}
        decided = {"decision": {**ids, "outcome": "allow", "risk": {"level": "green", "score": 3}}}
        actor = {"actor": {"id": "alice", "agent": "bot", "type": "user"}, "action": {"name": "send_email"}}
        body = (decided, ids, {**ids, "status": "ok"})[at % 3]
        kind = ("decision", "execution.started", "execution.finished")[at % 3]
        found.append(Draft(kind, trace, {**actor, **body}))
    return found


def entry(draft: Draft, seq: int, ts_us: int) -> Entry:
    record = encode(draft, seq=seq, id=f"rec_{seq:032x}", ts_us=ts_us)
    return Entry(record, facets(draft.body), leaf_hash(record.data))


class Log:
    """Entries and a signer; `snapshot` is what a store with these rows would give."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = list(entries)
        self.signer = Signer(bytes(range(32)), "example.com/log")
        self.signed = self.head()

    def head(self) -> Head:
        return Head(len(self.entries), root_of(item.leaf for item in self.entries))

    def snapshot(self, *, head: Head | None = None, trail: Sequence[bytes] = ()) -> Snapshot:
        return Snapshot(
            head=head or self.signed, entries=iter(self.entries), checkpoint=self.signer.sign(self.signed), trail=trail
        )


@pytest.fixture
def make_log() -> Callable[[int], Log]:
    def make(count: int) -> Log:
        return Log([entry(draft, seq, BASE_US + seq) for seq, draft in enumerate(drafts(count))])

    return make


@pytest.fixture
def make_entry() -> Callable[[Draft, int, int], Entry]:
    return entry


@pytest.fixture
def relabel() -> Callable[..., Record]:
    """A record with other columns, its bytes untouched."""
    import msgspec

    return msgspec.structs.replace
