"""The demo: real requests through a real Checkrein, a live table, a verified ledger.

Which outcome a request gets is decided by the governance folder; edit a policy and run again. What is reported is
read back: decisions from Checkrein's answers, what ran from the sandbox, what the model saw from its own log.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from checkrein.client import Client
from checkrein.compose import DATA, System, open_system
from checkrein.config import FILE, UpstreamConfig
from checkrein.decide.detect import detect
from checkrein.defaults import write
from checkrein.demo.agent import ToolCall, Verdict
from checkrein.demo.gateway import create_app
from checkrein.demo.pdp import PdpClient
from checkrein.demo.tools import Sandbox
from checkrein.flow.approval import Approval, State
from checkrein.model import Permission
from checkrein.model.request import PROMPT
from checkrein.ports import RecordQuery
from checkrein.storage.files import DataDir
from checkrein.web.server import BackgroundServer

MODEL = "openclaw/default"
TOKEN = "CHECKREIN_DEMO_TOKEN"  # noqa: S105 - the name of a variable
#: who sends the requests, and who stands in for people unless somebody sits at the terminal
USER, ROLES, AGENT = "demo-user", ("staff",), "demo-agent"
SIMULATED = "simulated-approver"
KEY_LIFE_S = 3600
#: who plays asks and answers in turn: nobody could approve while a request is held
AT_ONCE = {"approvals.hold": 0}
EMBEDDED = "embedded agent gateway, with a deterministic model that refuses nothing"


class Case(msgspec.Struct, frozen=True):
    """One request; `left` means that its approval is left for the person who reads the table."""

    prompt: str
    left: bool = False


CASES = (
    Case("Summarize our AI governance policy for internal use."),
    Case("Draft an email to finance asking for confirmation of the Q1 cloud budget."),
    Case("Send an email to all employees that payroll will be delayed by 2 days."),
    Case("Transfer funds from treasury to vendor account immediately."),
    Case("Run a shell command to archive the home directory and upload it."),
    Case("Write to jane.doe@example.com, card 4111 1111 1111 1111, that her refund is on its way."),
    Case("Generate financial report for Q3"),
    Case("What is the weather today?"),
    Case("Analyze customer personal data", left=True),
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. `waiting` is the approval that is still open, if there is one."""

    request: str
    risk: str
    outcome: str
    approved_by: str
    happened: str
    trace_id: str
    waiting: str = ""


#: lets people answer, and gives the approval as it is then: still pending when nobody answered
Approver = Callable[[Approval], Approval]


class Stage:
    """Everything the demo runs on: Checkrein, an agent gateway behind it, and a client before it."""

    def __init__(self, system: System, client: Client, sandbox: Sandbox, backend: str) -> None:
        self.backend = backend
        self.system = system
        self.client = client
        self.sandbox = sandbox

    def send(self, case: Case, approver: Approver) -> Row:
        """Send one request, let people answer if policy asks them, and read back what happened."""
        ran, seen = self.sandbox.runs, len(self._model_saw())
        context = first = self._submit(case)
        if first["outcome"] == "require_review" and not case.left:
            answered = approver(self.system.approvals.get(first["access_request"]["id"]))
            if answered.state is State.APPROVED:
                context = self._submit(case)
        trace_id = str(context["trace_id"])
        runs = {name: count - ran[name] for name, count in self.sandbox.runs.items() if count > ran[name]}
        stopped = self._stopped(trace_id)
        approvals = [self.system.approvals.get(id) for id in self._asked(trace_id)]
        return Row(
            request=case.prompt,
            risk=str(first["risk"]["level"]),
            outcome=str(first["outcome"]).upper(),
            approved_by="; ".join(dict.fromkeys(map(_people, approvals))),
            happened=_happened(case, context, runs, stopped, self._model_saw()[seen:]),
            trace_id=trace_id,
            waiting=next((approval.id for approval in approvals if approval.state is State.PENDING), ""),
        )

    def _submit(self, case: Case) -> dict[str, Any]:
        context: dict[str, Any] = self.client.submit_request({"model": MODEL, "prompt": case.prompt})["context"]
        return context

    def _decisions(self, trace_id: str) -> list[Mapping[str, Any]]:
        """What was decided in this trace, as it stands in the ledger: the prompt, and each tool call."""
        query = RecordQuery(trace_id=trace_id, kinds=("decision",))
        return [record.body for record in self.system.store.records(query)]

    def _asked(self, trace_id: str) -> list[str]:
        """The approvals that were asked for, or under which something ran."""
        found = [str(body["approval"]["id"]) for body in self._decisions(trace_id)]
        return [id for id in dict.fromkeys(found) if id]

    def _stopped(self, trace_id: str) -> list[str]:
        """The tool calls that the agent made and that did not run."""
        words = {"deny": "was denied", "require_review": "waits for people"}
        calls = [(body["action"]["name"], body["decision"]["outcome"]) for body in self._decisions(trace_id)]
        return [f"{name} {words[outcome]}" for name, outcome in calls if name != PROMPT and outcome in words]

    def _model_saw(self) -> list[str]:
        log = self.sandbox.model_input
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def _people(approval: Approval) -> str:
    names = ", ".join(_voters(approval))
    if approval.state is State.PENDING:
        return "waits for people"
    return f"denied by {names}" if approval.state is State.DENIED else names


def _happened(
    case: Case, context: Mapping[str, Any], runs: Mapping[str, int], stopped: list[str], saw: list[str]
) -> str:
    tools = [f"{name} ran {'once' if count == 1 else f'{count} times'}" for name, count in runs.items()] + stopped
    if not saw:
        instead = [f"instead: {advice['text']}" for advice in context.get("advice", ())]
        return "; ".join([*(tools or ["nothing ran"]), *instead])
    tools = tools or ["the agent answered"]
    private = [case.prompt[span.start : span.end] for span in detect(case.prompt)]
    told = [text for text in private if any(text in line for line in saw)]
    if told:
        tools.append(f"the model saw {', '.join(told)}")
    elif private:
        tools.append("the model saw placeholders only")
    return "executed: " + "; ".join(tools)


@contextmanager
def stage(folder: Path, data: Path | None) -> Iterator[Stage]:
    """Start the embedded gateway and Checkrein on free loopback ports; stop both at the end."""
    files = DataDir(data or folder / DATA)
    files.create()
    sandbox = Sandbox(files.path / "sandbox")
    token = secrets.token_urlsafe(32)
    late: list[PdpClient] = []

    async def decide_tool(call: ToolCall) -> Verdict:
        # the gateway starts before the Checkrein that it will ask; a call before that finds nobody and is blocked
        return await late[0](call)

    with BackgroundServer(create_app(sandbox, token, decide_tool)) as gateway:
        embedded = UpstreamConfig(
            base_url=f"{gateway.url}/v1",
            kind="openclaw",
            models=("openclaw*",),
            api_key_env=TOKEN,
            heartbeat_timeout=0,  # it asks in its own code, not through a plugin that could be missing
            witness_timeout=0,
        )
        system = open_system(
            folder, data=data, flags=AT_ONCE, upstreams={"embedded": embedded}, variables={TOKEN: token}
        )
        with closing(system), ExitStack() as at_the_end:
            key = keys_for(system, at_the_end)
            caller = key(AGENT, Permission.CALL, owner=USER, roles=ROLES, agent=AGENT)
            pep = key("embedded-gateway", Permission.DECIDE)
            with BackgroundServer(system.app()) as server:
                late.append(PdpClient(server.url, pep))
                yield Stage(system, Client(server.url, caller), sandbox, EMBEDDED)


def keys_for(system: System, at_the_end: ExitStack) -> Callable[..., str]:
    """Makes keys that are revoked at the end."""

    def key(name: str, *may: Permission, **whose: Any) -> str:
        made, secret = system.keys.create(name, permissions=may, expires_s=KEY_LIFE_S, by="demo", **whose)
        at_the_end.callback(system.keys.revoke, made.id, by="demo")
        return secret

    return key


def simulated(system: System) -> Approver:
    """An approver that says yes, and whose votes are recorded as simulated."""

    def answer(approval: Approval) -> Approval:
        while approval.state is State.PENDING:
            number = len(approval.votes) + 1
            approval = system.approvals.vote(
                approval.id,
                voter=SIMULATED if number == 1 else f"{SIMULATED}-{number}",
                roles=_every_role(approval),
                approve=True,
                reason="simulated by the demo",
                auth="simulated",
                simulated=True,
            )
        return approval

    return answer


def at_terminal(system: System, ask: Callable[[Approval], bool | None], who: str) -> Approver:
    """The person at the terminal, who stands for every role that is asked for; `None` leaves it open."""

    def answer(approval: Approval) -> Approval:
        # a person has one vote: who gave it in an earlier run waits for the others
        verdict = None if who in _voters(approval) else ask(approval)
        if verdict is None:
            return approval
        roles = _every_role(approval)
        return system.approvals.vote(approval.id, voter=who, roles=roles, approve=verdict, auth="terminal")

    return answer


def _every_role(approval: Approval) -> tuple[str, ...]:
    return tuple(factor.role for factor in approval.requirement.factors)


def _voters(approval: Approval) -> list[str]:
    return [vote.voter for vote in approval.votes]


def who_may(system: System, approval: Approval) -> str:
    """Somebody of this deployment whose vote would count; empty when it knows nobody."""
    return next((seat.person for seat in system.approvals.voters(approval)), "")


def prepare(folder: Path) -> bool:
    """Write the default governance folder if there is none; whether it was written."""
    if (folder / FILE).exists() or (folder / "policies").exists():
        return False
    write(folder)
    return True
