"""A small witness, written from C2SP tlog-witness and tlog-cosignature, that shares no code with the ledger.

It refuses forks, and can be told to be broken.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from checkrein.verifier import verify_ledger
from checkrein.verifier.verify_ledger import Invalid, Note

NOW = 1_767_225_600
Answer = tuple[int, str, str]


class TlogWitness:
    """An ASGI application. `logs` are the key lines it trusts, by origin; `seen` the last it cosigned."""

    def __init__(self, name: str = "witness.example/w1", seed: int = 9) -> None:
        self.name = name
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        raw = b"\x04" + self._key.public_key().public_bytes_raw()
        self._id = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
        self.vkey = f"{name}+{self._id.hex()}+{base64.b64encode(raw).decode()}"
        self.logs: dict[str, list[str]] = {}
        self.seen: dict[str, Note] = {}
        self.requests: list[bytes] = []
        #: answered in the place of what the specification says, if set
        self.broken: Answer | None = None

    def trust(self, vkey: str) -> None:
        self.logs.setdefault(vkey.partition("+")[0], []).append(vkey)

    def line(self, note: Note, time: int = NOW) -> str:
        message = b"cosignature/v1\ntime %d\n" % time + note.body
        raw = self._id + time.to_bytes(8, "big") + self._key.sign(message)
        return f"\u2014 {self.name} {base64.b64encode(raw).decode()}\n"

    def add(self, body: bytes) -> Answer:
        if self.broken:
            return self.broken
        above, _, below = body.partition(b"\n\n")
        try:
            first, *lines = above.decode().split("\n")
            note = verify_ledger.parse_note(below)
            if not first.startswith("old ") or len(lines) > 63:
                raise Invalid("no old size")
            old, path = verify_ledger.number(first[4:]), verify_ledger.parse_path(lines)
        except (Invalid, ValueError) as error:
            return 400, "text/plain", str(error)
        if note.origin not in self.logs:
            return 404, "text/plain", "unknown log"
        try:
            keys = [verify_ledger.parse_key(line) for line in self.logs[note.origin]]
            if not verify_ledger.check_note(note, keys):
                raise Invalid("not signed")
        except Invalid as error:
            return 403, "text/plain", str(error)
        if old > note.size:
            return 400, "text/plain", "old size"
        empty = Note(note.origin, 0, verify_ledger.EMPTY_ROOT, b"", [])
        latest = self.seen.get(note.origin, empty)
        if old != latest.size or (old == note.size and latest.root != note.root):
            return 409, "text/x.tlog.size", f"{latest.size}\n"
        try:
            verify_ledger.check_growth(latest, note, path)
        except Invalid as error:
            return 422, "text/plain", str(error)
        self.seen[note.origin] = note
        return 200, "text/plain; charset=utf-8", self.line(note)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.requests.append(body)
        found = (scope["method"], scope["path"]) == ("POST", "/prefix/add-checkpoint")
        status, kind, answer = self.add(body) if found else (404, "text/plain", "")
        headers = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.encode()})
