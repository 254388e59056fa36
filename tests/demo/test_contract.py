"""What any agent gateway behind Checkrein must do: the same module on the embedded one and on a real OpenClaw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from checkrein.demo import openclaw, scenario
from checkrein.demo.scenario import CASES, USER, Row, Stage, prepare, simulated
from checkrein.model.request import PROMPT
from checkrein.ports import RecordQuery
from checkrein.services.reconcile import Stand

READ, DRAFT, MAIL, TRANSFER, SHELL, PRIVATE, REPORT, WEATHER, LEFT = range(len(CASES))


class Played:
    """The scenario, played once."""

    def __init__(self, stage: Stage, rows: list[Row], runs: dict[str, int]) -> None:
        self.stage = stage
        self.rows = rows
        self.runs = runs

    def decisions(self, case: int) -> list[dict[str, Any]]:
        query = RecordQuery(trace_id=self.rows[case].trace_id, kinds=("decision",))
        return [dict(one.body) for one in self.stage.system.store.records(query)]


@pytest.fixture(scope="module", params=["embedded", pytest.param("openclaw", marks=pytest.mark.openclaw)])
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("demo") / "governance"
    prepare(folder)
    if request.param == "embedded":
        opened = scenario.stage(folder, None)
    else:
        opened = openclaw.stage(folder, None, request.getfixturevalue("runtime"), tell=print)
    with opened as stage:
        approver = simulated(stage.system)
        rows = [stage.send(case, approver) for case in CASES]
        yield Played(stage, rows, stage.sandbox.runs)


def test_each_request_has_the_outcome_that_policy_gives_it(played: Played) -> None:
    assert [row.outcome for row in played.rows] == [
        "ALLOW",
        "ALLOW",
        "REQUIRE_REVIEW",
        "DENY",
        "DENY",
        "ALLOW_WITH_REDACTION",
        "ALLOW",
        "ALLOW",
        "REQUIRE_REVIEW",
    ]


def test_what_policy_let_through_ran_and_nothing_else(played: Played) -> None:
    assert played.runs == {"send_email": 1, "transfer_funds": 0, "shell": 0, "read_file": 2}
    assert [played.rows[case].happened for case in (READ, MAIL, REPORT)] == [
        "executed: read_file ran once",
        "executed: send_email ran once",
        "executed: read_file ran once",
    ]


def test_the_model_sees_no_personal_data(played: Played) -> None:
    assert "the model saw placeholders only" in played.rows[PRIVATE].happened


def test_a_denied_prompt_reaches_no_agent(played: Played) -> None:
    for case in (TRANSFER, SHELL, LEFT):
        assert [one["action"]["name"] for one in played.decisions(case)] == [PROMPT]


def test_every_tool_call_is_decided_once_for_the_person_in_the_trace_of_the_prompt(played: Played) -> None:
    for case, tool in ((READ, "read_file"), (MAIL, "send_email"), (REPORT, "read_file")):
        decided = played.decisions(case)
        assert [one["action"]["name"] for one in decided if one["action"]["name"] != PROMPT] == [tool]
        assert {one["actor"]["id"] for one in decided} == {USER}


def test_an_approval_is_asked_for_once_and_used_once(played: Played) -> None:
    kinds = ("approval.requested", "approval.used")
    asked = {one["approval"]["id"] for one in played.decisions(MAIL) if one["approval"]["id"]}
    assert len(asked) == 1
    found = list(played.stage.system.store.records(RecordQuery(kinds=kinds, approval=asked.pop())))
    assert [one.kind for one in found] == ["approval.requested", "approval.used"]


def test_what_a_witness_sees_inside_was_decided(played: Played) -> None:
    played.stage.system.gateways.tick()
    for name in played.stage.system.gateways.names():
        stand = played.stage.system.gateways.stand(name)
        # the embedded gateway has no other side to be seen from
        seen = 3 if name == openclaw.UPSTREAM else 0
        assert stand == Stand(observed=seen, governed=seen)
