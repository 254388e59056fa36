"""Effect classes, and what the name of a tool without a manifest tells of its effects."""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import Mapping


class Effect(enum.StrEnum):
    """What a call does: `external` acts on people or systems outside, `egress` sends data out."""

    READ = "read"
    WRITE = "write"
    EXTERNAL = "external"
    EGRESS = "egress"
    IRREVERSIBLE = "irreversible"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: the verb an undeclared tool's name starts with -> its effects
_VERBS: Mapping[Effect, frozenset[str]] = {
    Effect.READ: _words(
        "get list read search find fetch lookup query show view describe count check inspect browse retrieve"
    ),
    Effect.WRITE: _words(
        "create update write set add put edit modify insert append save rename move copy upsert patch"
    ),
    Effect.EXTERNAL: _words(
        "send post email notify publish message share tweet call invite forward reply broadcast submit"
    ),
    Effect.EGRESS: _words("upload export sync push"),
    Effect.IRREVERSIBLE: _words(
        "delete remove drop destroy purge erase wipe truncate transfer pay wire refund charge buy purchase "
        "exec execute run shell eval kill terminate shutdown revoke grant deploy merge approve sign"
    ),
}
_EFFECT_OF = {verb: effect for effect, verbs in _VERBS.items() for verb in verbs}
_SEGMENT = re.compile(r"__|[./:]")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_JOINERS = frozenset({"and", "then", "or"})


def effects_of_name(name: str) -> tuple[Effect, ...]:
    """Effects told from the verbs of a name: the first word of each segment, and every word after an "and".

    `github__get_issue` reads; `get_and_delete_user` also is irreversible; `frobnicate` is unknown: `()`.
    """
    found: set[Effect] = set()
    for segment in _SEGMENT.split(name):
        words = [word.lower() for word in _WORD.findall(segment)]
        verbs = words[:1] + [after for word, after in itertools.pairwise(words) if word in _JOINERS]
        found.update(_EFFECT_OF[verb] for verb in verbs if verb in _EFFECT_OF)
    return tuple(effect for effect in Effect if effect in found)
