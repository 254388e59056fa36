"""Where the value of each argument that steers a tool came from.

Only positive evidence counts: a value is trusted because it stands in what a person wrote or approved, never
because it is missing from what is suspicious (an attacker can always word a value differently).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal, InvalidOperation

import re2

from checkrein.decide.fold import fold


class Provenance(enum.StrEnum):
    """Strongest first; `untrusted` was seen in text that nobody vouches for, `unknown` nowhere."""

    ENDORSED = "endorsed"
    PROMPT = "prompt"
    DIRECTORY = "directory"
    UNKNOWN = "unknown"
    UNTRUSTED = "untrusted"

    @property
    def trusted(self) -> bool:
        return self not in (Provenance.UNKNOWN, Provenance.UNTRUSTED)


_WEAKNESS = {provenance: rank for rank, provenance in enumerate(Provenance)}
_NUMBER = re2.compile(r"(?:[0-9]{1,3}(?:[,'][0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_JOINTS = frozenset(".-_@/+:")


def trace(
    values: Mapping[str, object],
    *,
    prompt: str = "",
    endorsed: str = "",
    untrusted: str = "",
    directory: Collection[str] = (),
) -> dict[str, Provenance]:
    """The provenance of each argument. Of several values in one argument, the weakest counts.

    `endorsed` is the prompt text that a person approved, `prompt` what the user wrote, `directory` values the
    deployment vouches for, `untrusted` what tools answered. Compared are whole words and numbers; case,
    spacing and thousands separators make no difference. An absent argument (null) has no provenance.
    """
    names = frozenset(fold(name) for name in directory)
    sources: tuple[tuple[Provenance, Callable[[object], bool]], ...] = (
        (Provenance.ENDORSED, _Text(endorsed).holds),
        (Provenance.PROMPT, _Text(prompt).holds),
        (Provenance.DIRECTORY, lambda value: isinstance(value, str) and fold(value) in names),
        (Provenance.UNTRUSTED, _Text(untrusted).holds),
    )
    return {name: _weakest(value, sources) for name, value in values.items() if value is not None}


def _weakest(value: object, sources: tuple[tuple[Provenance, Callable[[object], bool]], ...]) -> Provenance:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        found = [_weakest(item, sources) for item in value if item is not None]
        return max(found, key=_WEAKNESS.__getitem__, default=Provenance.UNKNOWN)
    return next((provenance for provenance, holds in sources if holds(value)), Provenance.UNKNOWN)


class _Text:
    """A source text, folded once, and its numbers."""

    def __init__(self, text: str) -> None:
        self._text = fold(text)
        encoded = self._text.encode("utf-8", "replace").decode("utf-8")
        self._numbers = frozenset(_number(match.group()) for match in _NUMBER.finditer(encoded)) - {None}

    def holds(self, value: object) -> bool:
        if isinstance(value, bool):
            return False
        if isinstance(value, int | float):
            return _number(str(value)) in self._numbers
        if not isinstance(value, str):
            return False
        wanted = fold(value)
        number = _number(wanted) if _NUMBER.fullmatch(wanted.encode("utf-8", "replace").decode("utf-8")) else None
        return (number is not None and number in self._numbers) or self._has_words(wanted)

    def _has_words(self, wanted: str) -> bool:
        start = self._text.find(wanted) if wanted else -1
        while start >= 0:
            if self._whole(start, start + len(wanted)):
                return True
            start = self._text.find(wanted, start + 1)
        return False

    def _whole(self, start: int, end: int) -> bool:
        """Whether the words end where the value ends: `evil.com` does not stand in `not-evil.com`."""
        before, after = self._text[start - 1 : start] if start else "", self._text[end : end + 2]
        if before.isalnum() or before in _JOINTS or after[:1].isalnum():
            return False
        return not (after[:1] in _JOINTS and after[1:].isalnum())


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text.replace(",", "").replace("'", ""))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
