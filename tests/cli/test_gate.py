"""`checkrein gate`: real agents answer, the verdict is recorded, and only what it covers is rolled out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from checkrein.compose import SystemClock, open_system
from checkrein.model import Action, Request, Resource, Subject
from checkrein.ports import RecordQuery
from checkrein.storage.sqlite import SqliteStore
from checkrein.web.server import BackgroundServer
from fakes import FakeModel

Run = Callable[..., Any]
AGENTS = """
import json, os, pathlib
CALLS = pathlib.Path(__file__).with_name("calls")

def good(messages):
    with CALLS.open("a") as file:
        file.write("x")
    return {"text": "it takes 14 days", "tokens": 100, "cost": 0.001}

def wrong(messages):
    return {"text": "it takes a year", "tokens": 100, "cost": 0.001}

def broken(messages):
    raise RuntimeError("no")

def dear(messages):
    return {"text": "it takes 14 days", "tokens": 100, "cost": 1.0}

def halfway(messages):
    if CALLS.exists() and len(CALLS.read_text()) >= 10:
        os.kill(os.getpid(), 9)
    return good(messages)

def boastful(messages):
    return {"text": "it takes 14 days", "tokens": 100, "cost": -1.0, "latency_ms": float("nan")}

def scored(case, answer):
    return 1 if "14" in answer else 0
"""


@pytest.fixture
def agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Agents in Python, in a module of their own; what they count lies beside it."""
    module = tmp_path / "gate_agents.py"
    module.write_text(AGENTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    import sys

    sys.modules.pop("gate_agents", None)


def golden(path: Path, count: int = 310, **answer: object) -> Path:
    case = {"answer": answer or {"contains": ["14 days"]}}
    lines = [{"id": f"refund-{n}", "prompt": f"How long does refund {n} take?", **case} for n in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def verdicts(folder: Path) -> list[Any]:
    store = SqliteStore(folder / ".checkrein", SystemClock())
    try:
        return [record.body["detail"] for record in store.records(RecordQuery(kinds=("gate.verdict",)))]
    finally:
        store.close()


def gate(cli: Run, folder: Path, challenger: str, cases: Path, *more: object) -> Any:
    given = ("--champion", "python:gate_agents:good", "--challenger", challenger, "--golden", cases, "--dir", folder)
    return cli("gate", "run", *given, *more)


def test_a_good_challenger_is_promoted_and_the_verdict_recorded(folder: Path, agents: Path, cli: Run):
    reports = [arg for end in ("json", "md", "xml", "sarif") for arg in ("--report", agents / f"gate.{end}")]
    ran = gate(cli, folder, "python:gate_agents:good", golden(agents / "cases.jsonl"), *reports)
    assert ran.code == 0, ran.err
    assert ": promote" in ran.out
    (detail,) = verdicts(folder)
    assert detail["verdict"] == "promote"
    states = {check["name"]: check["state"] for check in detail["checks"]}
    assert states.pop("drift") == "skipped"  # there is no production yet, and that is told
    assert set(states.values()) == {"passed"}
    assert "drift" in ran.out
    assert "production has no actions in this time" in ran.out
    assert json.loads((agents / "gate.json").read_text())["verdict"]["outcome"] == "promote"
    assert (agents / "gate.md").read_text().startswith("# Gate: promote")
    suite = ElementTree.parse(agents / "gate.xml").getroot()[0]  # noqa: S314 - our own report
    assert (suite.get("failures"), suite.get("tests")) == ("0", "316")
    assert json.loads((agents / "gate.sarif").read_text())["runs"][0]["results"] == []


@pytest.mark.parametrize(
    ("challenger", "check"),
    [("wrong", "success"), ("broken", "error rate"), ("dear", "cost"), ("boastful", "error rate")],
)
def test_a_bad_challenger_is_refused(folder: Path, agents: Path, cli: Run, challenger: str, check: str):
    ran = gate(cli, folder, f"python:gate_agents:{challenger}", golden(agents / "cases.jsonl"), "-o", "json")
    assert ran.code == 5
    found = {item["name"]: item["state"] for item in ran.json()["verdict"]["checks"]}
    assert found[check] == "failed"
    assert verdicts(folder)[0]["verdict"] == "refuse"


@pytest.fixture
def chatting(folder: Path) -> Path:
    """The usual folder, where a golden set that is soon asked is large enough for drift, and one tool call ran."""
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + "\n[drift]\nnotice = 0.3\n")
    return folder


def produce(folder: Path, prompts: Sequence[str], tools: int = 0) -> None:
    """Real decisions on prompts, and on tools that no golden prompt asks for."""
    chats = [
        Request(
            Subject("user", "golden"),
            Action("prompt", {"input": {"messages": [{"role": "user", "content": prompt}]}}),
            Resource("model", "m"),
        )
        for prompt in prompts
    ]
    calls = [
        Request(Subject("user", "u"), Action("read_file", {"input": {"path": f"/{at}"}}), Resource("tool", "x"))
        for at in range(tools)
    ]
    system = open_system(folder)
    try:
        with ThreadPoolExecutor(16) as callers:
            list(callers.map(lambda each: system.gateway.evaluate_sync(each, caller="test"), [*chats, *calls]))
    finally:
        system.close()


def drift_of(ran: Any) -> Any:
    (check,) = [item for item in ran.json()["verdict"]["checks"] if item["name"] == "drift"]
    return check


def test_golden_prompts_that_production_still_looks_like_pass(chatting: Path, agents: Path, cli: Run):
    produce(chatting, [f"How long does refund {at} take?" for at in range(250)], tools=50)
    ran = gate(cli, chatting, "python:gate_agents:good", golden(agents / "cases.jsonl"), "-o", "json")
    assert (ran.code, drift_of(ran)["state"]) == (0, "passed"), ran.out
    assert drift_of(ran)["told"] == "no drift: 250 actions look like the 310 golden cases"


@pytest.mark.parametrize(
    ("setting", "code", "state"), [("", 8, "open"), ("refuse", 5, "failed"), ("tell", 0, "skipped")]
)
def test_golden_prompts_that_production_has_drifted_from_are_no_evidence(
    chatting: Path, agents: Path, cli: Run, setting: str, code: int, state: str
):
    if setting:
        config = chatting / "checkrein.toml"
        config.write_text(config.read_text() + f'\n[gate]\non_drift = "{setting}"\n')
    produce(chatting, [f"Please send email number {at} to everybody in the house" * 8 for at in range(250)])
    ran = gate(cli, chatting, "python:gate_agents:good", golden(agents / "cases.jsonl"), "-o", "json")
    assert (ran.code, drift_of(ran)["state"]) == (code, state), ran.out
    assert "argument sizes: 100.0% of the arguments are of other sizes" in drift_of(ran)["told"]


def test_a_policy_folder_is_held_against_production_too(chatting: Path, agents: Path, cli: Run):
    (chatting / "golden").mkdir()
    request = {
        "subject": {"type": "user", "id": "u"},
        "action": {"name": "read_file", "properties": {"input": {"path": "/1"}}},
        "resource": {"type": "tool", "id": "x"},
    }
    lines = [json.dumps({"id": str(at), "request": request}) for at in range(100)]
    (chatting / "golden/a.jsonl").write_text("\n".join(lines))
    produce(chatting, ["hello"] * 100, tools=100)
    candidate = agents / "candidate"
    shutil.copytree(chatting, candidate)
    policies = candidate / "policies/main.cedar"
    policies.write_text(policies.read_text() + "// another word\n")
    ran = cli("gate", "run", "--challenger", candidate, "--dir", chatting, "-o", "json")
    assert (ran.code, drift_of(ran)["state"]) == (8, "open"), ran.out
    assert "1 that the golden set lacks: prompt" in drift_of(ran)["told"]


def test_few_cases_are_not_enough_evidence(folder: Path, agents: Path, cli: Run):
    ran = gate(cli, folder, "python:gate_agents:good", golden(agents / "cases.jsonl", 20))
    assert ran.code == 8
    assert "not enough evidence" in ran.out
    assert "299" in ran.out


def test_a_golden_action_that_is_decided_otherwise_refuses(folder: Path, agents: Path, cli: Run):
    cases = golden(agents / "cases.jsonl")
    with cases.open("a") as file:
        file.write(json.dumps({"id": "pay", "prompt": "transfer funds now", "answer": {"contains": ["14"]}}) + "\n")
    ran = gate(cli, folder, "python:gate_agents:good", cases, "-o", "json")
    assert ran.code == 5
    (check,) = [item for item in ran.json()["verdict"]["checks"] if item["name"] == "governance"]
    assert "DENY, not ALLOW" in check["told"]


def test_a_run_that_was_killed_goes_on_where_it_was(folder: Path, agents: Path, spawn: Run):
    cases, path = golden(agents / "cases.jsonl", 30), str(agents)

    def run() -> int:
        given = ("--champion", "python:gate_agents:good", "--challenger", "python:gate_agents:halfway")
        code: int = spawn("gate", "run", *given, "--golden", cases, "--dir", folder, PYTHONPATH=path).code
        return code

    assert run() == -9
    done = len((agents / "calls").read_text())
    assert 0 < done < 60
    (agents / "gate_agents.py").write_text(AGENTS.replace("os.kill(os.getpid(), 9)", "pass"))
    assert run() == 8
    assert 60 <= len((agents / "calls").read_text()) <= 60 + 8  # what was under way is asked again, no more


@pytest.mark.parametrize(
    "answer",
    [
        {"exact": "it takes 14 days"},
        {"contains": ["14", "DAYS"]},
        {"regex": "^it takes [0-9]+ days$"},
        {"python": "gate_agents:scored"},
        {"contains": ["14"], "regex": "days"},
    ],
    ids=lambda answer: "+".join(answer),
)
def test_each_scorer_tells_right_from_wrong(folder: Path, agents: Path, cli: Run, answer: dict[str, object]):
    cases = golden(agents / "cases.jsonl", **answer)
    assert gate(cli, folder, "python:gate_agents:good", cases).code == 0
    assert gate(cli, folder, "python:gate_agents:wrong", cases).code == 5


def test_a_json_answer_is_held_against_its_schema(folder: Path, agents: Path, cli: Run):
    schema = {"type": "object", "required": ["days"], "properties": {"days": {"type": "integer"}}}
    cases = golden(agents / "cases.jsonl", schema=schema)
    command = "command:echo '{\"days\": 14}'"
    ran = cli("gate", "run", "--champion", command, "--challenger", command, "--golden", cases, "--dir", folder)
    assert ran.code == 0, ran.err
    assert gate(cli, folder, "python:gate_agents:good", cases, "-o", "json").json()["verdict"]["outcome"] != "refuse"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": ""}, "`prompt`"),
        ({"prompt": "a", "answer": {"vibes": 1}}, "names no way to score"),
        ({"prompt": "a", "expect": "MAYBE"}, "no outcome"),
        ({"prompt": "a", "tool": "x"}, "no member of a case"),
        ({}, "neither a `request` nor a `prompt`"),
        ({"prompt": "a", "answer": {"regex": "("}}, "no RE2 pattern"),
    ],
)
def test_a_case_that_will_not_do_is_named_with_its_line(
    folder: Path, agents: Path, cli: Run, line: dict[str, object], message: str
):
    cases = agents / "cases.jsonl"
    cases.write_text(json.dumps(line) + "\n")
    ran = gate(cli, folder, "python:gate_agents:good", cases)
    assert ran.code == 2
    assert f"{cases}:1" in ran.err
    assert message in ran.err


def test_a_policy_folder_is_judged_by_its_golden_actions(folder: Path, agents: Path, cli: Run):
    actions = folder / "golden"
    actions.mkdir()
    subject = {"type": "user", "id": "alice"}
    tool = {"type": "tool", "id": "x"}

    def action(name: str, expect: str, **arguments: object) -> str:
        request = {"subject": subject, "action": {"name": name, "properties": {"input": arguments}}, "resource": tool}
        return json.dumps({"request": request, "expect": expect}) + "\n"

    listed = [action("read_file", "ALLOW", path=f"{n}.csv") for n in range(15)]
    (actions / "actions.jsonl").write_text("".join([*listed, action("transfer_funds", "DENY", to="a", amount=1)]))
    candidate = agents / "candidate"
    shutil.copytree(folder, candidate)
    policies = candidate / "policies/main.cedar"
    policies.write_text(policies.read_text() + "// another word\n")
    ran = cli("gate", "run", "--challenger", candidate, "--dir", folder, "-o", "json")
    assert ran.code == 0, ran.out
    verdict = ran.json()
    assert verdict["kind"] == "policy"
    began = cli("rollout", "start", candidate, "--verdict", verdict["id"], "--dir", folder)
    assert began.code == 0, began.err
    assert cli("rollout", "abort", "--dir", folder).code == 0
    told = cli("gate", "run", "--challenger", candidate, "--dir", folder).err
    assert f"checkrein rollout start {candidate} --verdict gat_" in told

    policies.write_text(policies.read_text().replace('contains("tool:transfer_funds")', 'contains("nothing")'))
    ran = cli("gate", "run", "--challenger", candidate, "--dir", folder, "-o", "json")
    assert ran.code == 5
    told = {item["name"]: item["told"] for item in ran.json()["verdict"]["checks"]}
    assert "ALLOW, not DENY" in told["governance"]
    assert "DENY becomes ALLOW" in told["changes"]
    refused = cli("rollout", "start", candidate, "--verdict", ran.json()["id"], "--dir", folder)
    assert refused.code == 2
    assert "is `refuse`" in refused.err


def test_models_behind_upstreams_are_asked_and_their_verdict_covers_a_rollout(folder: Path, agents: Path, cli: Run):
    cases = golden(agents / "cases.jsonl", contains=["hello"])
    with BackgroundServer(FakeModel()) as first, BackgroundServer(FakeModel()) as second:
        file = folder / "checkrein.toml"
        for name, url in (("v1", first.url), ("v2", second.url)):
            file.write_text(file.read_text() + f'\n[upstreams.{name}]\nbase_url = "{url}/v1"\nmodels = []\n')
        given = ("--champion", "upstream:v1/m", "--challenger", "upstream:v2/m", "--golden", cases)
        ran = cli("gate", "run", *given, "--dir", folder, "-o", "json")
    assert ran.code == 0, ran.out
    made = ran.json()
    assert (made["kind"], made["champion"], made["challenger"]) == ("upstream", "v1", "v2")
    assert cli("rollout", "start", "--upstream", "v1", "--to", "v2", "--verdict", made["id"], "--dir", folder).code == 0


def test_a_judge_that_says_anything_but_pass_says_no(folder: Path, agents: Path, cli: Run):
    cases = golden(agents / "cases.jsonl", judge="it names a number of days")
    (agents / "gate_judges.py").write_text(
        "def strict(messages):\n    return 'PASS' if '14' in messages[0]['content'] else 'PASS? hardly'\n"
    )
    judge = ("--judge", "python:gate_judges:strict")
    assert gate(cli, folder, "python:gate_agents:good", cases, *judge).code == 0
    assert gate(cli, folder, "python:gate_agents:wrong", cases, *judge).code == 5
    assert "nobody judges" in gate(cli, folder, "python:gate_agents:good", cases, "--fresh").err


INSPECT = {
    "eval": {"task": "refunds"},
    "samples": [
        {
            "id": f"refund-{n}",
            "epoch": 1,
            "output": {"completion": "14 days", "usage": {"total_tokens": 90}, "time": 0.5},
            "scores": {"match": {"value": "C"}},
            "total_time": 0.6,
        }
        for n in range(310)
    ],
}
PROMPTFOO = {
    "results": {
        "results": [
            {
                "testIdx": n,
                "testCase": {"description": f"refund-{n}"},
                "success": n % 2 == 0,
                "latencyMs": 120,
                "response": {"output": "a year", "tokenUsage": {"total": 80}, "cost": 0.0001},
            }
            for n in range(310)
        ]
    }
}


@pytest.mark.parametrize(("log", "code"), [(INSPECT, 0), (PROMPTFOO, 5)], ids=["inspect_ai", "promptfoo"])
def test_a_run_of_another_tool_is_judged(folder: Path, agents: Path, cli: Run, log: dict[str, object], code: int):
    (agents / "log.json").write_text(json.dumps(log))
    assert cli("gate", "import", agents / "log.json", "--golden-run", agents / "run.jsonl").code == 0
    assert gate(cli, folder, f"run:{agents / 'run.jsonl'}", golden(agents / "cases.jsonl")).code == code


def test_a_log_that_nobody_wrote_is_refused(agents: Path, cli: Run):
    (agents / "log.json").write_text('{"a": 1}')
    ran = cli("gate", "import", agents / "log.json", "--golden-run", agents / "run.jsonl")
    assert ran.code == 2
    assert "neither inspect_ai nor promptfoo" in ran.err


def test_two_runs_are_compared(folder: Path, agents: Path, cli: Run):
    cases = golden(agents / "cases.jsonl", 5)
    files = []
    for challenger in ("good", "wrong"):
        ran = gate(cli, folder, f"python:gate_agents:{challenger}", cases)
        files.append(ran.err.partition("stand in ")[2].splitlines()[0])
    found = cli("gate", "diff", *files, "-o", "json").json()
    assert len(found) == 5
    assert (found[0]["score_before"], found[0]["score_after"]) == (1, 0)
    assert "both runs answered alike" in cli("gate", "diff", files[0], files[0]).err
