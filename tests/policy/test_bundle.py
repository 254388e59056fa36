from __future__ import annotations

import pytest

from checkrein.model import Outcome, PolicyInvalid
from checkrein.policy.bundle import Bundle
from checkrein.policy.schema import action_entity

TOOLS = b"tools:\n  pay: {effects: [irreversible], input: {amount: integer}}\n"
PERMIT = b"""\
@id("pay") @owner("treasury") @reason("payments")
permit (principal, action == Action::"pay", resource)
when { context.input.amount <= 1000 };
"""
TEST = b"tests:\n  - {name: small, tool: pay, input: {amount: 5}, expect: {outcome: allow}}\n"
FOLDER = {"tools.yaml": TOOLS, "policies/pay.cedar": PERMIT, "tests/pay.yaml": TEST, "checkrein.toml": b"x"}


def problems(**changed: bytes) -> list[str]:
    files = FOLDER | {name.replace("__", "/").replace("_dot_", "."): data for name, data in changed.items()}
    with pytest.raises(PolicyInvalid) as caught:
        Bundle.from_files(files)
    return list(caught.value.problems)


def test_a_folder_becomes_a_bundle() -> None:
    bundle = Bundle.from_files(FOLDER)
    assert bundle.manifests.names() == ("pay",)
    assert [policy.id for policy in bundle.policies.policies] == ["pay"]
    assert [case.name for case in bundle.cases] == ["small"]
    assert bundle.warnings == ()


def test_its_policies_decide() -> None:
    bundle = Bundle.from_files(FOLDER)
    entity = action_entity("pay", ["irreversible"])
    uid = {"type": "User", "id": "alice"}
    tool = {"type": "Tool", "id": "bank"}
    result = bundle.policies.evaluate(uid, entity.uid, tool, {"input": {"amount": 5}})
    assert result.outcome is Outcome.ALLOW


def test_the_digest_names_the_content_and_nothing_else() -> None:
    digest = Bundle.from_files(FOLDER).digest
    assert digest.startswith("sha256:")
    assert len(digest) == 71
    assert Bundle.from_files(dict(reversed(FOLDER.items()))).digest == digest
    assert Bundle.from_files(FOLDER | {"golden/x.jsonl": b"{}", "README.md": b"hello"}).digest == digest
    for name in ("tools.yaml", "policies/pay.cedar", "tests/pay.yaml"):
        assert Bundle.from_files(FOLDER | {name: FOLDER[name] + b"\n"}).digest != digest
    moved = {("policies/other.cedar" if name == "policies/pay.cedar" else name): data for name, data in FOLDER.items()}
    assert Bundle.from_files(moved).digest != digest


def test_every_problem_of_every_file_is_told_at_once() -> None:
    lines = problems(
        policies__a_dot_cedar=b'@id("pay") permit (principal, action, resource);',
        policies__b_dot_cedar=b"permit (",
        policies__c_dot_cedar=b"\xff",
        policies__d_dot_cedar=PERMIT.replace(b'@id("pay")', b'@id("d")').replace(b"amount", b"amont"),
        tests__t_dot_yaml=b"tests:\n  - {name: x, prompt: hi, expect: {outcome: perhaps}}\n",
    )
    assert [line.split(": ")[0] for line in lines] == [
        "policies/b.cedar:1",
        "policies/c.cedar:1",
        "policies/d.cedar:1",
        "policies/pay.cedar:1",
        "tests/t.yaml:2",
    ]
    assert "the id `pay` is taken by policies/a.cedar:1" in lines[3]
    assert all(line.endswith(")") for line in lines)


def test_policies_are_not_measured_by_manifests_that_do_not_load() -> None:
    (line,) = problems(tools_dot_yaml=b"tools:\n  pay: {effects: [reed]}\n")
    assert line.startswith("tools.yaml:2: unknown effect class")


def test_a_folder_without_policies_would_deny_everything() -> None:
    with pytest.raises(PolicyInvalid) as caught:
        Bundle.from_files({"tools.yaml": TOOLS})
    assert caught.value.problems[0].startswith("policies: there are no policies (everything would be denied")


def test_tools_and_tests_may_be_left_out() -> None:
    files = {"policies/a.cedar": b'@id("a") @owner("x") @reason("x") permit (principal, action, resource);'}
    assert Bundle.from_files(files).cases == ()


def test_lint_is_a_warning() -> None:
    files = {
        "policies/a.cedar": b'@id("a") forbid (principal, action, resource);',
        "policies/b.txt": b"",
        "tests/a.yml": b"",
        "tools.yml": b"",
    }
    assert [line.split(" (")[0] for line in Bundle.from_files(files).warnings] == [
        "policies/b.txt: not read",
        "tests/a.yml: not read",
        "tools.yml: not read",
        "policies/a.cedar:1: `a` has no `@owner`",
        "policies/a.cedar:1: `a` has no `@reason`",
        "policies: no policy permits anything",
    ]
