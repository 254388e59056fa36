"""Writes the golden vectors: `python tests/golden/ledger/make.py DIR`. The same bytes every time.

300 records of a fixed key: a full tile, a partial one, and a level above. `earlier.checkpoint` was signed at 100
records; `growth` proves that the log grew from there; `record-7` and its proof stand alone.

`rotated` is an export of another log of 3 records whose key was rotated by the second; its first key is `first.pub`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from checkrein.ledger import Draft
from checkrein.ledger.checkpoint import Signer
from checkrein.ledger.proof import Growth, Proof, consistency_path, inclusion_path
from checkrein.ledger.record import encode
from checkrein.ledger.rotation import KIND, statement
from checkrein.ledger.tiles import Layout
from checkrein.ledger.tree import Head, leaf_hash, root_of

SIZE, EARLIER, PROVED = 300, 100, 7
BASE_US = 1_767_225_600_000_000
SIGNER = Signer(bytes(range(32)), "example.com/log")
SECOND = Signer(bytes(range(1, 33)), "example.com/log")


def draft(at: int) -> Draft:
    """A decision, the start and the end of its execution, again and again."""
    ids = {"evaluation_id": f"evl_{at // 3}"}
    body: dict[str, object] = {"decision": {**ids, "outcome": "allow", "reasons": ["it may", "ça va"][: at % 4]}}
    if at % 3:
        body = {**ids, "status": "ok"} if at % 3 == 2 else {**ids, "owner": 'a "quoted" name'}
    return Draft(("decision", "execution.started", "execution.finished")[at % 3], f"{at // 3:032x}", body)


def make(target: Path) -> None:
    records = [encode(draft(at), seq=at, id=f"rec_{at:032x}", ts_us=BASE_US + at // 2).data for at in range(SIZE)]
    leaves = [leaf_hash(data) for data in records]
    layout = Layout()
    files = {file.path: file.data for file in layout.files(records)}
    checkpoint = SIGNER.sign(layout.head)
    files["checkpoint"] = checkpoint.encode()
    files["example.com-log.pub"] = f"{SIGNER.vkey}\n".encode()
    vectors = {f"export/{path}": data for path, data in files.items()}
    vectors["earlier.checkpoint"] = SIGNER.sign(Head(EARLIER, root_of(leaves[:EARLIER]))).encode()
    vectors["growth"] = str(Growth(EARLIER, consistency_path(leaves, EARLIER, SIZE), checkpoint)).encode()
    vectors[f"record-{PROVED}.json"] = records[PROVED]
    proof = Proof(PROVED, inclusion_path(leaves, PROVED, SIZE), checkpoint)
    vectors[f"record-{PROVED}.tlog-proof"] = str(proof).encode()
    vectors |= rotated()
    for path, data in vectors.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(data)


def rotated() -> dict[str, bytes]:
    before = encode(Draft("system.note", "", {}), seq=0, id="rec_0", ts_us=BASE_US).data
    note = statement(SIGNER, SECOND, Head(1, leaf_hash(before)))
    detail = {"old": SIGNER.vkey, "new": SECOND.vkey, "until_us": BASE_US, "statement": note}
    handed = encode(Draft(KIND, "", {"detail": detail}), seq=1, id="rec_1", ts_us=BASE_US).data
    after = encode(Draft("system.note", "", {}), seq=2, id="rec_2", ts_us=BASE_US).data
    layout = Layout()
    files = {f"rotated/{file.path}": file.data for file in layout.files([before, handed, after])}
    files["rotated/checkpoint"] = SECOND.sign(layout.head).encode()
    files["rotated/example.com-log.pub"] = f"{SECOND.vkey}\n".encode()
    files[f"rotated/example.com-log.{SIGNER.verifier.id.hex()}.pub"] = f"{SIGNER.vkey}\n".encode()
    return {**files, "first.pub": f"{SIGNER.vkey}\n".encode()}


if __name__ == "__main__":
    make(Path(sys.argv[1]))
