"""Witnesses outside this host: they cosign each checkpoint once they have seen that it only extends the last.

Speaks C2SP tlog-witness v1 and keeps what comes back, a checkpoint with one cosignature, beside the ledger; whoever
trusts the witness then need not trust us that nobody was shown another history. A witness that cannot be reached
keeps nothing from running: it is asked again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

import msgspec

from checkrein.ledger import checkpoint as notes
from checkrein.ledger.checkpoint import Checkpoint, Cosigned, VerifierKey
from checkrein.model import CheckreinError, LedgerInvalid, UpstreamUnavailable
from checkrein.services.audit import Trail
from checkrein.services.evidence import Signed, extension

log = logging.getLogger("checkrein.witness")

#: how long a witness that failed is left alone at the most, seconds
_LONGEST_PAUSE_S = 300.0
#: how long the end of the process waits for a witness that does not answer, seconds
_PATIENCE_S = 2.0
#: requests in which a witness and we must come to the same size
_TRIES = 4
_COSIGNED, _FORBIDDEN, _UNKNOWN, _CONFLICT, _INCONSISTENT = 200, 403, 404, 409, 422
_FORK = "somebody was shown another history: compare checkpoints that others keep, and run `checkrein audit verify`"


class Reached(Protocol):
    """The way to one witness."""

    def add_checkpoint(self, body: bytes) -> tuple[int, str]:
        """POST it; status and answer. Raises `UpstreamUnavailable` when no answer comes."""


class Witness(msgspec.Struct, frozen=True):
    """One witness: its name in the configuration, its key, and the way to it."""

    name: str
    key: VerifierKey
    reached: Reached


class Cosigning(Signed, Protocol):
    """What lies beside the records, with room for what witnesses cosigned."""

    def write_cosigned(self, cosigned: Cosigned) -> None:
        """Keep the checkpoint that this witness cosigned last."""


def cosign(witness: Witness, store: Trail, data: Cosigning) -> int:
    """Have the newest checkpoint cosigned, unless it is; for how many records the witness stands now.

    Raises `UpstreamUnavailable` if it gives no usable answer, `LedgerInvalid` if it saw another history.
    """
    kept = [Checkpoint.parse(kept.note).head.size for kept in data.cosigned() if kept.vkey == str(witness.key)]
    old = kept[0] if kept else 0
    for _ in range(_TRIES):
        note = data.checkpoint()  # again each time: another process may have brought the witness further
        size = Checkpoint.parse(note).head.size
        if kept == [size] or not size:
            return size
        if old > size:
            raise LedgerInvalid(
                f"the witness `{witness.name}` has seen {old} records of this log, which now has {size}", hint=_FORK
            )
        status, answer = witness.reached.add_checkpoint(str(extension(store, data, old, note)).encode())
        if status == _COSIGNED:
            data.write_cosigned(Cosigned(str(witness.key), note + _mine(witness, note, answer)))
            return size
        seen = _size(witness, answer) if status == _CONFLICT else old
        if seen == old:
            raise _refused(witness, status)
        old = seen
    raise UpstreamUnavailable(f"the witness `{witness.name}` keeps changing its mind", hint="ask who runs it")


def _mine(witness: Witness, note: str, answer: str) -> str:
    """The witness's own signature line in its answer; those by others are left alone."""
    body, _ = notes.open_note(note)
    for line in answer.splitlines(keepends=True):
        try:
            if notes.signed_by([witness.key], body, notes.read_signatures(line)):
                return line
        except LedgerInvalid as error:
            raise UpstreamUnavailable(
                f"the witness `{witness.name}` answered with a wrong cosignature: {error}", hint="ask who runs it"
            ) from error
    raise UpstreamUnavailable(
        f"the witness `{witness.name}` answered without a cosignature by its key",
        hint="check its `vkey` in checkrein.toml",
    )


def _size(witness: Witness, answer: str) -> int:
    text = answer.removesuffix("\n")
    if not (text.isascii() and text.isdecimal()) or len(text) > 19:
        raise UpstreamUnavailable(
            f"the witness `{witness.name}` did not say how many records it has seen", hint="ask who runs it"
        )
    return int(text)


def _refused(witness: Witness, status: int) -> CheckreinError:
    if status in (_INCONSISTENT, _CONFLICT):
        return LedgerInvalid(f"the witness `{witness.name}` has seen another history of this log", hint=_FORK)
    hints = {
        _FORBIDDEN: "give who runs it the key in `signer.pub`; after a rotation they need the new one",
        _UNKNOWN: "ask who runs it to add this log: they need the key in `signer.pub`",
    }
    return UpstreamUnavailable(
        f"the witness `{witness.name}` refused with status {status}", hint=hints.get(status, "ask who runs it")
    )


class Pusher:
    """While the block runs, a thread for each witness has every new checkpoint cosigned, and asks until it is."""

    def __init__(self, witnesses: Sequence[Witness], store: Trail, data: Cosigning, *, every_s: float) -> None:
        self._store = store
        self._data = data
        self._every_s = every_s
        self._warnings: dict[str, str] = {}
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(witness,), name="checkrein-witness", daemon=True)
            for witness in witnesses
        ]

    def warnings(self) -> tuple[str, ...]:
        """Which witnesses did not cosign the last checkpoint they were given, and why."""
        return tuple(sorted(self._warnings.values()))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Who is just being asked may answer, within reason."""
        self._end.set()
        for thread in self._threads:
            thread.join(_PATIENCE_S)

    def _run(self, witness: Witness) -> None:
        pause_s = self._every_s
        while not self._end.wait(pause_s):
            done = self._try(lambda: cosign(witness, self._store, self._data), witness)
            pause_s = self._every_s if done else min(2 * pause_s, max(self._every_s, _LONGEST_PAUSE_S))

    def _try(self, ask: Callable[[], int], witness: Witness) -> bool:
        try:
            ask()
        except (CheckreinError, OSError) as error:
            why = str(error) if isinstance(error, CheckreinError) else (error.strerror or "the disk failed").lower()
            warning = f"witness: {why}"
            if self._warnings.get(witness.name) != warning:
                log.warning("%s", warning)
            self._warnings[witness.name] = warning
            return False
        if self._warnings.pop(witness.name, ""):
            log.warning("witness: `%s` cosigns again", witness.name)
        return True
