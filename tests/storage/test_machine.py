"""Any order of appends, crashes, restarts, checkpoints, rotations, holds, erasures and turns of the clock leaves one
ledger, as a list would, and of the payloads beside it just those that nobody erased."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from checkrein.ledger import Draft, Record
from checkrein.ledger.checkpoint import verify
from checkrein.ledger.record import mac
from checkrein.ledger.tree import leaf_hash, root_of
from checkrein.model import Request, StoreConflict, Subject
from checkrein.model.retention import Retention
from checkrein.ports import Held, Payload, RecordQuery, Row, Save, Unit
from checkrein.services.audit import Audit
from checkrein.services.evidence import growth
from checkrein.services.payloads import reference
from checkrein.services.privacy import Privacy
from checkrein.services.rotation import rotate
from checkrein.storage.files import DataDir
from checkrein.storage.scrub import scrub
from checkrein.storage.sqlite import SqliteStore
from checkrein.storage.vault import Vault
from crash.figures import DEEP

pytestmark = pytest.mark.timeout(1_200)
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
ALL = RecordQuery()


class Clock:
    us = 1_767_225_600_000_000

    def now_us(self) -> int:
        return self.us


class Everybody:
    """Facts: whoever asks is an auditor."""

    def roles(self, subject: Subject) -> tuple[str, ...]:
        return ("auditor",)

    def labels(self, request: Request) -> tuple[str, ...]:
        return ()


class Ledger(RuleBasedStateMachine):
    """Two stores on one data directory, as two processes would have it, and the list they must equal."""

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.folder = tempfile.TemporaryDirectory()
        self.lives = 0
        self.data = Path(self.folder.name) / "0"
        self.written: list[Record] = []
        self.versions: dict[str, int] = {}
        self.signed = 0
        #: of each record with a payload: whose it is, and whether it was erased
        self.payloads: dict[int, tuple[str, bool]] = {}
        self.held: set[str] = set()
        self.open()
        self.vkeys = [self.stores[0].files.vkey()]
        self.kept = [self.stores[0].checkpoint()]

    def open(self) -> None:
        self.stores = [
            SqliteStore(self.data, self.clock, checkpoint_every_s=3600, checkpoint_every=10**9) for _ in range(2)
        ]
        self.vaults = [Vault(store.files) for store in self.stores]
        self.key = self.stores[0].files.commitment_key()
        self.privacies = [
            Privacy(
                store,
                vault,
                self.clock,
                Everybody(),
                key=self.key,
                retention=Retention(),
                scrub=lambda: scrub(self.data / "ledger.db"),
            )
            for store, vault in zip(self.stores, self.vaults, strict=True)
        ]

    def close(self) -> None:
        for opened in (*self.vaults, *self.stores):
            opened.close()

    def take_over(self) -> None:
        """What a service wrote is in the list too from now on."""
        self.written.extend(self.stores[0].records(RecordQuery(after_seq=len(self.written) - 1)))

    @rule(who=st.integers(0, 1), kinds=st.lists(st.sampled_from(["a", "b"]), max_size=4), text=st.text(max_size=9))
    def append(self, who: int, kinds: list[str], text: str) -> None:
        text = text.encode("utf-8", "replace").decode()
        unit = Unit(tuple(Draft(kind, "", {"text": text}) for kind in kinds))
        self.written.extend(self.stores[who].commit(unit).result())

    @rule(who=st.integers(0, 1), units=st.integers(2, 40))
    def append_many_at_once(self, who: int, units: int) -> None:
        futures = [self.stores[who].commit(Unit((Draft("c", "", {"at": at}),))) for at in range(units)]
        self.written.extend(record for future in futures for record in future.result())

    @rule(who=st.integers(0, 1), id=st.sampled_from("xy"), expect=st.integers(0, 3))
    def move_a_row(self, who: int, id: str, expect: int) -> None:
        unit = Unit((Draft("moved", "", {"id": id}),), (Save(Row("box", id, expect + 1, "", "", b""), expect),))
        future = self.stores[who].commit(unit)
        if expect == self.versions.get(id, 0):
            self.written.extend(future.result())
            self.versions[id] = expect + 1
        else:
            assert isinstance(future.exception(), StoreConflict)

    @rule(by=st.sampled_from([-HOUR_US, -1, 0, 1, 1000, DAY_US]))
    def turn_the_clock(self, by: int) -> None:
        self.clock.us += by

    @rule()
    def crash(self) -> None:
        """Everything a process holds is gone; the files are what the next one finds."""
        self.lives += 1
        after = Path(self.folder.name) / str(self.lives)
        shutil.copytree(self.data, after)
        self.close()
        self.data = after
        self.open()

    @rule()
    def restart(self) -> None:
        self.close()
        self.signed = len(self.written)
        self.open()

    @rule()
    def sign_a_checkpoint(self) -> None:
        """Opening signs the head; somebody keeps what was signed."""
        SqliteStore(self.data, self.clock).close()
        self.signed = len(self.written)
        self.kept.append(self.stores[0].checkpoint())

    @rule(who=st.integers(0, 1), overlap_s=st.sampled_from([0, 1, 86_400]), keep=st.booleans())
    def rotate_the_key(self, who: int, overlap_s: int, keep: bool) -> None:
        self.vkeys.append(rotate(self.stores[who], overlap_s=overlap_s, keep=keep, by="alice").new)
        self.take_over()
        self.signed = len(self.written)

    @rule(who=st.integers(0, 1), whose=st.sampled_from("xy"), data=st.binary(max_size=9))
    def ask(self, who: int, whose: str, data: bytes) -> None:
        id, at_us = f"evl_{len(self.written)}.request", self.clock.us
        payload = Payload(id=id, subject=reference(self.key, "user", whose), trace_id="ab", created_us=at_us, data=data)
        self.vaults[who].seal(payload).result()
        named = {"id": id, "alg": "A256GCM", "hmac": mac(self.key, data)}
        draft = Draft("decision", "ab", {"actor": {"type": "user", "id": whose, "agent": ""}, "payload": named})
        self.written.extend(self.stores[who].commit(Unit((draft,))).result())
        self.payloads[len(self.written) - 1] = (whose, False)

    @rule(who=st.integers(0, 1), whose=st.sampled_from("xy"), release=st.booleans())
    def hold(self, who: int, whose: str, release: bool) -> None:
        self.privacies[who].hold(Subject("user", whose), by="alice", reason="a case", release=release)
        self.held = self.held - {whose} if release else self.held | {whose}
        self.take_over()

    @rule(who=st.integers(0, 1), whose=st.sampled_from("xy"))
    def erase(self, who: int, whose: str) -> None:
        try:
            self.privacies[who].erase(Subject("user", whose), by="alice", reason="asked for")
        except Held:
            assert whose in self.held
        else:
            assert whose not in self.held
            self.payloads = {at: (name, gone or name == whose) for at, (name, gone) in self.payloads.items()}
        self.take_over()

    @rule(who=st.integers(0, 1))
    def look_at_the_payloads(self, who: int) -> None:
        for seq, (_, gone) in self.payloads.items():
            revealed = self.privacies[who].reveal(seq, person="ann")
            assert (revealed.state == "present") is not gone
            assert revealed.value is None or not gone
        self.take_over()

    @rule(data=st.data())
    def look_through_all(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from(self.vkeys))
        for store in self.stores:
            report = Audit(store, store.files).verify(known).require()
            assert (report.records, report.root) == (len(self.written), self.root())
            assert list(store.records(ALL)) == self.written

    @rule(data=st.data())
    def what_was_signed_before_is_a_beginning(self, data: st.DataObject) -> None:
        proof = growth(self.stores[0], self.stores[0].files, data.draw(st.sampled_from(self.kept)))
        assert proof.old_size <= len(self.written)

    @precondition(lambda self: len(self.written) > 1)
    @rule(data=st.data())
    def change_a_record_behind_its_back(self, data: st.DataObject) -> None:
        """In a copy: what was changed there is named, and the ledger itself goes on."""
        seq = data.draw(st.integers(0, len(self.written) - 1))
        copy = Path(self.folder.name) / "copy"
        shutil.copytree(self.data, copy)
        connection = apsw.Connection(str(copy / "ledger.db"))
        connection.execute("DROP TRIGGER record_stays")
        connection.execute("UPDATE record SET data = CAST(data || ' ' AS BLOB) WHERE seq = ?", (seq,))
        connection.close()
        reader = SqliteStore.open_readonly(copy)
        assert Audit(reader, reader.files).verify().first_bad == seq
        reader.close()
        shutil.rmtree(copy)

    def root(self) -> bytes:
        return root_of(leaf_hash(record.data) for record in self.written)

    @invariant()
    def sequence_and_time_never_fall_whatever_the_clock_does(self) -> None:
        if not hasattr(self, "written"):
            return
        assert [record.seq for record in self.written] == list(range(len(self.written)))
        times = [record.ts_us for record in self.written]
        assert times == sorted(times)

    @invariant()
    def the_head_is_the_tree_and_the_checkpoint_a_part_of_it(self) -> None:
        if not hasattr(self, "written"):
            return
        assert {store.head() for store in self.stores} == {self.stores[0].head()}
        assert self.stores[0].head().root == self.root()
        files = DataDir(self.data)
        head = verify(files.checkpoint(), files.vkey())
        assert self.signed <= head.size <= len(self.written)
        assert head.root == root_of(leaf_hash(record.data) for record in self.written[: head.size])

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            self.close()
            self.folder.cleanup()


TestLedger: Any = Ledger.TestCase
TestLedger.settings = settings(
    max_examples=600 if DEEP else 8,
    stateful_step_count=50 if DEEP else 20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
