"""Production cases that would make a golden set look like production again, with personal data and secrets taken out.

What is proposed is for people to read before they add it: redaction knows patterns, not stories. A subject becomes
`subject-1`, with its roles. Without an auditor the arguments stay sealed, and a case has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from checkrein.decide.detect import BUILT_IN, EVERYTHING, Detectors
from checkrein.decide.redact import Placeholders, redact_json
from checkrein.flow.drift import Acted, Seen
from checkrein.ledger import Record
from checkrein.ledger.record import member
from checkrein.model import Outcome, Request
from checkrein.model.json import JsonObject

#: cases proposed at once
LIMIT = 100
Pair = tuple[str, str]
_OUTCOMES = {outcome.wire: outcome for outcome in Outcome}


class Source(msgspec.Struct, frozen=True):
    """A recorded action, and its request with the roles of that time where it could be opened."""

    record: Record
    acted: Acted
    request: Request | None = None


class Suggested(msgspec.Struct, frozen=True):
    """A case as the `line` of a golden file, and what is in it."""

    line: JsonObject
    request: Request
    expect: Outcome


def wanted(golden: Seen, production: Seen, limit: int = LIMIT) -> dict[Pair, int]:
    """How many cases of each action and outcome are lacking, the most first: as many as its share of production says.

    An action that the golden set has none of is always among them.
    """
    lacking: dict[Pair, float] = {}
    for pair, count in production.pairs.items():
        few = count / production.count * golden.count - golden.pairs[pair]
        if few >= 0.5 or not golden.actions[pair[0]]:
            lacking[pair] = max(few, 1.0)
    new = {pair for pair in lacking if not golden.actions[pair[0]]}
    found: dict[Pair, int] = {}
    for pair in sorted(lacking, key=lambda pair: (pair not in new, -lacking[pair], pair)):
        room = limit - sum(found.values())
        if room <= 0:
            break
        # of what is new a few examples first: others may be new too
        found[pair] = min(room, production.pairs[pair], math.ceil(min(lacking[pair], max(1, limit / 10))))
    return found


def choose(
    found: Iterable[tuple[Record, Acted]], wanted: Mapping[Pair, int], known: Mapping[str, int]
) -> list[tuple[Record, Acted]]:
    """Of each pair so many actions, on different targets where there are, those first that golden cases lack."""
    kept: dict[Pair, dict[str, tuple[Record, Acted]]] = {pair: {} for pair in wanted}
    rest: dict[Pair, list[tuple[Record, Acted]]] = {pair: [] for pair in wanted}
    for record, acted in found:
        pair = (acted.action, acted.outcome)
        if pair not in kept:
            continue
        if acted.target not in kept[pair] and len(kept[pair]) < 4 * wanted[pair]:
            kept[pair][acted.target] = (record, acted)
        elif len(rest[pair]) < wanted[pair]:
            rest[pair].append((record, acted))
    return [
        each
        for pair, count in wanted.items()
        for each in (sorted(kept[pair].values(), key=lambda item: item[1].target in known) + rest[pair])[:count]
    ]


def cases(
    sources: Sequence[Source],
    roles: Callable[[str, str], tuple[str, ...]],
    detectors: Callable[[Request], Detectors] = lambda request: BUILT_IN,
) -> list[Suggested]:
    """Each as a golden case; `roles` are those the deployment gives a subject (type and id) now.

    `detectors` find personal data in the arguments, also by the members that manifests name.
    """
    names: dict[tuple[str, str], str] = {}
    return [_suggested(source, roles, detectors, names) for source in sources]


def _suggested(
    source: Source,
    roles: Callable[[str, str], tuple[str, ...]],
    detectors: Callable[[Request], Detectors],
    names: dict[tuple[str, str], str],
) -> Suggested:
    body = source.record.body
    who, what, made = member(body, "actor"), member(body, "action"), member(body, "decision")
    type, id, agent = (str(who.get(name, "")) for name in ("type", "id", "agent"))
    taken = Placeholders()
    if source.request is not None:
        asked = source.request
        given = redact_json(asked.action.input, EVERYTHING, taken, detectors=detectors(asked))
        action = {"name": asked.action.name, "properties": {**asked.action.properties, "input": given}}
        request: dict[str, object] = {**msgspec.to_builtins(asked), "action": action}
        held = asked.subject.roles
    else:
        request = {
            "action": {"name": what.get("name")},
            "resource": member(what, "resource"),
            "context": {"agent": {"id": agent}} if agent else {},
        }
        held = roles(type, id)
    clean = {name: redact_json(value, EVERYTHING, taken) for name, value in request.items()}
    clean["subject"] = {
        "type": type,
        "id": names.setdefault((type, id), f"subject-{len(names) + 1}"),
        "properties": {"roles": list(held)} if held else {},
    }
    expect = _OUTCOMES.get(source.acted.outcome, Outcome.DENY)
    line = {"id": f"production-{made.get('evaluation_id')}", "request": clean, "expect": expect.name}
    return Suggested(line, Request.from_json(clean), expect)
