#!/usr/bin/env python3
"""Verify an exported Checkrein ledger, or one proof from it, with nothing but its public key.

    python verify_ledger.py EXPORT --key LOG.pub                         a directory: every byte of it counts
    python verify_ledger.py EXPORT --key LOG.pub --consistency OLD       ... and it extends the checkpoint OLD
    python verify_ledger.py EXPORT --key LOG.pub --witness-key W.pub     ... and the witness W has seen it too
    python verify_ledger.py RECORD.tlog-proof --key LOG.pub --record RECORD.json
    python verify_ledger.py GROWTH --key LOG.pub --consistency OLD       a file: a newer checkpoint extends OLD

Take LOG.pub from somebody you trust, not from the export; any key that the log ever had will do: records signed by
both keys lead from each to the next. `--key` and `--witness-key` may be given several times. The first line of output
is the verdict. Exit code 0: verified, 6: not verified, 2: wrong usage.

Needs Python >= 3.9 and the package `cryptography`, and nothing else: read it, it is meant to be read. What is
checked: the signature (C2SP signed-note, tlog-checkpoint), that the directory holds the files of a log of the
signed size and no others (C2SP tlog-tiles), that every hash is the hash of what it stands for and the last one has
the signed root (RFC 6962), and that the records are canonical JSON (RFC 8785) in one unbroken sequence, whose time
never falls, with no execution started before a decision that allows it, and no key that did not get the log from the
one before it. What a witness cosigned (C2SP tlog-cosignature) must be a beginning of the log.
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
#: a file named on the command line, such as a proof with every rotation of the key
MAX_FILE = 4 * 1024 * 1024
MAX_PROBLEMS = 20
#: bundles one worker checks at a time
BATCH = 32
#: patterns for records that look alike
MAX_SHAPES = 16
#: longer records are read in full, one by one
MAX_SHAPED = 4096
ROTATED = b"key.rotated"
ROTATION = "checkrein-key-rotation/v1"
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


def split_note(text: str) -> tuple[list[str], list[tuple[str, bytes, bytes]]]:
    """The lines of a signed note, and its signatures."""
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
    return lines, signatures


def parse_note(data: bytes) -> Note:
    """Read a checkpoint. Nothing in it is believed before `check_note`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Invalid("the checkpoint is not text") from None
    lines, signatures = split_note(text)
    root = unbase64(lines[2])
    if len(root) != HASH:
        raise Invalid("the root in the checkpoint is not a hash")
    return Note(lines[0], number(lines[1]), root, ("\n".join(lines) + "\n").encode(), signatures)


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


class Rotation(NamedTuple):
    """Record `seq` hands the log, which had this size and root, from one key to the next."""

    seq: int
    old: Key
    new: Key
    size: int
    root: bytes


def parse_rotation(data: bytes, seq: int) -> Rotation:
    """What a record `key.rotated` says; raises `Invalid` unless both keys signed exactly that."""
    try:
        record = parse_record(data)
        detail = record["body"].get("detail")
        text = detail.get("statement") if isinstance(detail, dict) else None
        if record["kind"].encode() != ROTATED or record["seq"] != seq or not isinstance(text, str):
            raise Invalid("it has no statement")
        lines, signatures = split_note(text)
        if len(lines) != 6 or lines[0] != ROTATION:
            raise Invalid("its statement is of another form")
        old, new = parse_key(lines[2]), parse_key(lines[3])
        found = Rotation(seq, old, new, number(lines[4]), unbase64(lines[5]))
        if [detail.get("old"), detail.get("new")] != lines[2:4] or old == new:
            raise Invalid("it names other keys than its statement")
        if not all(key.kind == 1 and key.name == lines[1] for key in (old, new)) or found.size > seq:
            raise Invalid("its statement is not about this log")
        note = Note(lines[1], found.size, found.root, ("\n".join(lines) + "\n").encode(), signatures)
        if len(signatures) != 2 or check_note(note, [old, new]) != {old, new}:
            raise Invalid("its statement is not signed by both keys")
    except (ValueError, Invalid) as error:
        raise Invalid(f"record {seq} is a forged key rotation: {error}") from None
    return found


def check_line(rotations: list[Rotation]) -> None:
    """Every rotation hands on what the one before handed over."""
    for at in range(1, len(rotations)):
        if rotations[at - 1].new != rotations[at].old or rotations[at - 1].seq >= rotations[at].seq:
            raise Invalid(f"record {rotations[at].seq} rotates a key that was not the log's")


def line_of(rotations: list[Rotation]) -> list[Key]:
    """The keys of the log from the first to the current one; none if it was never rotated."""
    return [rotations[0].old, *(rotation.new for rotation in rotations)] if rotations else []


def trust(note: Note, keys: list[Key], rotations: list[Rotation]) -> Note:
    """The note, if one of the keys given signed it, or the one whose turn it was in a line that holds one of them."""
    line = line_of(rotations)
    signed = check_note(note, [*keys, *line])
    if set(line) & set(keys):
        due = line[sum(rotation.seq < note.size for rotation in rotations)]
        if due not in signed or due.name != note.origin:
            raise Invalid(f"the checkpoint of {note.size} records is not signed by the key whose turn it was")
    elif not any(key.name == note.origin and key.kind == 1 for key in signed & set(keys)):
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
    rotations: list[Rotation]


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
    found = Walked(b"", b"", None, [], [], set(), [], [])
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
            elif record.kind == ROTATED:
                try:
                    found.rotations.append(parse_rotation(data, seq))
                except Invalid as error:
                    found.problems.append(Problem(seq, str(error)))
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


def check_files(export: Path, note: Note, beside: set[str], files: set[str], folders: set[str]) -> Iterator[Problem]:
    """The directory holds the files of a log of this size and those beside it, perhaps older partial tiles that fit,
    and nothing else."""
    wanted = {"checkpoint", *beside, *paths("entries", note.size)}
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


def file_name(origin: str, id: bytes = b"") -> str:
    """The name of a key file: of the current key, of an earlier one with its id."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", origin)[:200] + (f".{id.hex()}" if id else "") + ".pub"


def published_keys(export: Path, name: str, note: Note) -> list[Key]:
    """The keys in a key file of the export, each of which must have signed the note."""
    try:
        lines = read(export, name).decode("utf-8").split("\n")
        published = [parse_key(line) for line in lines[:-1]]
    except (UnicodeDecodeError, Invalid):
        raise Invalid(f"{name} is damaged") from None
    if not published or lines[-1]:
        raise Invalid(f"{name} is missing or damaged")
    if not set(published) <= check_note(note, published):
        raise Invalid(f"{name} holds a key that did not sign the checkpoint")
    if len(published) > len(set(published)):
        raise Invalid("a key or a signature stands there twice")
    return published


def check_keys(export: Path, note: Note, keys: list[Key], rotations: list[Rotation]) -> set[str]:
    """The names of the export's key files, after a look at the keys in them: the log's, and one of them is known."""
    current, line = file_name(note.origin), line_of(rotations)
    published = published_keys(export, current, note)
    if line and line[-1] not in published:
        raise Invalid(f"{current} does not hold the current key of the log")
    if not {*published, *line} & set(keys):
        raise Invalid(f"{current} does not hold the key that was given")
    earlier = {file_name(key.name, key.id): key for key in line[:-1]}
    for name, key in earlier.items():
        if key_line(key) != read(export, name):
            raise Invalid(f"{name} is missing or damaged")
    check_signatures(note, [*published, *line, *keys])
    return {current, *earlier}


def key_line(key: Key) -> bytes:
    """A key file with one key."""
    encoded = base64.b64encode(bytes([key.kind]) + key.raw).decode()
    return f"{key.name}+{key.id.hex()}+{encoded}\n".encode()


def check_signatures(note: Note, keys: list[Key]) -> None:
    """Every signature under the note can be checked, and none stands there twice."""
    if len(note.signatures) > len({line[:2] for line in note.signatures}):
        raise Invalid("a key or a signature stands there twice")
    known = {(key.name, key.id) for key in keys}
    for signer, id, _ in note.signatures:
        if (signer, id) not in known:
            raise Invalid(f"the checkpoint has a signature by `{signer}` that no key given here can check")
    check_note(note, keys)


class Witnessed(NamedTuple):
    """What a witness cosigned last of the log in an export."""

    witness: Key
    note: Note


def read_witnessed(export: Path, files: set[str]) -> tuple[set[str], list[Witnessed]]:
    """The files below `witness`: of each witness its key and the checkpoint with its cosignature."""
    names: set[str] = set()
    found = []
    for name in sorted(files):
        if name.startswith("witness/") and name.endswith(".pub"):
            note = parse_note(read(export, f"{name[:-4]}.checkpoint"))
            keys = published_keys(export, name, note)
            if len(keys) != 1 or keys[0].kind != 4 or name != f"witness/{keys[0].id.hex()}.pub":
                raise Invalid(f"{name} is not the key of a witness")
            names.update((name, f"{name[:-4]}.checkpoint"))
            found.append(Witnessed(keys[0], note))
    return names, found


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


class Verified(NamedTuple):
    """What an export turned out to be."""

    export: Export
    rotations: list[Rotation]
    witnessed: list[Witnessed]
    problems: list[Problem]


def verify_export(path: Path, keys: list[Key]) -> Verified:
    """Check every byte of an export; raises `Invalid` if nothing in it can be believed, else says what is wrong."""
    files, folders = list_files(path)
    note = parse_note(read(path, "checkpoint"))
    if note.size > len(files) * WIDTH:
        raise Invalid(f"most files of a log of {note.size} records are missing")
    beside, witnessed = read_witnessed(path, files)
    problems: list[Problem] = []
    differs, ts_us, start, roots, leaves = None, 0, 0, [], b""
    allowed: set[tuple[bytes, bytes]] = set()
    rotations: list[Rotation] = []
    for walked in walk_all(path, note.size):
        roots.append(walked.roots)
        leaves = walked.leaves
        problems += walked.problems
        rotations += walked.rotations
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
    try:
        check_line(rotations)
        trust(note, keys, rotations)
        beside |= check_keys(path, note, keys, rotations)
    except Invalid as error:
        return Verified(Export(path, note, []), rotations, witnessed, [Problem(None, str(error)), *problems])
    problems = [*check_files(path, note, beside, files, folders), *problems]
    levels, wrong = build_levels(path, b"".join(roots))
    export = Export(path, note, levels)
    root = root_at(note.size, lambda level, first, last: export.hashes(level, first, last) if level else leaves)
    if differs is not None:
        chief, wrong = compare_tiles(export, differs, root == note.root, wrong)
        problems.insert(0, chief)
    elif root != note.root:
        text = "the records fit their hashes, but not the signed root: the log was rewritten after it was signed"
        problems.insert(0, Problem(None, text))
    problems += wrong
    if not problems:
        problems += check_past(export, keys, rotations, witnessed)
    return Verified(export, rotations, witnessed, problems)


def check_past(
    export: Export, keys: list[Key], rotations: list[Rotation], witnessed: list[Witnessed]
) -> Iterator[Problem]:
    """What the keys and the witnesses signed before are beginnings of the log."""
    for rotation in rotations:
        if root_at(rotation.size, export.hashes) != rotation.root:
            text = f"record {rotation.seq} rotates the key of a log with other records before it"
            yield Problem(rotation.seq, text)
    for witness, note in witnessed:
        try:
            check_signatures(note, [witness, *keys, *line_of(rotations), *published_log_keys(export)])
            check_extends(export, trust(note, [*keys, *published_log_keys(export)], rotations))
        except Invalid as error:
            yield Problem(None, f"what `{witness.name}` cosigned is not of this log: {error}")


def published_log_keys(export: Export) -> list[Key]:
    """The keys of the log that the export itself holds, and that signed its checkpoint."""
    return published_keys(export.path, file_name(export.note.origin), export.note)


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


class Proof(NamedTuple):
    """A proof of a record (`index`) or of growth (`old`), its number, the hashes, and the checkpoint below."""

    kind: str
    at: int
    path: list[bytes]
    extra: bytes
    checkpoint: bytes


def parse_proof(data: bytes) -> Proof:
    above, _, checkpoint = data.partition(b"\n\n")
    try:
        lines = above.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Invalid("the proof is malformed") from None
    kind, extra = "old", b""
    if lines[0] == "c2sp.org/tlog-proof@v1":
        kind = "index"
        del lines[0]
        if lines and lines[0].startswith("extra "):
            extra = unbase64(lines.pop(0)[6:])
    if not lines or not lines[0].startswith(kind + " ") or len(lines) > 64:
        raise Invalid("it is neither a proof of a record nor of consistency")
    return Proof(kind, number(lines[0][len(kind) + 1 :]), parse_path(lines[1:]), extra, checkpoint)


def parse_path(lines: list[str]) -> list[bytes]:
    path = [unbase64(line) for line in lines]
    if any(len(hash) != HASH for hash in path):
        raise Invalid("a line of the proof is not a hash")
    return path


def proved_rotations(extra: bytes, note: Note) -> list[Rotation]:
    """The rotations of the key that a proof brings along, each proved like the record itself. Other extra data are
    nobody's business."""
    try:
        links = [(link["record"].encode(), link["path"]) for link in json.loads(extra)["rotations"]]
        found = [parse_rotation(data, parse_record(data)["seq"]) for data, _ in links]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    for at, (data, path) in enumerate(links):
        check_inclusion(note, found[at].seq, sha256(b"\x00" + data).digest(), parse_path(path))
    check_line(found)
    return found


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
            return file.read(MAX_FILE)
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
    keys, witnesses = load_keys(options.key), load_keys(options.witness_key)
    old = None
    if options.consistency:
        old_path = options.consistency / "checkpoint" if options.consistency.is_dir() else options.consistency
        old = parse_note(load(old_path, "the older checkpoint"))
    if options.subject.is_dir():
        if options.record:
            raise Usage("--record goes with a proof, not with an export")
        return verified_export(options, keys, witnesses, old)
    kind, at, path, extra, below = parse_proof(load(options.subject, "the proof"))
    note = parse_note(below)
    rotations = proved_rotations(extra, note)
    trust(note, keys, rotations)
    signed = check_note(note, [*keys, *witnesses, *line_of(rotations)])
    require_witnesses(witnesses, dict.fromkeys(signed, note.size))
    unknown = len(note.signatures) - len(signed)
    notes = [f"{unknown} signatures by other keys were not checked"] if unknown else []
    if kind == "index":
        if not options.record or old is not None:
            raise Usage("a proof of a record needs --record FILE, and no --consistency")
        verify_record(load(options.record, "the record"), at, path, note)
        return f"record {at} among {note.size} of {note.origin}", [], notes
    if old is None or options.record:
        raise Usage("a proof of consistency needs --consistency OLD, and no --record")
    trust(old, keys, [])
    if (old.size, old.origin) != (at, note.origin):
        raise Invalid(f"the proof is not about the older checkpoint: that has {old.size} records of {old.origin}")
    check_growth(old, note, path)
    return f"{note.size} records of {note.origin}, extending {old.size}", [], notes


def verified_export(
    options: argparse.Namespace, keys: list[Key], witnesses: list[Key], old: Note | None
) -> tuple[str, list[Problem], list[str]]:
    """The same for an export."""
    export, rotations, witnessed, problems = verify_export(options.subject, keys)
    said = f"{export.note.size} records of {export.note.origin}"
    if not problems:
        if old is not None:
            check_extends(export, trust(old, keys, rotations))
            said += f", extending {old.size}"
        at_head = dict.fromkeys(check_note(export.note, witnesses), export.note.size)
        seen = {**{witness: note.size for witness, note in witnessed}, **at_head}
        require_witnesses(witnesses, seen)
        said += "".join(f", of which {key.name} cosigned {size}" for key, size in seen.items() if key in witnesses)
    notes = [
        f"record {seq} hands the log from key {old.id.hex()} to {new.id.hex()}" for seq, old, new, _, _ in rotations
    ]
    if all(options.subject.resolve() in file.resolve().parents for file in options.key):
        notes.append("the key came out of the export itself: this shows that the export is whole, not whose it is")
    return said, problems, notes


def require_witnesses(witnesses: list[Key], seen: dict[Key, int]) -> None:
    for witness in witnesses:
        if witness not in seen:
            raise Invalid(f"the witness `{witness.name}` has cosigned nothing of this")


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
        "--witness-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="the key of a witness that must have cosigned",
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
