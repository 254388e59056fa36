"""Cedar's language in examples: what each condition gives, held against the official engine at the same time."""

from __future__ import annotations

import cedarpy
import pytest

from checkrein.policy.engine import PolicySet

ALICE = {"type": "User", "id": "alice"}
WORLD = [
    {
        "uid": ALICE,
        "attrs": {"age": 7, "manager": {"__entity": {"type": "User", "id": "bob"}}, "flags": [True]},
        "parents": [{"type": "Team", "id": "red"}],
        "tags": {"level": "high"},
    },
    {"uid": {"type": "User", "id": "bob"}, "attrs": {"age": 50}, "parents": []},
    {"uid": {"type": "Team", "id": "red"}, "attrs": {}, "parents": [{"type": "Team", "id": "all"}]},
]
CONTEXT = {
    "n": 7, "s": "hello", "list": ["a", "b"], "mixed": [1, True, [1], {"a": 1}], "deep": {"a": {"b": 1}},
    "price": {"__extn": {"fn": "decimal", "arg": "12.5"}}, "one": 1, "yes": True,
}  # fmt: skip

TRUE = [
    # sets
    "[1, 2, 3].containsAll([1, 2])", "[].containsAll([])", "[1].containsAny([2, 1])", "[1, 1] == [1]",
    "[[1], {a: [1]}].contains({a: [1, 1]})", "context.mixed.contains(true)", "context.mixed.contains({a: 1})",
    "[].isEmpty()", "context.list.contains(\"a\")", "[context.n, 8].contains(7)",
    # bool is not long
    "true != 1", "[true] != [1]", "{a: true} != {a: 1}", "context.one != context.yes",
    "principal.flags != [1]",
    # text
    'context.s like "h*o"', 'context.s like "*"', '"a*b" like "a\\*b"', '"" like ""', '"" like "*"',
    '"abcab" like "a*ab"', '"aXbXc" like "a*b*c"',
    # hierarchy
    "principal in principal", 'principal in Team::"red"', 'principal in Team::"all"',
    'User::"ghost" in User::"ghost"',
    'principal in [Team::"blue", Team::"all"]', "principal is User", 'principal is User in Team::"all"',
    'principal.manager.age == 50', 'principal has manager.age', 'principal has age', "context has deep.a.b",
    'principal.hasTag("level")', 'principal.getTag("level") == "high"',
    # what is left out is not evaluated
    "true || context.gone", "!(false && context.gone)", "if true then true else context.gone",
    "!(principal is Team in context.gone)", "!(context has gone && context.gone == 1)",
    # arithmetic
    "2 + 3 * 4 - 1 == 13", "-context.n == -7", "9223372036854775806 + 1 == 9223372036854775807", "1 - 2 < 0",
    "context.n >= 7 && context.n <= 7 && 8 > context.n", "-9223372036854775808 < 0",
    # decimal
    'decimal("1.5") == decimal("1.50")', 'context.price.lessThan(decimal("12.5001"))',
    'decimal("-0.5").greaterThan(decimal("-0.5001"))', 'decimal("1.0").lessThanOrEqual(decimal("1.0"))',
    'decimal("1.0").greaterThanOrEqual(decimal("1.0"))', 'decimal("-922337203685477.5808") != decimal("0.0")',
    # ipaddr
    'ip("1.2.3.4").isIpv4()', 'ip("::1").isIpv6()', 'ip("127.3.2.1").isLoopback()', 'ip("::1").isLoopback()',
    'ip("ff02::1").isMulticast()', 'ip("224.0.0.1").isMulticast()',
    'ip("10.1.2.0/24").isInRange(ip("10.1.0.0/16"))',
    'ip("1.2.3.4") == ip("1.2.3.4/32")', 'ip("1.2.3.4/24") != ip("1.2.3.0/24")',
    # datetime and duration
    'datetime("2026-01-01T00:00:00+0130") == datetime("2025-12-31T22:30:00Z")',
    'datetime("2026-01-01T00:00:00-0130") == datetime("2026-01-01T01:30:00Z")',
    'datetime("2026-01-01").offset(duration("-1ms")) == datetime("2025-12-31T23:59:59.999Z")',
    'datetime("2026-03-01").durationSince(datetime("2026-02-28")) == duration("1d")',
    'datetime("2024-03-01").durationSince(datetime("2024-02-28")) == duration("2d")',
    'datetime("1969-12-31T23:00:00Z").toTime() == duration("23h")',
    'datetime("1969-12-31T23:00:00Z").toDate() == datetime("1969-12-31")',
    'datetime("0000-03-01") > datetime("0000-02-29")', 'datetime("0000-01-01") < datetime("1970-01-01")',
    'duration("-1500ms").toSeconds() == -1', 'duration("-25h").toDays() == -1',
    'duration("90m").toHours() == 1',
    'duration("1d2h3m4s5ms").toMilliseconds() == 93784005', 'duration("119s").toMinutes() == 1',
    'duration("1h") < duration("61m")', 'duration("-9223372036854775808ms") < duration("0s")',
]  # fmt: skip
FALSE = [
    "[1].containsAll([1, 2])", "[1].containsAny([])", "[1].isEmpty()", "[1].contains(true)",
    "context.one == context.yes",
    'context.s like "h*x"', '"ab" like "ab*b"', '"aa" like "a*a*a"', '"hello" like "hell"',
    'Team::"red" in principal',
    'principal in User::"bob"', "principal in []", 'principal is Team', 'principal has nothing',
    'User::"ghost" has age',
    'User::"ghost".hasTag("level")', "context has deep.x.b", '"1" == 1', 'decimal("1.0") == 1',
    'ip("126.0.0.1").isLoopback()', 'ip("127.0.0.0/7").isLoopback()', 'ip("224.0.0.1/3").isMulticast()',
    'ip("::1").isInRange(ip("0.0.0.0/0"))', 'ip("10.0.0.0/8").isInRange(ip("10.0.0.0/16"))',
]  # fmt: skip
ERRS = [
    "context.gone", "context.n", "1", "context.n.x == 1", "true && 1", "1 && true", "false || 1", "!1",
    "if 1 then true else true", "context.s < 1", "1 < context.s", "true < false",
    'decimal("1.0") < decimal("2.0")',
    'datetime("2026-01-01") < duration("1h")', "9223372036854775807 + 1 == 0", "-(-9223372036854775808) == 0",
    "4611686018427387904 * 2 == 0", "-9223372036854775808 - 1 == 0", "1 + true == 2",
    "context.s + 1 == 2", "-context.s == 1",
    'context.n like "*"', "principal in 1", 'principal in [Team::"red", 1]', "context in principal",
    "context.n is User",
    'principal is User in 1', "principal.gone == 1", 'User::"ghost".age == 1',
    'principal.getTag("gone") == 1',
    'principal.hasTag(1)', 'User::"ghost".getTag("level") == 1', "context.n.contains(1)",
    "[1].containsAll(1)",
    "context.s.isEmpty()", "1 has x", 'decimal("1") == decimal("1.0")',
    'decimal("1.12345") == decimal("1.0")',
    'decimal("922337203685477.5808") == decimal("1.0")', "decimal(context.s) == 1", "decimal(context.n) == 1",
    'decimal("1.0").lessThan(1)', 'context.n.lessThan(decimal("1.0"))', 'ip("1.2.3.256").isIpv4()',
    'ip("1.2.3.4/33").isIpv4()', 'ip("01.2.3.4").isIpv4()', 'ip("::ffff:1.2.3.4").isIpv6()',
    'ip("1.2.3.4/08").isIpv4()',
    'context.s.isIpv4()', 'datetime("2026-02-29") == 1', 'datetime("2026-13-01") == 1',
    'datetime("2026-01-01T24:00:00Z") == 1', 'datetime("2026-01-01T00:00:00") == 1', 'duration("") == 1',
    'duration("1s1m") == 1', 'duration("9223372036854775808ms") == 1', 'duration("1h") + duration("1h") == 1',
    'datetime("9999-12-31").offset(duration("9223372036854775807ms")) == 1',
    'datetime("1970-01-01").offset(duration("-9223372036854775808ms")).toDate() == 1',
    'duration("1h").toDate() == 1', 'ip("::1", "::2").isIpv4()', 'ip() == 1', 'ip("::1").isIpv4(1)',
    'decimal("1.0").lessThan()', 'context.n == 0 || decimal("1.0").lessThan(decimal("2.0"), decimal("3.0"))',
]  # fmt: skip


def gives(text: str) -> str:
    """What the condition gives here, once the official engine has said the same."""
    request = {"principal": ALICE, "action": {"type": "Action", "id": "x"}, "resource": ALICE, "context": CONTEXT}
    policy = f"permit (principal, action, resource) when {{ {text} }};"
    official = cedarpy.is_authorized(request, policy, WORLD)
    engine = PolicySet.from_cedar(policy)
    assert engine.not_compiled == ()
    result = engine.evaluate(**request, entities=WORLD)
    assert bool(result.errors) == bool(official.diagnostics.errors)
    assert result.determining == tuple(official.diagnostics.reasons)
    return "errs" if result.errors else "true" if result.determining else "false"


@pytest.mark.parametrize("text", TRUE)
def test_holds(text: str) -> None:
    assert gives(text) == "true"


@pytest.mark.parametrize("text", FALSE)
def test_does_not_hold(text: str) -> None:
    assert gives(text) == "false"


@pytest.mark.parametrize("text", ERRS)
def test_errs(text: str) -> None:
    assert gives(text) == "errs"
