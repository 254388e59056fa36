"""Our evaluator beside the official one: the same decision, the same determining and the same erring policies.

Two generators write Cedar: `wild` puts any expression anywhere, so most policies err; `typed` writes expressions
of the type that is asked for, over a context whose members may be missing or of another type.
"""

from __future__ import annotations

import functools
import json
import os
import re

import cedarpy
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from checkrein.model import BadRequest, Outcome
from checkrein.policy.cedar import Kind
from checkrein.policy.engine import PolicySet
from checkrein.policy.entities import Entities

#: how often a law is tried; `make test-deep` tries forty times as often
thorough = settings(max_examples=20_000 if os.environ.get("CHECKREIN_DEEP") == "1" else 500)
pytestmark = pytest.mark.timeout(3_600)

UIDS = [("User", "a"), ("User", "b"), ("Team", "g"), ("Team", "h"), ("Org::Unit", "o"), ("User", "nobody")]
ACTIONS = [("Action", "x"), ("Action", "y"), ("Action", "group"), ("Action", "other")]

# --- values in Cedar's JSON form

LONGS = st.one_of(st.integers(-3, 3), st.sampled_from([2**63 - 1, -(2**63), 2**62, 7_000]))
TEXTS = st.sampled_from(["", "a", "ab", "abc", "a*b", "é", "\n", "2026-01-31", "b"])
DECIMALS = ["0.0", "1.5", "1.50", "-0.5", "12.3456", "922337203685477.5807", "-922337203685477.5808"]
BAD_DECIMALS = ["1", "1.", ".5", "1.23456", "922337203685477.5808", "+1.0", "1e5", " 1.0"]
IPS = ["1.2.3.4", "1.2.3.0/24", "127.0.0.1", "::1", "ff02::1", "10.0.0.0/8", "224.0.0.1/3", "fe80::/10", "::/0"]
BAD_IPS = ["1.2.3", "1.2.3.4/33", "01.2.3.4", "::ffff:1.2.3.4", "1.2.3.4/08", "::1%eth0", "g::", "1.2.3.4/", ""]
MOMENTS = [
    "2026-01-31", "1969-12-31T23:59:59.999Z", "0000-02-29", "9999-12-31T23:59:59Z", "2024-02-29T12:00:00+0130",
    "2024-02-29T12:00:00.500-2359", "1970-01-01",
]  # fmt: skip
BAD_MOMENTS = ["2026-02-29", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00", "26-01-01", "2026-1-1", "", "x"]
BAD_MOMENTS += ["2026-01-01T00:00:60Z", "2026-01-01T00:00:00+2400", "2026-01-01T00:00:00.5Z", "1900-02-29"]
SPANS = ["1d", "1d2h3m4s5ms", "-90s", "0ms", "9223372036854775807ms", "-9223372036854775808ms", "25h"]
BAD_SPANS = ["", "-", "1", "1h1d", "9223372036854775808ms", "106751991168d", "1.5h", "+1d", "1 d"]
EXTENSIONS = {"decimal": DECIMALS, "ip": IPS, "datetime": MOMENTS, "duration": SPANS}
BAD_EXTENSIONS = {"decimal": BAD_DECIMALS, "ip": BAD_IPS, "datetime": BAD_MOMENTS, "duration": BAD_SPANS}


def uid_json(uid: tuple[str, str]) -> dict[str, str]:
    return {"type": uid[0], "id": uid[1]}


def extension_json(fn: str) -> st.SearchStrategy[object]:
    return st.sampled_from(EXTENSIONS[fn]).map(lambda text: {"__extn": {"fn": fn, "arg": text}})


def values(depth: int = 2) -> st.SearchStrategy[object]:
    simple = st.one_of(
        LONGS,
        st.booleans(),
        TEXTS,
        st.sampled_from(UIDS).map(lambda uid: {"__entity": uid_json(uid)}),
        *(extension_json(fn) for fn in EXTENSIONS),
    )
    if depth == 0:
        return simple
    inner = values(depth - 1)
    return st.one_of(simple, st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("nsbr"), inner, max_size=3))


MEMBERS: dict[str, st.SearchStrategy[object]] = {
    "n": LONGS,
    "s": TEXTS,
    "b": st.booleans(),
    "e": st.sampled_from(UIDS).map(lambda uid: {"__entity": uid_json(uid)}),
    "l": st.lists(TEXTS, max_size=3),
    "k": st.lists(LONGS, max_size=3),
    "g": st.lists(st.sampled_from(UIDS).map(lambda uid: {"__entity": uid_json(uid)}), max_size=3),
    "d": extension_json("decimal"),
    "i": extension_json("ip"),
    "t": extension_json("datetime"),
    "p": extension_json("duration"),
}


@st.composite
def records(draw: st.DrawFn, depth: int = 1) -> dict[str, object]:
    """Members of the right type, one in eight of any type, one in eight missing."""
    record: dict[str, object] = {}
    for name, member in MEMBERS.items():
        fate = draw(st.integers(0, 7))
        if fate:
            record[name] = draw(values(1) if fate == 1 else member)
    if depth:
        record["r"] = draw(records(depth - 1))
    return record


@st.composite
def worlds(draw: st.DrawFn) -> list[dict[str, object]]:
    """Entities without a circle: an entity's parents come later in the list."""
    entities = []
    names = [*UIDS[:-1], *ACTIONS[:3]]
    for place, uid in enumerate(names):
        if draw(st.integers(0, 5)) == 0:
            continue
        plain = uid[0] == "Action"
        above = [*names[place + 1 :], *([] if plain else [("Team", "far")])]
        parents = draw(st.lists(st.sampled_from(above), max_size=2)) if above else []
        entity: dict[str, object] = {"uid": uid_json(uid), "parents": [uid_json(parent) for parent in parents]}
        entity["attrs"] = {} if plain else draw(records(0))
        if not plain:
            entity["tags"] = draw(st.dictionaries(st.sampled_from(["a", "ab", "b"]), values(1), max_size=2))
        entities.append(entity)
    return entities


# --- policies as text


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def uid_text(uid: tuple[str, str]) -> str:
    return f"{uid[0]}::{quoted(uid[1])}"


ENTITY_TEXT = st.sampled_from(UIDS).map(uid_text)
PATTERNS = st.sampled_from(["*", "a*", "*b", "a*c", "*b*", r"a\*b", "", "**", "ab", "*é*", "a*a"]).map(
    lambda p: f'"{p}"'
)


def call(fn: str) -> st.SearchStrategy[str]:
    good, bad = st.sampled_from(EXTENSIONS[fn]), st.sampled_from(BAD_EXTENSIONS[fn])
    return st.one_of(good, good, good, bad).map(lambda text: f"{fn}({quoted(text)})")


LITERALS: dict[str, st.SearchStrategy[str]] = {
    "bool": st.sampled_from(["true", "false"]),
    "long": LONGS.map(str),
    "string": TEXTS.map(quoted),
    "entity": st.one_of(ENTITY_TEXT, st.sampled_from(["principal", "action", "resource"])),
    "strings": st.lists(TEXTS.map(quoted), max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    "longs": st.lists(LONGS.map(str), max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    "entities": st.lists(ENTITY_TEXT, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    "record": st.sampled_from(["context", "{}", '{n: 1, s: "a"}', "{b: true}", "{b: 1}"]),
    "decimal": call("decimal"),
    "ip": call("ip"),
    "datetime": call("datetime"),
    "duration": call("duration"),
}
ATTRIBUTE = {
    "bool": "b", "long": "n", "string": "s", "entity": "e", "strings": "l", "longs": "k", "entities": "g",
    "record": "r", "decimal": "d", "ip": "i", "datetime": "t", "duration": "p",
}  # fmt: skip
HOLDERS = st.sampled_from(["context", "context.r", "principal", "resource", 'User::"a"', 'context["r"]'])
#: result type -> forms; `$type` is an expression of that type
FORMS: dict[str, list[str]] = {
    "bool": [
        "($bool && $bool)", "($bool || $bool)", "($bool && $bool && $bool)", "(!$bool)",
        "($long == $long)", "($string == $string)", "($entity == $entity)", "($record == $record)",
        "($strings == $strings)", "($decimal == $decimal)", "($string != $long)", "($ip == $ip)",
        "($long < $long)", "($long <= $long)", "($long > $long)", "($long >= $long)",
        "($datetime < $datetime)", "($duration <= $duration)", "($datetime >= $datetime)",
        "($entity in $entity)", "($entity in $entities)", "($entity is User)", "($entity is Org::Unit)",
        "($entity is User in $entity)", "($entity is Team in $entities)",
        "$strings.contains($string)", "$longs.contains($long)", "$entities.contains($entity)",
        "$strings.containsAll($strings)", "$longs.containsAny($longs)", "$strings.isEmpty()",
        "($record has n)", "($record has r.n)", '($entity has "s")', "(context has r.s && $bool)",
        "$entity.hasTag($string)", "(context has n && context.n > $long)",
        "$decimal.lessThan($decimal)", "$decimal.greaterThanOrEqual($decimal)",
        "$decimal.lessThanOrEqual($decimal)", "$decimal.greaterThan($decimal)",
        "$ip.isIpv4()", "$ip.isIpv6()", "$ip.isLoopback()", "$ip.isMulticast()", "$ip.isInRange($ip)",
    ],
    "long": [
        "($long + $long)", "($long - $long)", "($long * $long)", "(-$long)", "$duration.toMilliseconds()",
        "$duration.toSeconds()", "$duration.toMinutes()", "$duration.toHours()", "$duration.toDays()",
    ],
    "string": ["$entity.getTag($string)"],
    "strings": ["[$string, $string]"],
    "longs": ["[$long]"],
    "entities": ["[$entity, $entity]"],
    "record": ["{n: $long, r: $record}", '{"s": $string, b: $bool}'],
    "entity": [],
    "decimal": [],
    "ip": [],
    "datetime": ["$datetime.offset($duration)", "$datetime.toDate()"],
    "duration": ["$datetime.durationSince($datetime)", "$datetime.toTime()"],
}  # fmt: skip
TYPES = tuple(FORMS)
_HOLE = re.compile(r"\$(\w+)")


@functools.cache
def typed(kind: str, depth: int) -> st.SearchStrategy[str]:
    """An expression of a type, if the context is as it should be."""
    attribute = HOLDERS.map(lambda holder: f"{holder}.{ATTRIBUTE[kind]}")
    if depth == 0:
        return st.one_of(LITERALS[kind], attribute)
    forms = [filled(form, depth - 1, wild=False) for form in FORMS[kind]]
    chosen = st.tuples(typed("bool", depth - 1), typed(kind, depth - 1), typed(kind, depth - 1))
    forms.append(chosen.map(lambda parts: f"(if {parts[0]} then {parts[1]} else {parts[2]})"))
    return st.one_of(attribute, LITERALS[kind], *forms)


@functools.cache
def wild(depth: int) -> st.SearchStrategy[str]:
    """Any expression, with parts of any type."""
    literals = st.one_of(
        *LITERALS.values(), HOLDERS.flatmap(lambda h: st.sampled_from("nsber").map(lambda a: f"{h}.{a}"))
    )
    if depth == 0:
        return literals
    forms = [filled(form, depth - 1, wild=True) for kind in TYPES for form in FORMS[kind]]
    return st.one_of(literals, *forms)


def filled(form: str, depth: int, *, wild: bool) -> st.SearchStrategy[str]:
    holes = _HOLE.findall(form)
    parts = [anything(depth) if wild else typed(kind, depth) for kind in holes]

    def fill(texts: tuple[str, ...]) -> str:
        waiting = iter(texts)
        return _HOLE.sub(lambda _: method_safe(next(waiting)), form)

    return st.tuples(*parts).map(fill)


def method_safe(text: str) -> str:
    """Cedar takes no method on a negative literal without brackets."""
    return f"({text})" if text.startswith(("-", "{")) else text


def anything(depth: int) -> st.SearchStrategy[str]:
    return wild(depth)


def like(depth: int) -> st.SearchStrategy[str]:
    return st.tuples(typed("string", depth), PATTERNS).map(lambda parts: f"({parts[0]} like {parts[1]})")


TYPED = st.one_of(typed("bool", 1), typed("bool", 2), typed("bool", 2), typed("bool", 3), like(1))
WILD = st.one_of(wild(1), wild(1), wild(2))
CONDITIONS = st.one_of(TYPED, TYPED, TYPED, WILD)


def scopes(variable: str) -> st.SearchStrategy[str]:
    equal = ENTITY_TEXT.map(lambda uid: f"{variable} == {uid}")
    within = ENTITY_TEXT.map(lambda uid: f"{variable} in {uid}")
    kinds = st.sampled_from(["User", "Team", "Org::Unit"])
    of_kind = kinds.map(lambda kind: f"{variable} is {kind}")
    both = st.tuples(kinds, ENTITY_TEXT).map(lambda parts: f"{variable} is {parts[0]} in {parts[1]}")
    free = st.just(variable)  # often, else few policies would speak of the request at all
    return st.one_of(free, free, free, free, free, equal, within, of_kind, both)


ACTION_TEXT = st.sampled_from(ACTIONS).map(uid_text)
ACTION_SCOPES = st.one_of(
    *[st.just("action")] * 4,
    ACTION_TEXT.map(lambda uid: f"action == {uid}"),
    ACTION_TEXT.map(lambda uid: f"action in {uid}"),
    st.lists(ACTION_TEXT, max_size=3).map(lambda uids: f"action in [{', '.join(uids)}]"),
)


@st.composite
def policies(draw: st.DrawFn, conditions: st.SearchStrategy[str]) -> str:
    head = f"({draw(scopes('principal'))}, {draw(ACTION_SCOPES)}, {draw(scopes('resource'))})"
    clauses = draw(st.lists(st.tuples(st.sampled_from(["when", "unless"]), conditions), max_size=2))
    body = " ".join(f"{kind} {{ {text} }}" for kind, text in clauses)
    return f"{draw(st.sampled_from(['permit', 'permit', 'forbid']))} {head} {body};"


def texts(conditions: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(policies(conditions), min_size=1, max_size=4).map("\n".join)


REQUESTS = st.fixed_dictionaries(
    {
        "principal": st.sampled_from(UIDS).map(uid_json),
        "action": st.sampled_from(ACTIONS[:2]).map(uid_json),
        "resource": st.sampled_from(UIDS).map(uid_json),
        "context": records(),
    }
)
_ERRING = re.compile(r"^error while evaluating policy `(policy\d+)`")


@thorough
@given(texts(TYPED), REQUESTS, worlds())
def test_decides_as_the_official_engine_does(
    text: str, request: dict[str, dict[str, str]], entities: list[dict[str, object]]
) -> None:
    assert_the_same(text, request, entities)


@thorough
@given(texts(WILD), REQUESTS, worlds())
def test_decides_wild_policies_as_the_official_engine_does(
    text: str, request: dict[str, dict[str, str]], entities: list[dict[str, object]]
) -> None:
    assert_the_same(text, request, entities)


def assert_the_same(text: str, request: dict[str, dict[str, str]], entities: list[dict[str, object]]) -> None:
    theirs = cedarpy.is_authorized(request, text, entities)
    ours = PolicySet.from_cedar(text).evaluate(**request, entities=entities)

    event(f"{theirs.decision.name}, {'some err' if ours.errors else 'none errs'}")
    assert theirs.decision is not cedarpy.Decision.NoDecision
    erring = {match[1] for match in map(_ERRING.match, theirs.diagnostics.errors) if match}
    assert set(ours.errors) == erring
    allowed = theirs.decision is cedarpy.Decision.Allow
    assert set(ours.of_kind(Kind.GRANT if allowed else Kind.FORBID)) == set(theirs.diagnostics.reasons)
    strict = allowed and not ours.erring.get(Kind.FORBID)
    assert ours.outcome is (Outcome.ALLOW if strict else Outcome.DENY)
    if strict or not allowed:
        assert set(ours.determining) == set(theirs.diagnostics.reasons)


@thorough
@given(st.lists(CONDITIONS, min_size=8, max_size=16), REQUESTS, worlds())
def test_evaluates_every_condition_as_the_official_engine_does(
    conditions: list[str], request: dict[str, dict[str, str]], entities: list[dict[str, object]]
) -> None:
    """Permits alone, so the official engine names every policy that is satisfied and every one that errs."""
    text = "\n".join(f"permit (principal, action, resource) when {{ {condition} }};" for condition in conditions)
    theirs = cedarpy.is_authorized(request, text, entities).diagnostics
    ours = PolicySet.from_cedar(text).evaluate(**request, entities=entities)

    for place, condition in enumerate(conditions):
        name = f"policy{place}"
        assert (name in ours.determining) == (name in theirs.reasons), condition
        assert (name in ours.errors) == any(f"`{name}`" in error for error in theirs.errors), condition


@thorough
@given(texts(CONDITIONS))
def test_no_construct_is_left_to_the_official_engine(text: str) -> None:
    assert PolicySet.from_cedar(text).not_compiled == ()


JUNK = st.recursive(
    st.one_of(st.none(), st.floats(), st.integers(-(2**65), 2**65), st.text(max_size=3), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(["n", "__entity", "__extn", "__expr", "type", "id", "fn", "arg"]), inner, max_size=2
        ),
        st.sampled_from(["decimal", "ip", "datetime", "duration", "nothing"]).flatmap(
            lambda fn: inner.map(lambda arg: {"__extn": {"fn": fn, "arg": arg}})
        ),
    ),
    max_leaves=5,
)


@thorough
@given(st.dictionaries(st.sampled_from(["n", "__extn", "x"]), JUNK, max_size=2))
@example({"n": {"__entity": {"type": "Not a type", "id": "x"}}})
@example({"n": "\ud800"})
def test_refuses_the_contexts_that_the_official_engine_refuses(context: dict[str, object]) -> None:
    text = "permit (principal, action, resource);"
    request = {"principal": uid_json(UIDS[0]), "action": uid_json(ACTIONS[0]), "resource": uid_json(UIDS[1])}
    try:
        theirs = cedarpy.is_authorized({**request, "context": context}, text, [])
        refused = theirs.decision is cedarpy.Decision.NoDecision
    except ValueError:
        refused = True
    if refused:
        with pytest.raises(BadRequest):
            PolicySet.from_cedar(text).evaluate(**request, context=context)
    else:
        assert PolicySet.from_cedar(text).evaluate(**request, context=context).outcome is Outcome.ALLOW


@settings(max_examples=50)
@given(worlds(), REQUESTS, texts(CONDITIONS))
def test_a_handle_of_entities_decides_like_the_list(
    entities: list[dict[str, object]], request: dict[str, dict[str, str]], text: str
) -> None:
    engine = PolicySet.from_cedar(text)
    handle = Entities.from_json(entities)
    assert engine.evaluate(**request, entities=handle) == engine.evaluate(**request, entities=entities)
