#!/usr/bin/env python3
"""Verify an exported Checkrein ledger, or one proof from it, with nothing but its public key.

    python verify_ledger.py EXPORT --key LOG.pub                         a directory: every byte of it counts
    python verify_ledger.py EXPORT --key LOG.pub --consistency OLD       ... and it extends the checkpoint OLD
    python verify_ledger.py RECORD.tlog-proof --key LOG.pub --record RECORD.json
    python verify_ledger.py GROWTH --key LOG.pub --consistency OLD       a file: a newer checkpoint extends OLD

Take LOG.pub from somebody you trust, not from the export. `--key` may be given several times, such as for a
witness. The first line of output is the verdict. Exit code 0: verified, 6: not verified, 2: wrong usage.

Needs Python >= 3.9 and the package `cryptography`, and nothing else: read it, it is meant to be read. What is
checked: the signature (C2SP signed-note, tlog-checkpoint), that the directory holds the files of a log of the
signed size and no others (C2SP tlog-tiles), that every hash is the hash of what it stands for and the last one has
the signed root (RFC 6962), and that the records are canonical JSON (RFC 8785) in one unbroken sequence, whose time
never falls, with no execution started before a decision that allows it.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import itertools
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

WIDTH = 256
HASH = 32
MAX_RECORD = 65_535
MAX_INTEGER = 2**53 - 1
MAX_TEXT = 65_536
MAX_PROBLEMS = 20
#: bundles one worker checks at a time
BATCH = 32
#: patterns for records that look alike
MAX_SHAPES = 16
#: longer records are read in full, one by one
MAX_SHAPED = 4096
RUNS = (b"allow", b"allow_with_redaction")
EMPTY_ROOT = sha256(b"").digest()


class Invalid(Exception):
    """What was given does not verify."""


class Usage(Exception):
    """It cannot even be looked at."""


# --- keys and signed notes --------------------------------------------------------------------------------------


class Key(NamedTuple):
    """A public key as it travels: `name+id+base64(kind || key)`. Kind 1 signs notes, 4 cosigns them with a time."""

    name: str
    id: bytes
    kind: int
    raw: bytes


class Note(NamedTuple):
    """A checkpoint: origin, size and root; `signatures` are (key name, key id, signature)."""

    origin: str
    size: int
    root: bytes
    body: bytes
    signatures: list[tuple[str, bytes, bytes]]


def unbase64(text: str) -> bytes:
    """Standard base64, one text for each value."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("it holds broken base64") from None
    if base64.b64encode(raw).decode() != text:
        raise Invalid("it holds broken base64")
    return raw


def number(text: str) -> int:
    """Decimal digits, no leading zero."""
    if not re.fullmatch("0|[1-9][0-9]{0,18}", text, re.ASCII):
        raise Invalid("a number in it is not one")
    return int(text)


def is_name(text: str) -> bool:
    return bool(text) and "+" not in text and not any(char.isspace() or char < " " for char in text)


def parse_key(line: str) -> Key:
    """One line of a key file."""
    name, _, rest = line.partition("+")
    id_text, _, encoded = rest.partition("+")
    try:
        raw = unbase64(encoded)
    except Invalid:
        raw = b""
    if not is_name(name) or len(raw) != 1 + HASH or raw[0] not in (1, 4):
        raise Invalid("the public key is damaged, or of a kind that is not known here")
    id = sha256(name.encode() + b"\n" + raw).digest()[:4]
    if id.hex() != id_text:
        raise Invalid("the public key does not belong to its key id")
    return Key(name, id, raw[0], raw[1:])


def parse_note(data: bytes) -> Note:
    """Read a checkpoint. Nothing in it is believed before `check_note`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid("the checkpoint is not text") from None
    body, separator, tail = text.rpartition("\n\n")
    lines = body.split("\n")
    if not separator or not tail.endswith("\n") or len(text) > MAX_TEXT or len(lines) < 3 or not all(lines):
        raise Invalid("the checkpoint is malformed")
    if any(char < " " and char != "\n" for char in text):
        raise Invalid("the checkpoint holds control characters")
    signatures = []
    for line in tail[:-1].split("\n"):
        dash, name, encoded = line.split(" ") if line.count(" ") == 2 else ("", "", "")
        if dash != "\u2014" or not is_name(name):
            raise Invalid("a signature line of the checkpoint is malformed")
        raw = unbase64(encoded)
        signatures.append((name, raw[:4], raw[4:]))
    root = unbase64(lines[2])
    if len(root) != HASH:
        raise Invalid("the root in the checkpoint is not a hash")
    return Note(lines[0], number(lines[1]), root, (body + "\n").encode(), signatures)


def check_note(note: Note, keys: list[Key]) -> set[Key]:
    """Which of these keys signed. A wrong signature by any of them spoils all; those by others are not looked at."""
    signed = set()
    for name, id, signature in note.signatures:
        for key in keys:
            if (key.name, key.id) == (name, id):
                message = note.body
                if key.kind == 4:
                    time = int.from_bytes(signature[:8], "big")
                    message, signature = b"cosignature/v1\ntime %d\n" % time + message, signature[8:]
                try:
                    Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, message)
                except (InvalidSignature, ValueError):
                    raise Invalid(f"the signature of `{name}` under the checkpoint is wrong") from None
                signed.add(key)
    return signed


def trusted_note(data: bytes, keys: list[Key]) -> Note:
    """A checkpoint that one of the keys given signed for its own log."""
    note = parse_note(data)
    if not any(key.name == note.origin and key.kind == 1 for key in check_note(note, keys)):
        raise Invalid(f"the checkpoint of `{note.origin}` is not signed by the key that was given")
    return note


# --- the tree ---------------------------------------------------------------------------------------------------


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def perfect_root(hashes: bytes) -> bytes:
    """The root over joined hashes whose number is a power of two."""
    while len(hashes) > HASH:
        pairs = range(0, len(hashes), 2 * HASH)
        hashes = b"".join([sha256(b"\x01" + hashes[at : at + 2 * HASH]).digest() for at in pairs])
    return hashes


def peaks(hashes: bytes) -> list[bytes]:
    """The roots of the perfect subtrees over fewer than 256 joined hashes, largest first."""
    found, at, count = [], 0, len(hashes) // HASH
    for power in (128, 64, 32, 16, 8, 4, 2, 1):
        if count & power:
            found.append(perfect_root(hashes[at : at + power * HASH]))
            at += power * HASH
    return found


def root_at(size: int, hashes_at: Callable[[int, int, int], bytes]) -> bytes:
    """The root of the tree of `size` records; `hashes_at(level, first, last)` gives hashes of a level, joined."""
    found: list[bytes] = []
    for level in range(8):
        last = size >> 8 * level
        found = peaks(hashes_at(level, last & ~0xFF, last)) + found
    if not found:
        return EMPTY_ROOT
    root = found.pop()
    while found:
        root = node(found.pop(), root)
    return root


def check_inclusion(note: Note, index: int, leaf: bytes, path: list[bytes]) -> None:
    """RFC 9162, 2.1.3.2."""
    bad = Invalid(f"the proof does not show this record at place {index} of the signed log")
    if index >= note.size:
        raise bad
    at, last, root = index, note.size - 1, leaf
    for sibling in path:
        if last == 0:
            raise bad
        if at & 1 or at == last:
            root = node(sibling, root)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            root = node(root, sibling)
        at, last = at >> 1, last >> 1
    if last or root != note.root:
        raise bad


def check_growth(old: Note, new: Note, path: list[bytes]) -> None:
    """RFC 9162, 2.1.4.2."""
    bad = Invalid(f"the log of {new.size} records does not extend the one of {old.size}")
    if old.size > new.size:
        raise bad
    if old.size in (0, new.size):
        if path or old.root != (new.root if old.size == new.size else EMPTY_ROOT):
            raise bad
        return
    path = [old.root, *path] if old.size & (old.size - 1) == 0 else path
    if not path:
        raise bad
    at, last = old.size - 1, new.size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old_root = new_root = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise bad
        if at & 1 or at == last:
            old_root, new_root = node(sibling, old_root), node(sibling, new_root)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            new_root = node(new_root, sibling)
        at, last = at >> 1, last >> 1
    if last or old_root != old.root or new_root != new.root:
        raise bad


# --- records ----------------------------------------------------------------------------------------------------

ENVELOPE = {"body": dict, "id": str, "kind": str, "seq": int, "trace_id": str, "ts_us": int, "v": int}
#: a canonical JSON string without escapes, an integer of at most 2**53 - 1 (a few large ones are read in full)
STRING = rb'"[^"\\\x00-\x1f]*"'
INTEGER = rb"(?:0|-?(?:[1-9][0-9]{0,14}|[1-8][0-9]{15}))"
CAPTURED = ("kind", "seq", "ts_us", "trace_id", "outcome", "decided", "ran")
#: where in a record the captured values stand
PLACES = {
    ("kind",): "kind",
    ("seq",): "seq",
    ("ts_us",): "ts_us",
    ("trace_id",): "trace_id",
    ("body", "decision", "outcome"): "outcome",
    ("body", "decision", "evaluation_id"): "decided",
    ("body", "evaluation_id"): "ran",
}


class Seen(NamedTuple):
    """What the order of records depends on. `evaluation` names a decision within its trace."""

    kind: bytes
    seq: int
    ts_us: int
    evaluation: tuple[bytes, bytes]
    outcome: bytes


def parse_record(data: bytes) -> dict[str, Any]:
    """A record, in full; raises `ValueError` unless it is a canonical record of version 1."""

    def refuse(text: str) -> Any:
        raise ValueError(f"the number {text[:40]} has no place in a record")

    try:
        text = data.decode("utf-8")
        record = json.loads(text, parse_float=refuse, parse_constant=refuse)
        again = json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if again != text:  # also when a name stands twice in an object
        raise ValueError("its bytes are not canonical JSON")
    if not isinstance(record, dict) or record.keys() != ENVELOPE.keys():
        raise ValueError("it does not have the members of a record")
    for name, kind in ENVELOPE.items():
        if type(record[name]) is not kind:
            raise ValueError(f"its `{name}` is of the wrong type")
    if record["v"] != 1:
        raise ValueError(f"its version {record['v']} is not 1")
    pending: list[Any] = [record]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if not all(name.isascii() for name in value):
                raise ValueError("a name in it is not ASCII")
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise ValueError("an integer beyond 2^53-1 has no place in a record")
    return record


class Reader:
    """Reads records fast: the first of each shape in full, those that differ only in values by a pattern made of it."""

    def __init__(self) -> None:
        self._patterns: dict[tuple[int, int], list[re.Pattern[bytes]]] = {}

    def read(self, data: bytes) -> Seen:
        """Raises `ValueError` unless the record is canonical and complete."""
        known = self._patterns.setdefault((data.count(b'"'), data.count(b"{")), [])
        for pattern in known:
            match = pattern.fullmatch(data)
            if match:
                if not data.isascii():
                    data.decode("utf-8")
                kind, seq, ts_us, trace_id, outcome, decided, ran = match.group(*CAPTURED)
                return Seen(kind, int(seq), int(ts_us), (trace_id, decided or ran), outcome)
        record = parse_record(data)
        if len(known) < MAX_SHAPES and len(data) < MAX_SHAPED and b"\\" not in data:  # patterns know no escapes
            empty = (b"(?P<%s>)" % name.encode() for place, name in PLACES.items() if find(record, place) is None)
            with contextlib.suppress(RecursionError):  # nested deeply: right, but without a pattern
                known.append(re.compile(shape(record, ()) + b"".join(empty)))
        return seen(record)


def find(record: Any, place: tuple[str, ...]) -> str | int | None:
    """What stands at this place, if it is what belongs there: a number at the top for two of them, else text."""
    for name in place:
        record = record.get(name) if isinstance(record, dict) else None
    return record if type(record) is (int if place in (("seq",), ("ts_us",)) else str) else None


def seen(record: dict[str, Any]) -> Seen:
    """The slow way to what `Reader.read` captures."""
    values = {name: find(record, place) for place, name in PLACES.items()}
    texts = {name: value.encode() if isinstance(value, str) else b"" for name, value in values.items()}
    evaluation = texts["decided"] or texts["ran"]
    return Seen(texts["kind"], record["seq"], record["ts_us"], (texts["trace_id"], evaluation), texts["outcome"])


def shape(value: Any, place: tuple[str, ...]) -> bytes:
    """A pattern for the canonical JSON of all values that have the same names at the same places."""
    if isinstance(value, dict):
        members = (re.escape(json.dumps(name).encode()) + b":" + shape(value[name], (*place, name)) for name in value)
        return rb"\{" + b",".join(members) + rb"\}"
    if isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return rb"\[(?:%s(?:,%s)*)?\]" % (STRING, STRING)
        return rb"\[" + b",".join(shape(item, (*place, "")) for item in value) + rb"\]"
    if isinstance(value, bool):
        return b"(?:true|false)"
    if value is None:
        return b"null"
    name = PLACES.get(place, "").encode()
    if isinstance(value, int) and place not in (("seq",), ("ts_us",)):
        return b"1" if place == ("v",) else INTEGER
    if isinstance(value, str):
        return rb'"(?P<%s>[^"\\\x00-\x1f]*)"' % name if name else STRING
    return b"(?P<%s>%s)" % (name, INTEGER)


# --- an export --------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    record: int | None
    text: str


class Walked(NamedTuple):
    """What one worker found out about some bundles in a row."""

    #: the roots of the full bundles and the leaf hashes of the partial one, joined
    roots: bytes
    leaves: bytes
    #: the first record whose hash is not the one in the hash tile
    differs: int | None
    problems: list[Problem]
    #: the times of the first and the last record that could be read
    times: list[int]
    allowed: set[tuple[bytes, bytes]]
    #: starts with no decision among these bundles
    starts: list[tuple[int, tuple[bytes, bytes]]]


def place(index: int, width: int = WIDTH) -> str:
    """The end of a path: groups of three digits, all but the last with an `x`; the width of a partial tile."""
    text = f"{index % 1000:03d}"
    while index >= 1000:
        index //= 1000
        text = f"x{index % 1000:03d}/{text}"
    return text if width == WIDTH else f"{text}.p/{width}"


def paths(level: str, count: int) -> Iterator[str]:
    """The files of one level with `count` hashes or records."""
    for index in range(count // WIDTH):
        yield f"tile/{level}/{place(index)}"
    if count % WIDTH:
        yield f"tile/{level}/{place(count // WIDTH, count % WIDTH)}"


def read(export: Path, path: str) -> bytes:
    """A file of the export; nothing if it is missing, which is a problem of its own."""
    try:
        return (export / path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return b""


def split(data: bytes, width: int) -> tuple[list[bytes], bytes]:
    """The records of a bundle, and what is left when there are `width` of them or one is cut off."""
    records: list[bytes] = []
    at = 0
    while len(records) < width and at + 2 <= len(data):
        end = at + 2 + (data[at] << 8 | data[at + 1])
        if end > len(data):
            break
        records.append(data[at + 2 : end])
        at = end
    return records, data[at:]


def walk(job: tuple[Path, int, int, int]) -> Walked:
    """Check the bundles `first` to `last` - 1 of a log of `size` records."""
    export, size, first, last = job
    reader = Reader()
    found = Walked(b"", b"", None, [], [], set(), [])
    roots, leaves, differs, ts_us = [], b"", None, 0
    for index in range(first, last):
        start = index * WIDTH
        width = min(WIDTH, size - start)
        path = place(index, width)
        records, rest = split(read(export, f"tile/entries/{path}"), width)
        hashes = b"".join([sha256(b"\x00" + data).digest() for data in records])
        tile = read(export, f"tile/0/{path}")
        if hashes != tile and differs is None:
            differs = start + first_difference(hashes, tile)
        if rest or len(records) < width:
            missing = width - len(records)
            what = f"{missing} records are cut off or missing" if missing else f"{len(rest)} bytes too many"
            found.problems.append(Problem(start + len(records) if missing else None, f"tile/entries/{path}: {what}"))
        if len(hashes) == WIDTH * HASH:
            roots.append(perfect_root(hashes))
        elif width == WIDTH:
            roots.append(bytes(HASH))
        else:
            leaves = hashes
        for seq, data in enumerate(records, start):
            try:
                record = reader.read(data)
            except ValueError as error:
                found.problems.append(Problem(seq, f"record {seq} is damaged: {error}"))
                continue
            if record.seq != seq:
                found.problems.append(Problem(seq, f"record {seq} says that it is record {record.seq}"))
            if record.ts_us < ts_us:
                found.problems.append(Problem(seq, f"record {seq} is older than the record before it"))
            ts_us = record.ts_us
            found.times[1:] = [ts_us] if found.times else [ts_us, ts_us]
            if record.kind == b"decision":
                if record.outcome in RUNS:
                    found.allowed.add(record.evaluation)
            elif record.kind == b"execution.started" and record.evaluation not in found.allowed:
                found.starts.append((seq, record.evaluation))
    return found._replace(roots=b"".join(roots), leaves=leaves, differs=differs, problems=found.problems[:MAX_PROBLEMS])


def first_difference(hashes: bytes, tile: bytes) -> int:
    """The place of the first hash that is not the same in both."""
    at = 0
    while hashes[at : at + HASH] == tile[at : at + HASH] and at < len(hashes):
        at += HASH
    return at // HASH


def walk_all(export: Path, size: int) -> Iterator[Walked]:
    """Check every bundle, on all processors if there are many."""
    bundles = -(-size // WIDTH)
    jobs = [(export, size, at, min(at + BATCH, bundles)) for at in range(0, bundles, BATCH)]
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(jobs))
    done = 0
    if workers > 1:
        try:
            with ProcessPoolExecutor(workers) as pool:
                for walked in pool.map(walk, jobs):
                    yield walked
                    done += 1
        except (OSError, ImportError, RuntimeError, NotImplementedError):
            pass  # this place allows no second process: go on in this one
    for job in jobs[done:]:
        yield walk(job)


def list_files(export: Path) -> tuple[set[str], set[str]]:
    """The files and the directories of the export; there must be nothing else in it."""
    files: set[str] = set()
    folders: set[str] = set()
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(export / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    folders.add(path)
                    pending.append(path)
                elif stat.S_ISREG(mode):
                    files.add(path)
                else:
                    raise Invalid(f"{path} is neither a file nor a directory")
    return files, folders


def check_files(export: Path, note: Note, key_file: str, files: set[str], folders: set[str]) -> Iterator[Problem]:
    """The directory holds the files of a log of this size, perhaps older partial tiles that fit, and nothing else."""
    wanted = {"checkpoint", key_file, *paths("entries", note.size)}
    for level in range(8):
        wanted.update(paths(str(level), note.size >> 8 * level))
    for path in sorted(wanted - files):
        record = re.fullmatch(r"tile/entries/([x/0-9]+)(\.p/\d+)?", path)
        start = int(re.sub("[x/]", "", record[1])) * WIDTH if record else None
        yield Problem(start, f"{path} is missing")
    for path in sorted(files - wanted):
        if not is_older(export, path, wanted):
            yield Problem(None, f"{path} does not belong to a log of {note.size} records")
    used = {path.rsplit("/", up)[0] for path in files for up in range(1, path.count("/") + 1)}
    for path in sorted(folders - used):
        yield Problem(None, f"{path} is an empty directory")


def is_older(export: Path, path: str, wanted: set[str]) -> bool:
    """Whether this is a partial tile of an earlier export, and the beginning of the tile that took its place."""
    partial = re.fullmatch(r"(tile/(entries|[0-7])/(?:x\d{3}/)*\d{3})\.p/([1-9]\d{0,2})", path, re.ASCII)
    if not partial:
        return False
    width = int(partial[3])
    later = [partial[1], *(f"{partial[1]}.p/{wider}" for wider in range(width + 1, WIDTH))]
    now = next((read(export, candidate) for candidate in later if candidate in wanted), b"")
    data = read(export, path)
    count = len(split(data, WIDTH)[0]) if partial[2] == "entries" else len(data) // HASH
    return width < WIDTH and count == width and now.startswith(data) and len(data) > 0


def published_keys(export: Path, note: Note, keys: list[Key]) -> str:
    """The name of the export's key file, after a look at the keys in it: each signed, and one of them is known."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", note.origin)[:200] + ".pub"
    try:
        lines = read(export, name).decode("utf-8").split("\n")
        published = [parse_key(line) for line in lines[:-1]]
    except (UnicodeDecodeError, Invalid):
        raise Invalid(f"{name} is damaged") from None
    if not published or lines[-1]:
        raise Invalid(f"{name} is missing or damaged")
    if not set(published) <= check_note(note, published):
        raise Invalid(f"{name} holds a key that did not sign the checkpoint")
    if len(published) > len(set(published)) or len(note.signatures) > len({line[:2] for line in note.signatures}):
        raise Invalid("a key or a signature stands there twice")
    if not set(published) & set(keys):
        raise Invalid(f"{name} does not hold the key that was given")
    known = {(key.name, key.id) for key in (*published, *keys)}
    for signer, id, _ in note.signatures:
        if (signer, id) not in known:
            raise Invalid(f"the checkpoint has a signature by `{signer}` that no key given here can check")
    return name


class Export(NamedTuple):
    """A verified export: its checkpoint, and its hashes from level 1 up."""

    path: Path
    note: Note
    levels: list[bytes]

    def hashes(self, level: int, first: int, last: int) -> bytes:
        """Hashes `first` to `last` - 1 of a level, all in the same tile."""
        if level:
            return self.levels[level][first * HASH : last * HASH] if level < len(self.levels) else b""
        if first == last:
            return b""
        index = first // WIDTH
        width = min(WIDTH, self.note.size - index * WIDTH)
        return read(self.path, f"tile/0/{place(index, width)}")[: (last - first) * HASH]


def verify_export(path: Path, keys: list[Key]) -> tuple[Export, list[Problem]]:
    """Check every byte of an export; raises `Invalid` if its checkpoint is wrong, else gives what is."""
    files, folders = list_files(path)
    note = trusted_note(read(path, "checkpoint"), keys)
    problems = list(check_files(path, note, published_keys(path, note, keys), files, folders))
    differs, ts_us, start, roots, leaves = None, 0, 0, [], b""
    allowed: set[tuple[bytes, bytes]] = set()
    for walked in walk_all(path, note.size):
        roots.append(walked.roots)
        leaves = walked.leaves
        problems += walked.problems
        differs = walked.differs if differs is None else differs
        if walked.times and walked.times[0] < ts_us:
            problems.append(Problem(start, f"record {start} is older than the record before it"))
        ts_us = walked.times[1] if walked.times else ts_us
        for seq, evaluation in walked.starts:
            if evaluation not in allowed:
                text = f"record {seq} starts an execution that no earlier decision of its trace allowed"
                problems.append(Problem(seq, text))
        allowed |= walked.allowed
        start += BATCH * WIDTH
    levels, wrong = build_levels(path, b"".join(roots))
    export = Export(path, note, levels)
    root = root_at(note.size, lambda level, first, last: export.hashes(level, first, last) if level else leaves)
    if differs is not None:
        chief, wrong = compare_tiles(export, differs, root == note.root, wrong)
        problems.insert(0, chief)
    elif root != note.root:
        text = "the records fit their hashes, but not the signed root: the log was rewritten after it was signed"
        problems.insert(0, Problem(None, text))
    return export, problems + wrong


def build_levels(path: Path, roots: bytes) -> tuple[list[bytes], list[Problem]]:
    """All hashes above the leaves, computed from the roots of the lowest tiles, and the tiles that say otherwise."""
    levels, wrong = [b"", roots], []
    while levels[-1]:
        level, hashes, above = len(levels) - 1, levels[-1], []
        for index, name in enumerate(paths(str(level), len(hashes) // HASH)):
            tile = hashes[index * WIDTH * HASH : (index + 1) * WIDTH * HASH]
            stored = read(path, name)
            if stored != tile:
                first = (index * WIDTH + first_difference(tile, stored)) * WIDTH**level
                wrong.append(Problem(None, f"{name} does not hold the hashes of what lies below it, from {first} on"))
            if len(tile) == WIDTH * HASH:
                above.append(perfect_root(tile))
        levels.append(b"".join(above))
    return levels, wrong


def compare_tiles(
    export: Export, differs: int, records_fit: bool, wrong: list[Problem]
) -> tuple[Problem, list[Problem]]:
    """Records and the hashes beside them disagree at `differs`: say which were changed, and which tiles above."""
    if records_fit:
        return Problem(
            None, f"the hash tiles are wrong at record {differs}; the records themselves are as signed"
        ), wrong
    tiles = (read(export.path, name) for name in paths("0", export.note.size))
    levels, by_tiles = build_levels(export.path, b"".join(perfect_root(t) for t in tiles if len(t) == WIDTH * HASH))
    if root_at(export.note.size, export._replace(levels=levels).hashes) == export.note.root:
        text = f"record {differs} is not what was signed: it does not have the hash in the signed tree"
        return Problem(differs, text), by_tiles
    return Problem(
        differs, f"record {differs} does not have the hash beside it, and neither fits the signed root"
    ), wrong


def check_extends(export: Export, old: Note) -> None:
    """The export begins with the records of an older checkpoint."""
    if old.size > export.note.size:
        raise Invalid(f"the older checkpoint has {old.size} records, the export only {export.note.size}")
    if old.origin != export.note.origin:
        raise Invalid(f"the older checkpoint is of another log, `{old.origin}`")
    if root_at(old.size, export.hashes) != old.root:
        raise Invalid(f"the export does not extend the checkpoint of {old.size} records: history was rewritten")


# --- proofs -----------------------------------------------------------------------------------------------------


def parse_proof(data: bytes) -> tuple[str, int, list[bytes], bytes]:
    """Kind (`index` or `old`), its number, the hashes, and the checkpoint below."""
    above, _, checkpoint = data.partition(b"\n\n")
    try:
        lines = above.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Invalid("the proof is malformed") from None
    kind = "old"
    if lines[0] == "c2sp.org/tlog-proof@v1":
        kind = "index"
        del lines[0]
        if lines and lines[0].startswith("extra "):
            unbase64(lines.pop(0)[6:])
    if not lines or not lines[0].startswith(kind + " ") or len(lines) > 64:
        raise Invalid("it is neither a proof of a record nor of consistency")
    path = [unbase64(line) for line in lines[1:]]
    if any(len(hash) != HASH for hash in path):
        raise Invalid("a line of the proof is not a hash")
    return kind, number(lines[0][len(kind) + 1 :]), path, checkpoint


def verify_record(data: bytes, index: int, path: list[bytes], note: Note) -> None:
    """One record stands in the signed log. A line end behind it does not count."""
    data = data[:-1] if data.endswith(b"\n") else data
    check_inclusion(note, index, sha256(b"\x00" + data).digest(), path)
    try:
        record = parse_record(data)
    except ValueError as error:
        raise Invalid(f"the record is damaged: {error}") from None
    if record["seq"] != index:
        raise Invalid(f"the record says that it is record {record['seq']}, the proof is of {index}")


# --- the command ------------------------------------------------------------------------------------------------


def load(path: Path, what: str) -> bytes:
    """A file that was named on the command line."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_RECORD + MAX_TEXT)
    except OSError as error:
        raise Usage(f"{what} {path} cannot be read: {(error.strerror or 'failed').lower()}") from None


def load_keys(files: list[Path]) -> list[Key]:
    keys = []
    for file in files:
        try:
            text = load(file, "the key").decode("utf-8")
        except UnicodeDecodeError:
            raise Invalid("the public key is damaged") from None
        keys += [parse_key(line) for line in text.strip(" \t\r\n").replace("\r", "").split("\n")]
    return keys


def verify(options: argparse.Namespace) -> tuple[str, list[Problem], list[str]]:
    """What verified or was to verify, the problems, and notes on what was not looked at."""
    keys = load_keys(options.key)
    old = None
    if options.consistency:
        old_path = options.consistency / "checkpoint" if options.consistency.is_dir() else options.consistency
        old = trusted_note(load(old_path, "the older checkpoint"), keys)
    if options.subject.is_dir():
        if options.record:
            raise Usage("--record goes with a proof, not with an export")
        export, problems = verify_export(options.subject, keys)
        if old is not None and not problems:
            check_extends(export, old)
        said = f"{export.note.size} records of {export.note.origin}"
        own = all(options.subject.resolve() in file.resolve().parents for file in options.key)
        hint = "the key came out of the export itself: this shows that the export is whole, not whose it is"
        return said + (f", extending {old.size}" if old else ""), problems, [hint] if own else []
    kind, at, path, below = parse_proof(load(options.subject, "the proof"))
    note = trusted_note(below, keys)
    unknown = len(note.signatures) - len(check_note(note, keys))
    notes = [f"{unknown} signatures by other keys were not checked"] if unknown else []
    if kind == "index":
        if not options.record or old is not None:
            raise Usage("a proof of a record needs --record FILE, and no --consistency")
        verify_record(load(options.record, "the record"), at, path, note)
        return f"record {at} among {note.size} of {note.origin}", [], notes
    if old is None or options.record:
        raise Usage("a proof of consistency needs --consistency OLD, and no --record")
    if (old.size, old.origin) != (at, note.origin):
        raise Invalid(f"the proof is not about the older checkpoint: that has {old.size} records of {old.origin}")
    check_growth(old, note, path)
    return f"{note.size} records of {note.origin}, extending {old.size}", [], notes


def show(text: str) -> None:
    """A line for people, with everything written as an escape that a terminal might obey."""
    print(text.encode("unicode_escape").decode("ascii"))


def main(arguments: list[str] | None = None) -> int:
    """Print the verdict; 0 if it verifies, 6 if not."""
    parser = argparse.ArgumentParser(prog="verify_ledger.py", description="Verify a Checkrein ledger export or proof.")
    parser.add_argument(
        "subject", type=Path, metavar="EXPORT|PROOF", help="the directory of an export, or the file of a proof"
    )
    parser.add_argument(
        "--key", type=Path, action="append", required=True, metavar="FILE", help="the public key of the log"
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="the record that a proof is about, exactly as exported"
    )
    parser.add_argument("--consistency", type=Path, metavar="OLD", help="an older checkpoint, or an older export")
    options = parser.parse_args(arguments)
    try:
        said, problems, notes = verify(options)
    except Usage as error:
        show(f"cannot verify: {error}")
        return 2
    except Invalid as error:
        said, problems, notes = "", [Problem(None, str(error))], []
    except OSError as error:
        said, problems, notes = "", [Problem(None, f"{error.filename} cannot be read: {error.strerror}")], []
    named = sorted(problem.record for problem in problems if problem.record is not None)
    if not problems:
        show(f"verified: {said}")
    else:
        chief = next((problem for problem in problems if named and problem.record == named[0]), problems[0])
        show(f"NOT VERIFIED: {chief.text}")
        show(f"first bad record: {named[0] if named else 'not known'}")
        for problem in itertools.islice((other for other in problems if other is not chief), MAX_PROBLEMS):
            show(f"  {problem.text}")
    for line in notes:
        show(f"note: {line}")
    return 6 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
