"""What every store does with a unit before it writes: check it, and give its records ids and times."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from checkrein.ledger import Record
from checkrein.model import CheckreinError, StoreConflict, StoreUnavailable
from checkrein.pending import Pending
from checkrein.ports import Clock, Move, Save, Unit

#: a source of random bytes, such as `os.urandom`
Randomness = Callable[[int], bytes]
Written = Pending[tuple[Record, ...]]
_NOISE_BYTES = 10
#: a random hex digit with the two bits in front that say which kind of UUID this is (RFC 9562, 4.1)
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


class Stamper:
    """Ids and times for new records. The log's time never falls, whatever the clock does."""

    def __init__(self, clock: Clock, randomness: Randomness) -> None:
        self._clock = clock
        self._randomness = randomness

    def now_us(self, last_us: int) -> int:
        """The time now, but never before the last record."""
        return max(self._clock.now_us(), last_us)

    def ids(self, ts_us: int, count: int) -> Iterator[str]:
        """`rec_` and the 32 hex digits of a UUIDv7 (RFC 9562), sorted by millisecond, else random; so many of them."""
        noise = self._randomness(_NOISE_BYTES * count).hex()
        head = f"rec_{ts_us // 1000 & (1 << 48) - 1:012x}7"
        for at in range(0, len(noise), 2 * _NOISE_BYTES):
            yield f"{head}{noise[at : at + 3]}{_VARIANT[noise[at + 3]]}{noise[at + 4 : at + 19]}"


#: the bodies of rows that were moved, by room and id
Moved = dict[tuple[str, str], bytes]


def checked(unit: Unit) -> Unit:
    """The unit itself; raises `ValueError` for a save or change that could fail more than its own unit."""
    for move in unit.moves:
        for text in (move.room, move.id):
            text.encode()
    for save in unit.saves:
        row = save.row
        for text in (row.room, row.id, row.state, row.lookup):
            text.encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
        removes = row.version == 0 < save.expect
        if not removes and not 0 <= save.expect < row.version < 2**63:
            raise ValueError(f"version {row.version} of a row does not follow {save.expect}")
    return unit


def moved(moves: tuple[Move, ...], stored: Callable[[str, str], bytes | None]) -> Moved:
    """What the moves make of what is stored; raises `CheckreinError`, whatever went wrong in them."""
    found: Moved = {}
    for move in moves:
        place = move.room, move.id
        before = found[place] if place in found else stored(*place)
        try:
            found[place] = move.apply(before)
        except CheckreinError:
            raise
        except Exception as error:
            what = f"the {move.room} `{move.id}` cannot be moved: {type(error).__name__}"
            raise StoreUnavailable(what, hint="restore the database from a backup") from error
    return found


def conflict(save: Save) -> StoreConflict:
    return StoreConflict(
        f"{save.row.room} `{save.row.id}` was changed by somebody else", hint="look at it again and repeat"
    )


def unrecordable(error: ValueError) -> StoreUnavailable:
    """A record that the ledger does not admit is not written, so what it stands for does not run."""
    return StoreUnavailable(f"the record cannot be stored: {error}", hint="shorten the request")
