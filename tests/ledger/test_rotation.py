"""The key changes hands: whoever holds any key of the log can follow, and nobody else can be made to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.ledger import Draft, Head
from checkrein.ledger.checkpoint import Signer
from checkrein.ledger.proof import Chain, Link, Proof, inclusion_path
from checkrein.ledger.record import encode, facets
from checkrein.ledger.rotation import KIND, Keys, Rotation, statement
from checkrein.ledger.section import section
from checkrein.ledger.signers import Signers, Timed
from checkrein.ledger.tiles import Layout
from checkrein.ledger.tree import leaf_hash, root_of
from checkrein.ledger.verify import Entry, Report, Snapshot, examine
from checkrein.model import ConfigError, LedgerInvalid
from checkrein.verifier import verify_ledger

ORIGIN = "example.com/log"
FIRST, SECOND, THIRD, THIEF = (Signer(bytes([at]) * 32, ORIGIN) for at in range(1, 5))
HANDS = {5: (FIRST, SECOND), 300: (SECOND, THIRD)}
SIZE = 400


def note(head: Head, *signers: Signer) -> str:
    return Signers(signers[0], tuple(Timed(signer, 0) for signer in signers[1:])).sign(head)


class Log(NamedTuple):
    """Records, some of them rotations, and what is found in them."""

    datas: list[bytes]

    @property
    def leaves(self) -> list[bytes]:
        return [leaf_hash(data) for data in self.datas]

    def head(self, size: int | None = None) -> Head:
        leaves = self.leaves[:size]
        return Head(len(leaves), root_of(leaves))

    @property
    def rotated(self) -> list[bytes]:
        return [data for data in self.datas if b'"kind":"key.rotated"' in data]

    def keys(self, *known: Signer) -> Keys:
        return Keys.of("\n".join(signer.vkey for signer in known), self.rotated)

    def verify(self, text: str, *known: Signer, rotated: Sequence[bytes] | None = None) -> Report:
        entries, ts_us = [], 0
        for seq, data in enumerate(self.datas):
            kind = KIND if data in self.rotated else "system.note"
            draft = Draft(kind, "", {})
            record = encode(draft, seq=seq, id=f"rec_{seq}", ts_us=ts_us)
            record = type(record)(seq, record.id, kind, "", ts_us, data)
            entries.append(Entry(record, facets(_body(data)), leaf_hash(data)))
        snapshot = Snapshot(
            head=self.head(), entries=entries, checkpoint=text, rotated=self.rotated if rotated is None else rotated
        )
        return examine(snapshot, vkey="\n".join(signer.vkey for signer in known))

    def export(self, folder: Path, text: str, *published: Signer) -> Path:
        """As `audit export` writes it: the current key first."""
        target = folder / "export"
        files = {file.path: file.data for file in Layout().files(self.datas)}
        files["checkpoint"] = text.encode()
        for at, signer in enumerate(published):
            id = f".{signer.verifier.id.hex()}" if at else ""
            files[f"example.com-log{id}.pub"] = f"{signer.vkey}\n".encode()
        for path, data in files.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(data)
        return target


def _body(data: bytes) -> dict[str, object]:
    from checkrein.ledger.record import decode

    return decode(data)[1]


def rotation(seq: int, head: Head, old: Signer, new: Signer, /, **changed: object) -> bytes:
    detail = {"old": old.vkey, "new": new.vkey, "until_us": 0, "statement": statement(old, new, head), **changed}
    return encode(Draft(KIND, "", {"detail": detail}), seq=seq, id=f"rec_{seq}", ts_us=0).data


def log(size: int = SIZE, hands: dict[int, tuple[Signer, Signer]] = HANDS) -> Log:
    made = Log([])
    for seq in range(size):
        if seq in hands:
            made.datas.append(rotation(seq, made.head(max(0, seq - 2)), *hands[seq]))
        else:
            draft = Draft("system.note", "", {"at": seq})
            made.datas.append(encode(draft, seq=seq, id=f"rec_{seq}", ts_us=0).data)
    return made


LOG = log()


def key_file(folder: Path, signer: Signer) -> Path:
    path = folder / f"{signer.verifier.id.hex()}.pub"
    path.write_text(f"{signer.vkey}\n")
    return path


def stranger(export: Path, key: Path, capsys: pytest.CaptureFixture[str], *more: object) -> tuple[int, str]:
    code = verify_ledger.main([str(export), "--key", str(key), *map(str, more)])
    return code, capsys.readouterr().out


# --- the keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [FIRST, SECOND, THIRD])
@pytest.mark.parametrize(
    ("size", "signers"),
    [(0, [FIRST]), (5, [FIRST]), (6, [SECOND, FIRST]), (6, [SECOND]), (300, [SECOND]), (301, [THIRD]), (400, [THIRD])],
)
def test_any_key_of_the_log_vouches_for_what_was_signed_in_its_turn(known: Signer, size: int, signers: list[Signer]):
    head = LOG.head(size)
    assert LOG.keys(known).verify(note(head, *signers)) == head


@pytest.mark.parametrize(
    ("size", "signer"), [(6, FIRST), (400, FIRST), (5, SECOND), (300, THIRD), (400, SECOND), (400, THIEF)]
)
def test_a_key_signs_nothing_before_or_after_its_turn(size: int, signer: Signer):
    with pytest.raises(LedgerInvalid, match="whose turn it was"):
        LOG.keys(SECOND).verify(note(LOG.head(size), signer))


def test_without_the_rotations_a_checkpoint_signed_by_both_is_enough_for_either():
    head = LOG.head(6)
    for known in (FIRST, SECOND):
        assert Keys.of(known.vkey).verify(note(head, SECOND, FIRST)) == head
    with pytest.raises(LedgerInvalid, match="not signed by the known key"):
        Keys.of(FIRST.vkey).verify(note(head, SECOND))


def test_somebody_elses_key_follows_from_nothing():
    with pytest.raises(LedgerInvalid, match="not signed by the known key"):
        LOG.keys(THIEF).verify(note(LOG.head(), THIRD))


@pytest.mark.parametrize(
    "forged",
    [
        rotation(5, LOG.head(3), FIRST, SECOND, statement=statement(THIEF, SECOND, LOG.head(3))),
        rotation(5, LOG.head(3), FIRST, SECOND, new=THIEF.vkey),
        rotation(5, LOG.head(3), FIRST, SECOND, old=THIEF.vkey),
        rotation(5, LOG.head(3), FIRST, SECOND, statement=FIRST.sign(LOG.head(3))),
        rotation(5, LOG.head(3), FIRST, SECOND, statement="nothing"),
        rotation(5, LOG.head(3), FIRST, SECOND, statement=7),
        rotation(5, LOG.head(6), FIRST, SECOND),
        rotation(5, LOG.head(3), FIRST, FIRST),
        rotation(5, LOG.head(3), Signer(bytes(32), "example.com/other"), SECOND),
        encode(Draft("system.note", "", {}), seq=5, id="rec_5", ts_us=0).data,
        b"nothing",
    ],
)
def test_a_forged_rotation_is_refused_by_both_verifiers(forged: bytes):
    with pytest.raises(LedgerInvalid, match=r"forged key rotation|is damaged"):
        Rotation.read(forged)
    with pytest.raises(verify_ledger.Invalid, match="record 5 is a forged key rotation"):
        verify_ledger.parse_rotation(forged, 5)


@given(st.data())
def test_any_changed_character_of_a_statement_is_detected(data: st.DataObject):
    text = statement(FIRST, SECOND, LOG.head(3))
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda char: char != text[at]))
    changed = rotation(5, LOG.head(3), FIRST, SECOND, statement=text[:at] + other + text[at + 1 :])
    with pytest.raises(LedgerInvalid):
        Rotation.read(changed)
    with pytest.raises(verify_ledger.Invalid):
        verify_ledger.parse_rotation(changed, 5)


def test_a_rotation_must_follow_the_one_before():
    for second in (rotation(9, LOG.head(3), FIRST, THIRD), rotation(4, LOG.head(3), SECOND, THIRD)):
        with pytest.raises(LedgerInvalid, match="rotates a key that was not the log's"):
            Keys.of(FIRST.vkey, [LOG.rotated[0], second])


# --- the whole log ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [FIRST, SECOND, THIRD])
def test_a_log_whose_key_was_rotated_verifies_with_each_of_its_keys(
    known: Signer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = note(LOG.head(), THIRD)
    assert LOG.verify(text, known).problems == ()
    export = LOG.export(tmp_path, text, THIRD, FIRST, SECOND)
    code, said = stranger(export, key_file(tmp_path, known), capsys)
    assert (code, said.splitlines()[0]) == (0, f"verified: 400 records of {ORIGIN}")
    assert "note: record 5 hands the log from key" in said


def test_a_signature_of_the_old_key_alone_counts_no_more_after_the_rotation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = note(LOG.head(), FIRST)
    assert "whose turn it was" in LOG.verify(text, FIRST).problems[0]
    export = LOG.export(tmp_path, text, FIRST)
    code, said = stranger(export, key_file(tmp_path, FIRST), capsys)
    assert (code, "whose turn it was" in said) == (6, True)


def test_a_thief_who_writes_a_rotation_of_his_own_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """He may write into the store, and sign with a key of his own; the old key he does not have."""
    forged = log(20, {})
    signed_alone = statement(THIEF, THIEF, forged.head(3)).replace(THIEF.vkey, FIRST.vkey, 1)
    forged.datas[5] = rotation(5, forged.head(3), FIRST, THIEF, statement=signed_alone)
    text = note(forged.head(), THIEF)
    report = forged.verify(text, FIRST)
    assert report.first_bad == 5
    assert any("record 5 is a forged key rotation" in problem for problem in report.problems)
    export = forged.export(tmp_path, text, THIEF, FIRST)
    code, said = stranger(export, key_file(tmp_path, FIRST), capsys)
    assert code == 6
    assert said.startswith("NOT VERIFIED: record 5 is a forged key rotation")
    assert "first bad record: 5" in said


def test_a_rotation_taken_from_another_history_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The thief holds the new key, and rewrites what the old one signed."""
    rewritten = Log([*LOG.datas[:400]])
    rewritten.datas[1] = rewritten.datas[1].replace(b'"at":1', b'"at":7')
    text = note(rewritten.head(), THIRD)
    report = rewritten.verify(text, FIRST)
    assert report.first_bad == 5
    assert "rotates the key of a log with other records before it" in report.problems[0]
    export = rewritten.export(tmp_path, text, THIRD, FIRST, SECOND)
    code, said = stranger(export, key_file(tmp_path, FIRST), capsys)
    assert (code, "record 5 rotates the key of a log with other records" in said) == (6, True)


def test_a_rotation_between_keys_that_were_never_the_logs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Somebody who may append records signs such a statement with two keys of his own."""
    other = Signer(bytes([9]) * 32, ORIGIN)
    made = log(20, {5: (FIRST, SECOND)})
    made.datas[9] = rotation(9, made.head(0), THIEF, other)
    text = note(made.head(), SECOND)
    report = made.verify(text, FIRST)
    assert report.first_bad == 9
    assert "record 9 rotates a key that was not the log's" in report.problems[0]
    export = made.export(tmp_path, text, SECOND, FIRST)
    code, said = stranger(export, key_file(tmp_path, FIRST), capsys)
    assert (code, "record 9 rotates a key that was not the log's" in said) == (6, True)


def test_a_rotation_that_the_index_hides_is_named():
    assert LOG.verify(note(LOG.head(), THIRD), THIRD, rotated=[]).first_bad == 5


def test_a_run_with_a_rotation_is_looked_at_record_by_record():
    rows = [(0, "rec_0", KIND, None, 0, LOG.datas[5], *[None] * 7, LOG.leaves[5])]
    data = rotation(0, LOG.head(0), FIRST, SECOND)
    rows = [(0, "rec_0", KIND, None, 0, data, *[None] * 7, leaf_hash(data))]
    assert section(rows) is None


def test_every_byte_of_the_keys_in_an_export_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    export = LOG.export(tmp_path, note(LOG.head(), THIRD), THIRD, FIRST, SECOND)
    key = key_file(tmp_path, FIRST)
    for path in sorted(export.glob("*.pub")):
        whole = path.read_bytes()
        for changed in (whole[:-1], whole + b"\n", whole + whole, b"", whole.replace(b"A", b"B", 1)):
            path.write_bytes(changed)
            assert stranger(export, key, capsys)[0] == 6
        path.unlink()
        assert stranger(export, key, capsys)[0] == 6
        path.write_bytes(whole)
    (export / "example.com-log.00000000.pub").write_text(THIEF.vkey)
    assert stranger(export, key, capsys)[0] == 6


def test_an_older_checkpoint_under_an_older_key_is_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    export = LOG.export(tmp_path, note(LOG.head(), THIRD), THIRD, FIRST, SECOND)
    (tmp_path / "older").write_text(note(LOG.head(4), FIRST))
    code, said = stranger(export, key_file(tmp_path, THIRD), capsys, "--consistency", tmp_path / "older")
    assert (code, said.splitlines()[0]) == (0, f"verified: 400 records of {ORIGIN}, extending 4")
    (tmp_path / "older").write_text(note(LOG.head(40), FIRST))  # with a key whose time was over
    assert stranger(export, key_file(tmp_path, THIRD), capsys, "--consistency", tmp_path / "older")[0] == 6


# --- one record -------------------------------------------------------------------------------------------------


def proof(text: str, links: Sequence[int] = (5, 300)) -> Proof:
    def path(seq: int) -> tuple[bytes, ...]:
        return inclusion_path(LOG.leaves, seq, SIZE)

    chain = Chain(tuple(Link(LOG.datas[seq].decode(), path(seq)) for seq in links))
    return Proof(7, path(7), text, bytes(chain))


@pytest.mark.parametrize("known", [FIRST, SECOND, THIRD])
def test_a_proof_brings_the_rotations_along(known: Signer, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = proof(note(LOG.head(), THIRD))
    assert Proof.parse(str(made)).verify(known.vkey, LOG.datas[7]) == LOG.head()
    (tmp_path / "proof").write_text(str(made))
    (tmp_path / "record").write_bytes(LOG.datas[7])
    record = ("--record", tmp_path / "record")
    assert stranger(tmp_path / "proof", key_file(tmp_path, known), capsys, *record)[0] == 0


@pytest.mark.parametrize("links", [[], [5], [300], [300, 5], [5, 6]])
def test_a_proof_with_a_link_missing_or_out_of_place_does_not_reach_an_old_key(
    links: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made = proof(note(LOG.head(), THIRD), links)
    with pytest.raises(LedgerInvalid):
        made.verify(FIRST.vkey, LOG.datas[7])
    (tmp_path / "proof").write_text(str(made))
    (tmp_path / "record").write_bytes(LOG.datas[7])
    record = ("--record", tmp_path / "record")
    assert stranger(tmp_path / "proof", key_file(tmp_path, FIRST), capsys, *record)[0] == 6


def test_a_rotation_that_does_not_stand_in_the_log_leads_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Both keys signed it, but the log does not hold it."""
    other = rotation(6, LOG.head(3), FIRST, THIRD)
    chain = Chain((Link(other.decode(), inclusion_path(LOG.leaves, 6, SIZE)),))
    made = Proof(7, inclusion_path(LOG.leaves, 7, SIZE), note(LOG.head(), THIRD), bytes(chain))
    with pytest.raises(LedgerInvalid, match="does not show record 6"):
        made.verify(FIRST.vkey, LOG.datas[7])
    (tmp_path / "proof").write_text(str(made))
    (tmp_path / "record").write_bytes(LOG.datas[7])
    code, said = stranger(tmp_path / "proof", key_file(tmp_path, FIRST), capsys, "--record", tmp_path / "record")
    assert (code, "does not show this record at place 6" in said) == (6, True)


# --- the file of private keys -----------------------------------------------------------------------------------


def test_the_private_keys_survive_their_text_form():
    signers = Signers(SECOND, (Timed(FIRST, 7, keep=True),), Timed(THIRD, 9))
    again = Signers.parse(str(signers))
    assert str(again) == str(signers)
    assert again.vkeys.split() == [SECOND.vkey, FIRST.vkey]
    assert [key.until_us for key in again.over(7)] == [7]
    assert again.over(6) == ()
    assert str(again.without(again.over(7)).promoted()) == str(Signers(THIRD, (Timed(SECOND, 9),)))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("until", "after"),
        lambda text: text.replace("until 7", "until"),
        lambda text: text.replace("until 7", "until x"),
        lambda text: text.replace("keep", "kept"),
        lambda text: text + text.splitlines()[-1] + "\n",
        lambda text: text[:40] + text,
        lambda text: text + Signer(bytes(32), "example.com/other").to_secret() + " until 7\n",
    ],
)
def test_a_damaged_file_of_private_keys_is_refused_without_showing_it(change: Callable[[str], str]):
    text = change(str(Signers(SECOND, (Timed(FIRST, 7, keep=True),), Timed(THIRD, 9))))
    with pytest.raises(ConfigError, match=r"signing key") as caught:
        Signers.parse(text)
    assert FIRST.to_secret()[-30:] not in str(caught.value)
