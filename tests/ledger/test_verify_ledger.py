"""The stranger's verifier: alone in its own process, with the public key and nothing of ours, it sees every change."""

from __future__ import annotations

import ast
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cryptography
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from checkrein.ledger import Draft
from checkrein.ledger.checkpoint import Signer, VerifierKey
from checkrein.ledger.proof import Growth, Proof, consistency_path, inclusion_path
from checkrein.ledger.record import decode, encode
from checkrein.ledger.tiles import Layout, bundle, entries_path
from checkrein.ledger.tree import Head, leaf_hash, root_of
from checkrein.verifier import source, verify_ledger

DEEP = bool(os.environ.get("CHECKREIN_DEEP"))
SCRIPT = Path(verify_ledger.__file__)
GOLDEN = Path(__file__).parents[1] / "golden/ledger"
SITE = Path(cryptography.__file__).parents[1]
SIGNER = Signer(bytes(range(32)), "example.com/log")
BASE_US = 1_767_225_600_000_000
ALONE = """
import sys
sys.path.append(sys.argv.pop(1))
sys.modules["checkrein"] = None
"""
RUN = f"""{ALONE}
import runpy
script = sys.argv.pop(1)
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""
#: flips a bit in every byte of every file, each bit in the smallest; prints how many were seen and where one was not
FLIP = f"""{ALONE}
import contextlib, io, json, pathlib, runpy
main = runpy.run_path(sys.argv[1])["main"]
export, key, flips = pathlib.Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
seen, missed = 0, []
for path in sorted(path for path in export.rglob("*") if path.is_file()):
    whole = path.read_bytes()
    for at in range(len(whole)):
        for flip in range(8 if len(whole) < 256 else flips):
            changed = bytearray(whole)
            changed[at] ^= 1 << (at + flip) % 8
            path.write_bytes(changed)
            with contextlib.redirect_stdout(io.StringIO()) as said:
                code = main([str(export), "--key", key])
            if code == 6 and said.getvalue().startswith("NOT VERIFIED"):
                seen += 1
            else:
                missed.append([str(path), at, code])
    path.write_bytes(whole)
with contextlib.redirect_stdout(io.StringIO()):
    print(main([str(export), "--key", key]), file=sys.stderr)
print(json.dumps([seen, missed]))
"""


def isolated(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python without our package, without site-packages but for `cryptography`, without the environment."""
    command = [sys.executable, "-I", "-S", "-c", code, str(SITE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def alone(*arguments: object) -> tuple[int, list[str]]:
    """The verifier as a stranger runs it: exit code and lines."""
    done = isolated(RUN, SCRIPT, *arguments)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def draft(at: int) -> Draft:
    """A decision, the start and the end of its execution, again and again."""
    ids = {"evaluation_id": f"evl_{at // 3}"}
    decided: dict[str, object] = {"decision": {**ids, "outcome": "allow", "reasons": ["fine"] * (at % 5)}}
    body = (decided, ids, {**ids, "status": "ok"})[at % 3]
    return Draft(("decision", "execution.started", "execution.finished")[at % 3], f"{at // 3:032x}", body)


def records(count: int) -> list[bytes]:
    return [encode(draft(at), seq=at, id=f"rec_{at:032x}", ts_us=BASE_US + at).data for at in range(count)]


class Export:
    """An export on disk and the key that an auditor got elsewhere."""

    def __init__(self, folder: Path, datas: Sequence[bytes], *, signer: Signer = SIGNER) -> None:
        self.path, self.key, self.datas = folder / "export", folder / "log.pub", list(datas)
        self.leaves = [leaf_hash(data) for data in self.datas]
        self.key.write_text(f"{SIGNER.vkey}\n")
        self.write(self.datas)
        self.put("checkpoint", signer.sign(self.head).encode())
        self.put("example.com-log.pub", f"{signer.vkey}\n".encode())

    @property
    def head(self) -> Head:
        return Head(len(self.leaves), root_of(self.leaves))

    def put(self, path: str, data: bytes) -> None:
        (self.path / path).parent.mkdir(parents=True, exist_ok=True)
        (self.path / path).write_bytes(data)

    def write(self, datas: Sequence[bytes]) -> None:
        """Every tile and bundle for these records, right in itself, whatever the checkpoint says."""
        for file in Layout().files(datas):
            self.put(file.path, file.data)

    def rewrite(self, at: int, data: bytes) -> None:
        """Only the bundle with this record."""
        start = at // 256 * 256
        block = [data if seq == at else old for seq, old in enumerate(self.datas)][start : start + 256]
        self.put(entries_path(at // 256, len(block)), bundle(block))

    def files(self) -> list[Path]:
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    def verify(self, *more: object) -> tuple[int, list[str]]:
        return alone(self.path, "--key", self.key, *more)

    def check(self, capsys: pytest.CaptureFixture[str], *more: object) -> tuple[int, list[str]]:
        """The same in this process, for many small changes."""
        code = verify_ledger.main([str(self.path), "--key", str(self.key), *map(str, more)])
        return code, capsys.readouterr().out.splitlines()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Export]:
    def make(count_or_records: int | Sequence[bytes], *, signer: Signer = SIGNER, name: str = "made") -> Export:
        (tmp_path / name).mkdir()
        datas = records(count_or_records) if isinstance(count_or_records, int) else count_or_records
        return Export(tmp_path / name, datas, signer=signer)

    return make


# --- alone ------------------------------------------------------------------------------------------------------


def test_it_knows_nothing_of_ours_and_runs_on_python_3_9():
    assert not any("checkrein" in line for line in source().splitlines() if "import" in line)
    assert source().isascii()
    ast.parse(source(), feature_version=(3, 9))


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 600])
def test_an_export_verifies_with_only_the_public_key(make: Callable[..., Export], count: int):
    assert make(count).verify() == (0, [f"verified: {count} records of example.com/log"])


def test_the_golden_vectors_are_still_made_and_still_verify(tmp_path: Path):
    runpy.run_path(str(GOLDEN / "make.py"))["make"](tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(GOLDEN): path.read_bytes() for path in GOLDEN.rglob("*") if path.is_file()}
    assert made == {path: data for path, data in kept.items() if path.suffix not in (".py", ".pyc")}
    key = tmp_path / "log.pub"
    shutil.copy(GOLDEN / "export/example.com-log.pub", key)
    earlier = ("--consistency", GOLDEN / "earlier.checkpoint")
    whole = "verified: 300 records of example.com/log"
    assert alone(GOLDEN / "export", "--key", key) == (0, [whole])
    assert alone(GOLDEN / "export", "--key", key, *earlier) == (0, [f"{whole}, extending 100"])
    assert alone(GOLDEN / "growth", "--key", key, *earlier) == (0, [f"{whole}, extending 100"])
    handed = "note: record 1 hands the log from key d455c521 to "
    code, (verdict, note) = alone(GOLDEN / "rotated", "--key", GOLDEN / "first.pub")
    assert (code, verdict, note.startswith(handed)) == (0, "verified: 3 records of example.com/log", True)
    proof = (GOLDEN / "record-7.tlog-proof", "--key", key, "--record", GOLDEN / "record-7.json")
    assert alone(*proof) == (0, ["verified: record 7 among 300 of example.com/log"])


def test_many_records_are_checked_by_several_processes(make: Callable[..., Export]):
    export = make(9000)
    assert export.verify() == (0, ["verified: 9000 records of example.com/log"])
    export.rewrite(8999, export.datas[8999].replace(b"ok", b"OK"))
    export.rewrite(40, export.datas[40].replace(b"evl", b"EVL"))
    code, (verdict, first, *_) = export.verify()
    assert (code, first) == (6, "first bad record: 40")
    assert verdict.startswith("NOT VERIFIED: record 40 is not what was signed")


# --- every byte counts ------------------------------------------------------------------------------------------


def test_any_single_byte_change_is_detected(make: Callable[..., Export]):
    export = make(3)
    done = isolated(FLIP, SCRIPT, export.path, export.key, 8 if DEEP else 1)
    assert done.stderr == "0\n"  # after all changes were undone
    seen, missed = json.loads(done.stdout)
    assert missed == []
    sizes = [path.stat().st_size for path in export.files()]
    assert seen == sum(size * (8 if DEEP or size < 256 else 1) for size in sizes)


def test_a_file_that_is_missing_cut_longer_or_of_another_place_is_detected(
    make: Callable[..., Export], capsys: pytest.CaptureFixture[str]
):
    export = make(600)
    files = export.files()
    assert len(files) == 9
    for path in files:
        whole = path.read_bytes()
        for changed in (
            whole[:-1],
            whole + b"\n",
            whole + b"x",
            whole + whole,
            b"",
            *(other.read_bytes() for other in files),
        ):
            if changed == whole:
                continue
            path.write_bytes(changed)
            assert export.check(capsys)[0] == 6, path
        path.unlink()
        assert export.check(capsys)[0] == 6, path
        path.mkdir()
        assert export.check(capsys)[0] == 6, path
        path.rmdir()
        path.symlink_to(export.key)
        assert export.check(capsys)[0] == 6, path
        path.unlink()
        path.write_bytes(whole)
    assert export.check(capsys)[0] == 0


@pytest.mark.parametrize("path", ["more", "tile/0/003", "tile/0/002.p/89", "tile/entries/002.p/089", "tile/2/000.p/1"])
def test_a_file_too_many_is_detected(make: Callable[..., Export], path: str):
    export = make(600)
    export.put(path, bytes(32))
    code, (verdict, *_) = export.verify()
    assert (code, verdict) == (6, f"NOT VERIFIED: {path} does not belong to a log of 600 records")


def test_an_empty_directory_is_too_much(make: Callable[..., Export]):
    export = make(5)
    (export.path / "tile/7").mkdir()
    assert export.verify()[1][0] == "NOT VERIFIED: tile/7 is an empty directory"


def test_what_is_no_file_is_too_much(make: Callable[..., Export]):
    export = make(5)
    (export.path / "more").symlink_to(export.key)
    assert export.verify()[1][0] == "NOT VERIFIED: more is neither a file nor a directory"
    (export.path / "more").unlink()
    os.mkfifo(export.path / "more")
    assert export.verify()[0] == 6


def test_partial_tiles_of_an_older_export_may_stay_if_they_agree(make: Callable[..., Export]):
    export = make(600)
    for file in Layout().files(export.datas[:300]):
        export.put(file.path, file.data)
    assert export.verify()[0] == 0
    older = export.path / "tile/0/001.p/44"
    older.write_bytes(bytes(44 * 32))
    assert export.verify()[1][0] == "NOT VERIFIED: tile/0/001.p/44 does not belong to a log of 600 records"


# --- the first bad record ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 255, 256, 599])
def test_a_record_that_was_changed_is_named(make: Callable[..., Export], at: int):
    export = make(600)
    export.rewrite(at, export.datas[at].replace(b'"rec_', b'"REC_'))
    code, (verdict, first) = export.verify()
    assert (code, first) == (6, f"first bad record: {at}")
    assert verdict == (
        f"NOT VERIFIED: record {at} is not what was signed: it does not have the hash in the signed tree"
    )


def test_a_record_that_was_taken_out_is_named(make: Callable[..., Export]):
    export = make(600)
    export.put(entries_path(1), bundle(export.datas[256:300] + export.datas[301:512]))
    assert export.verify()[1][1] == "first bad record: 300"


def test_a_bundle_that_is_missing_is_named_by_its_first_record(make: Callable[..., Export]):
    export = make(600)
    (export.path / entries_path(1)).unlink()
    assert export.verify()[1][1] == "first bad record: 256"


def test_when_the_hashes_were_changed_and_not_the_records_it_says_so(make: Callable[..., Export]):
    export = make(600)
    tile = bytearray((export.path / "tile/0/001").read_bytes())
    tile[50 * 32] ^= 1
    export.put("tile/0/001", bytes(tile))
    code, (verdict, first) = export.verify()
    assert (code, first) == (6, "first bad record: not known")
    assert "hash tiles are wrong at record 306; the records themselves are as signed" in verdict


def test_a_log_rewritten_with_all_its_hashes_does_not_fit_the_signature(make: Callable[..., Export]):
    export = make(600)
    export.write([data.replace(b"fine", b"fake") for data in export.datas])
    assert "but not the signed root: the log was rewritten" in export.verify()[1][0]


def test_a_log_signed_again_by_somebody_else_is_not_believed(make: Callable[..., Export]):
    for signer in (Signer(bytes(32), "example.com/log"), Signer(bytes(32), "example.com/other")):
        export = make(5, signer=signer, name=signer.origin.replace("/", "-"))
        code, (verdict, _) = export.verify()
        assert (code, verdict) == (
            6,
            f"NOT VERIFIED: the checkpoint of `{signer.origin}` is not signed by the key that was given",
        )


# --- records that the log itself should not have signed ---------------------------------------------------------


def named(export: Export, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    code, (verdict, first, *_) = export.check(capsys)
    assert code == 6
    return first.removeprefix("first bad record: "), verdict


def replaced(at: int, old: bytes, new: bytes, count: int = 12) -> list[bytes]:
    datas = records(count)
    assert old in datas[at]
    datas[at] = datas[at].replace(old, new)
    return datas


@pytest.mark.parametrize(
    ("datas", "at", "why"),
    [
        (replaced(4, b'"seq":4', b'"seq":5'), "4", "says that it is record 5"),
        (replaced(4, b'"ts_us":1767225600000004', b'"ts_us":1767225600000002'), "4", "is older than the record before"),
        (replaced(3, b'"allow"', b'"deny"'), "4", "starts an execution that no earlier decision of its trace allowed"),
        (replaced(4, b"0001", b"0002"), "4", "starts an execution that no earlier decision of its trace allowed"),
        (replaced(0, b'"v":1', b'"v":2'), "0", "its version 2 is not 1"),
        (replaced(3, b'"v":1', b'"v":2'), "3", "its version 2 is not 1"),
        (replaced(0, b'"v":1', b'"v":true'), "0", "its `v` is of the wrong type"),
        (replaced(0, b'"seq":0', b'"seq":0.0'), "0", "has no place in a record"),
        (replaced(2, b'"status":"ok"', b'"status":NaN'), "2", "has no place in a record"),
        (replaced(2, b'"status":"ok"', b'"status":9007199254740992'), "2", "beyond 2^53-1"),
        (replaced(2, b'"status":"ok"', b'"status": "ok"'), "2", "not canonical JSON"),
        (replaced(2, b'"status":"ok"', b'"status":"ok","status":"ok"'), "2", "not canonical JSON"),
        (replaced(2, b'"status":"ok"', b'"status":"\\u006fk"'), "2", "not canonical JSON"),
        (replaced(2, b'"status":"ok"', b'"\xc3\xbc":"ok"'), "2", "not ASCII"),
        (replaced(2, b'"status":"ok"', b'"status":"\xff"'), "2", "is damaged"),
        (replaced(5, b'"status":"ok"', b'"status":"\xff"'), "5", "is damaged"),
        (replaced(5, b'"status":"ok"', b'"status":"\n"'), "5", "is damaged"),
        (replaced(2, b'"status":"ok"', b'"status":' + b"[" * 30_000 + b"]" * 30_000), "2", "nested too deeply"),
        (replaced(2, b',"v":1', b',"v":1,"w":1'), "2", "members of a record"),
        ([*records(3), b""], "3", "is damaged"),
        ([*records(3), b"[]"], "3", "members of a record"),
    ],
)
def test_a_record_that_is_wrong_in_itself_is_named_although_it_was_signed(
    make: Callable[..., Export], capsys: pytest.CaptureFixture[str], datas: list[bytes], at: str, why: str
):
    first, verdict = named(make(datas), capsys)
    assert (first, why in verdict) == (at, True), verdict


def test_what_is_wrong_between_two_workers_is_seen_too(make: Callable[..., Export], capsys: pytest.CaptureFixture[str]):
    edge = verify_ledger.BATCH * verify_ledger.WIDTH
    older = replaced(edge, b'"ts_us":%d' % (BASE_US + edge), b'"ts_us":%d' % BASE_US, edge + 3)
    assert named(make(older, name="older"), capsys)[0] == str(edge)
    start = next(at for at in range(edge, edge + 3) if at % 3 == 1)
    moved = [draft(at) for at in range(edge + 3)]
    moved[0], moved[1] = moved[1], moved[0]  # a start before its decision, and one whose decision is a worker away
    moved[start] = draft(4)
    datas = [encode(one, seq=at, id="rec", ts_us=BASE_US).data for at, one in enumerate(moved)]
    code, lines = make(datas, name="moved").check(capsys)
    assert (code, lines[1:]) == (6, ["first bad record: 0"])


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(names, values, max_size=4), min_size=1, max_size=4))
def test_every_record_that_the_ledger_writes_is_read_alike_by_parsing_and_by_pattern(bodies: list[dict[str, object]]):
    reader = verify_ledger.Reader()
    for seq, body in enumerate([*bodies, *bodies]):  # the second time by the patterns of the first
        data = encode(Draft("decision", "ab", body), seq=seq, id="rec_1", ts_us=seq).data
        assert reader.read(data) == verify_ledger.seen(verify_ledger.parse_record(data))
        assert reader.read(data).seq == seq


@given(st.integers(0, 59), st.integers(0, 10**6), st.integers(1, 255))
def test_what_is_no_record_to_the_ledger_is_none_to_the_verifier(at: int, place: int, flip: int):
    reader = verify_ledger.Reader()
    for data in records(60):
        reader.read(data)
    changed = bytearray(records(60)[at])
    changed[place % len(changed)] ^= flip
    try:
        said, _ = decode(bytes(changed))
    except ValueError:
        with pytest.raises(ValueError):
            reader.read(bytes(changed))
    else:
        assert reader.read(bytes(changed)).seq == said.seq


# --- keys and witnesses -----------------------------------------------------------------------------------------


def test_a_key_taken_from_the_export_itself_is_remarked(make: Callable[..., Export]):
    export = make(5)
    code, (_, remark) = alone(export.path, "--key", export.path / "example.com-log.pub")
    assert code == 0
    assert "came out of the export itself" in remark


def test_while_keys_overlap_either_is_enough_and_both_signatures_count(
    make: Callable[..., Export], capsys: pytest.CaptureFixture[str]
):
    export, new = make(5), Signer(bytes(32), "example.com/log")
    both = SIGNER.sign(export.head) + new.sign(export.head).rpartition("\n\n")[2]
    export.put("checkpoint", both.encode())
    export.put("example.com-log.pub", f"{SIGNER.vkey}\n{new.vkey}\n".encode())
    assert export.check(capsys)[0] == 0
    export.key.write_text(f"{new.vkey}\n")
    assert export.check(capsys)[0] == 0
    export.put("checkpoint", (both[:-9] + "AAAAAAA=\n").encode())
    assert export.check(capsys)[0] == 6
    export.put("checkpoint", new.sign(export.head).encode())
    assert "holds a key that did not sign" in export.check(capsys)[1][0]


def test_a_signature_that_nothing_can_check_is_a_byte_that_does_not_count(
    make: Callable[..., Export], capsys: pytest.CaptureFixture[str]
):
    export, witness = make(5), Ed25519PrivateKey.from_private_bytes(bytes(32))
    note = SIGNER.sign(export.head)
    body = note.partition("\n\n")[0] + "\n"
    vkey, line = cosigned(body, witness, "witness.example/w1", time=1_767_225_600)
    export.put("checkpoint", (note + line).encode())
    assert "no key given here can check" in export.check(capsys)[1][0]
    cosigner = export.key.with_name("witness.pub")
    cosigner.write_text(vkey)
    assert export.check(capsys, "--key", cosigner)[0] == 0
    _, wrong = cosigned(body, Ed25519PrivateKey.generate(), "witness.example/w1", time=1_767_225_600)
    swapped = line[: line.rindex(" ") + 6] + wrong[wrong.rindex(" ") + 6 :]
    export.put("checkpoint", (note + swapped).encode())
    assert export.check(capsys, "--key", cosigner)[0] == 6
    export.put("checkpoint", (note + line + line).encode())
    assert "stands there twice" in export.check(capsys, "--key", cosigner)[1][0]
    alone_is_not_enough = export.check(capsys)
    assert alone_is_not_enough[0] == 6


def cosigned(body: str, key: Ed25519PrivateKey, name: str, *, time: int) -> tuple[str, str]:
    """A witness: its key and its line under this body, as C2SP tlog-cosignature says."""
    import base64
    import hashlib

    raw = b"\x04" + key.public_key().public_bytes_raw()
    id = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    signature = key.sign(f"cosignature/v1\ntime {time}\n{body}".encode())
    line = base64.b64encode(id + time.to_bytes(8, "big") + signature).decode()
    return f"{name}+{id.hex()}+{base64.b64encode(raw).decode()}\n", f"\u2014 {name} {line}\n"


def test_a_key_that_is_damaged_verifies_nothing_and_one_that_is_missing_is_wrong_usage(make: Callable[..., Export]):
    export = make(5)
    export.key.write_text(str(VerifierKey.parse(SIGNER.vkey)).replace("A", "B", 1))
    code, (verdict, _) = export.verify()
    assert (code, verdict.startswith("NOT VERIFIED: the public key")) == (6, True)
    export.key.unlink()
    code, (verdict,) = export.verify()
    assert (code, verdict.startswith("cannot verify: the key")) == (2, True)


# --- older checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [0, 1, 255, 256, 257, 512, 599, 600])
def test_an_export_extends_every_checkpoint_of_its_past(make: Callable[..., Export], old: int):
    export = make(600)
    earlier = export.key.with_name("earlier")
    earlier.write_text(SIGNER.sign(Head(old, root_of(export.leaves[:old]))))
    whole = f"verified: 600 records of example.com/log, extending {old}"
    assert export.verify("--consistency", earlier) == (0, [whole])
    growth = export.key.with_name("growth")
    proof = Growth(old, consistency_path(export.leaves, old, 600), SIGNER.sign(export.head))
    growth.write_text(str(proof))
    assert alone(growth, "--key", export.key, "--consistency", earlier) == (0, [whole])


def test_an_export_does_not_extend_another_history(make: Callable[..., Export], tmp_path: Path):
    export, forked = make(600), [*records(100), *records(600)[101:102]]
    earlier, growth = tmp_path / "earlier", tmp_path / "growth"
    earlier.write_text(SIGNER.sign(Head(101, root_of(map(leaf_hash, forked)))))
    code, (verdict, *_) = export.verify("--consistency", earlier)
    assert (code, "history was rewritten" in verdict) == (6, True)
    growth.write_text(str(Growth(101, consistency_path(export.leaves, 101, 600), SIGNER.sign(export.head))))
    code, (verdict, *_) = alone(growth, "--key", export.key, "--consistency", earlier)
    assert (code, "does not extend" in verdict) == (6, True)


def test_a_proof_is_between_two_checkpoints_of_one_log(make: Callable[..., Export], tmp_path: Path):
    export, other = make(600), Signer(bytes(32), "example.com/other")
    earlier, growth, keys = tmp_path / "earlier", tmp_path / "growth", tmp_path / "keys"
    keys.write_text(f"{SIGNER.vkey}\n{other.vkey}\n")
    growth.write_text(str(Growth(101, consistency_path(export.leaves, 101, 600), SIGNER.sign(export.head))))
    for signer, size in ((SIGNER, 100), (other, 101)):
        earlier.write_text(signer.sign(Head(size, root_of(export.leaves[:size]))))
        code, (verdict, *_) = alone(growth, "--key", keys, "--consistency", earlier)
        assert (code, "not about the older checkpoint" in verdict) == (6, True)
    code, (verdict, *_) = export.verify("--key", keys, "--consistency", earlier)
    assert (code, verdict) == (6, "NOT VERIFIED: the older checkpoint is of another log, `example.com/other`")


def test_an_export_cut_back_to_an_older_checkpoint_is_found_by_whoever_holds_a_newer_one(make: Callable[..., Export]):
    newer, cut = make(600, name="newer"), make(300, name="cut")
    assert cut.verify()[0] == 0
    code, (verdict, *_) = cut.verify("--consistency", newer.path)
    assert (code, "has 600 records, the export only 300" in verdict) == (6, True)
    assert newer.verify("--consistency", cut.path)[0] == 0


def test_an_older_checkpoint_counts_only_if_the_log_signed_it(make: Callable[..., Export], tmp_path: Path):
    export = make(5)
    (tmp_path / "earlier").write_text(Signer(bytes(32), "example.com/log").sign(Head(0, root_of([]))))
    assert export.verify("--consistency", tmp_path / "earlier")[0] == 6


# --- one record -------------------------------------------------------------------------------------------------


@pytest.fixture
def proved(make: Callable[..., Export], tmp_path: Path) -> tuple[Export, Path, Path]:
    export = make(21)
    proof, record = tmp_path / "five.tlog-proof", tmp_path / "five.json"
    proof.write_text(str(Proof(5, inclusion_path(export.leaves, 5, 21), SIGNER.sign(export.head), b"extra")))
    record.write_bytes(export.datas[5])
    return export, proof, record


def test_one_record_is_proved(proved: tuple[Export, Path, Path]):
    export, proof, record = proved
    wanted = (0, ["verified: record 5 among 21 of example.com/log"])
    assert alone(proof, "--key", export.key, "--record", record) == wanted
    record.write_bytes(export.datas[5] + b"\n")
    assert alone(proof, "--key", export.key, "--record", record) == wanted


def test_any_single_byte_change_of_a_proof_or_its_record_is_detected(
    proved: tuple[Export, Path, Path], capsys: pytest.CaptureFixture[str]
):
    export, proof, record = proved
    arguments = [str(proof), "--key", str(export.key), "--record", str(record)]
    unproved = proof.read_text().index("extra")
    for path in (proof, record):
        whole = path.read_bytes()
        for at in range(len(whole)):
            if path is proof and unproved <= at < unproved + len("extra ZXh0cmE="):
                continue  # nobody vouches for extra data
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
            assert verify_ledger.main(arguments) == 6, (path, at)
        path.write_bytes(whole)
    assert verify_ledger.main(arguments) == 0
    capsys.readouterr()


def test_a_record_must_stand_where_it_says(make: Callable[..., Export], tmp_path: Path):
    export = make([*records(3), records(5)[4]])
    (tmp_path / "record").write_bytes(export.datas[3])
    proof = Proof(3, inclusion_path(export.leaves, 3, 4), SIGNER.sign(export.head))
    (tmp_path / "proof").write_text(str(proof))
    code, (verdict, _) = alone(tmp_path / "proof", "--key", export.key, "--record", tmp_path / "record")
    assert (code, verdict) == (6, "NOT VERIFIED: the record says that it is record 4, the proof is of 3")
    note = verify_ledger.parse_note(SIGNER.sign(Head(1, export.leaves[0])).encode())
    with pytest.raises(verify_ledger.Invalid, match="at place 1"):
        verify_ledger.check_inclusion(note, 1, export.leaves[0], [])


def test_signatures_by_others_under_a_proof_are_left_alone_and_remarked(proved: tuple[Export, Path, Path]):
    export, proof, record = proved
    witness = Ed25519PrivateKey.from_private_bytes(bytes(32))
    _, line = cosigned(SIGNER.sign(export.head).partition("\n\n")[0] + "\n", witness, "w", time=1)
    proof.write_text(proof.read_text() + line)
    code, (_, remark) = alone(proof, "--key", export.key, "--record", record)
    assert (code, remark) == (0, "note: 1 signatures by other keys were not checked")


def test_wrong_usage_is_said(proved: tuple[Export, Path, Path], tmp_path: Path):
    export, proof, record = proved
    for arguments in (
        (proof, "--key", export.key),
        (proof, "--key", export.key, "--record", tmp_path / "nowhere"),
        (tmp_path / "nowhere", "--key", export.key),
        (export.path, "--key", export.key, "--record", record),
    ):
        code, (verdict,) = alone(*arguments)
        assert (code, verdict.startswith("cannot verify: ")) == (2, True)
    assert isolated(RUN, SCRIPT, export.path).returncode == 2


def test_names_in_an_export_cannot_write_to_the_terminal(make: Callable[..., Export]):
    export = make(5)
    export.put("\x1b[2Jverified: \udcff\n0", b"")
    code, (verdict, *_) = export.verify()
    assert (code, verdict.startswith("NOT VERIFIED: \\x1b[2Jverified: \\udcff\\n0 does not")) == (6, True)
