"""The private keys of a ledger, as `signer.key` holds them, one a line:

    PRIVATE+KEY+...                             the one that signs
    PRIVATE+KEY+... until 1767225600000000      an earlier one, which signs beside it until then
    PRIVATE+KEY+... next 1767225600000000       made, but no durable record names it yet; it signs nothing

Times are microseconds since 1970. `keep` at the end of a line means that the key is moved to a file of its own when
its time is over, and not destroyed. With `next` it is the time, and the fate, of the key that it will follow.
"""

from __future__ import annotations

import msgspec

from checkrein.ledger.checkpoint import Signer
from checkrein.ledger.tree import Head
from checkrein.model import ConfigError

_UNTIL, _NEXT, _KEEP = "until", "next", "keep"
#: lines, far more than anybody rotates within one overlap
_MAX_LINES = 1000


class Timed(msgspec.Struct, frozen=True):
    """A key beside the one that signs: an earlier one, or the next."""

    signer: Signer
    until_us: int
    keep: bool = False

    def line(self, word: str) -> str:
        return f"{self.signer.to_secret()} {word} {self.until_us}{f' {_KEEP}' if self.keep else ''}"


class Signers(msgspec.Struct, frozen=True):
    """Who signs a checkpoint: the current key, and beside it the earlier ones whose overlap is not over."""

    current: Signer
    earlier: tuple[Timed, ...] = ()
    next: Timed | None = None

    def __str__(self) -> str:
        lines = [self.current.to_secret(), *(key.line(_UNTIL) for key in self.earlier)]
        lines += [self.next.line(_NEXT)] if self.next else []
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text: str) -> Signers:
        """Read `str`; raises `ConfigError`, which never holds the text."""
        first, *rest = text.splitlines() or [""]
        timed = [_timed(line) for line in rest[:_MAX_LINES] if line.strip()]
        following = [key for word, key in timed if word == _NEXT]
        signers = cls(
            Signer.from_secret(first),
            tuple(key for word, key in timed if word == _UNTIL),
            following[0] if following else None,
        )
        if len(following) > 1 or any(key.signer.origin != signers.current.origin for _, key in timed):
            raise _damaged()
        return signers

    @property
    def vkeys(self) -> str:
        """The public keys whose signatures stand under a checkpoint, one a line."""
        return "\n".join([self.current.vkey, *(key.signer.vkey for key in self.earlier)])

    def sign(self, head: Head) -> str:
        """The checkpoint for this head, with a signature by each."""
        note = self.current.sign(head)
        body = note.partition("\n\n")[0] + "\n"
        return note + "".join(key.signer.signature(body) for key in self.earlier)

    def prepared(self, fresh: Signer, until_us: int, *, keep: bool) -> Signers:
        """With a next key; an earlier one that never became current is dropped."""
        return msgspec.structs.replace(self, next=Timed(fresh, until_us, keep))

    def promoted(self) -> Signers:
        """The next key is the current one from now on."""
        if self.next is None:
            return self
        last = Timed(self.current, self.next.until_us, self.next.keep)
        return Signers(self.next.signer, (last, *self.earlier))

    def over(self, now_us: int) -> tuple[Timed, ...]:
        """The earlier keys whose time is over."""
        return tuple(key for key in self.earlier if key.until_us <= now_us)

    def without(self, gone: tuple[Timed, ...]) -> Signers:
        return msgspec.structs.replace(self, earlier=tuple(key for key in self.earlier if key not in gone))


def _timed(line: str) -> tuple[str, Timed]:
    secret, *words = line.split()
    if len(words) not in (2, 3) or words[0] not in (_UNTIL, _NEXT) or words[2:] not in ([], [_KEEP]):
        raise _damaged()
    if not (words[1].isascii() and words[1].isdecimal() and len(words[1]) < 20):
        raise _damaged()
    return words[0], Timed(Signer.from_secret(secret), int(words[1]), len(words) == 3)


def _damaged() -> ConfigError:
    return ConfigError("the signing key is damaged", hint="restore the file from a backup")
