"""The demo: real requests through a real Checkrein, a live table, a verified ledger.

Which outcome a request gets is decided by the governance folder; edit a policy and run again. What is reported is
read back: decisions from Checkrein's answers, what ran from the sandbox, what the model saw from its own log.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from checkrein.web.server import BackgroundServer

MODEL = "openclaw/default"
TOKEN = "CHECKREIN_DEMO_TOKEN"  # noqa: S105 - the name of a variable
#: who sends the requests, and who stands in for people unless somebody sits at the terminal
USER, ROLES, AGENT = "demo-user", ("staff",), "demo-agent"
SIMULATED = "simulated-approver"
KEY_LIFE_S = 3600


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


#: gives people's answer to an approval and says who gave it; empty when nobody answered
Approver = Callable[[Approval], str]


class Stage:
    """Everything the demo runs on: Checkrein, the embedded gateway behind it, and a client before it."""

    def __init__(self, system: System, client: Client, sandbox: Sandbox) -> None:
        self.system = system
        self.client = client
        self.sandbox = sandbox

    def send(self, case: Case, approver: Approver) -> Row:
        """Send one request, let people answer if policy asks them, and read back what happened."""
        ran, seen = self.sandbox.runs, len(self._model_saw())
        first = self._submit(case)
        context, approved_by, waiting = first, "", ""
        if first["outcome"] == "require_review":
            waiting = str(first["access_request"]["id"])
            approved_by = "" if case.left else approver(self.system.approvals.get(waiting))
            context = self._submit(case) if approved_by else first
            if context["outcome"] != "require_review":
                waiting = ""
        runs = {name: count - ran[name] for name, count in self.sandbox.runs.items() if count > ran[name]}
        return Row(
            request=case.prompt,
            risk=str(first["risk"]["level"]),
            outcome=str(first["outcome"]).upper(),
            approved_by=approved_by or ("waits for people" if waiting else ""),
            happened=_happened(case, context, runs, self._model_saw()[seen:]),
            trace_id=str(context["trace_id"]),
            waiting=waiting,
        )

    def _submit(self, case: Case) -> dict[str, Any]:
        context: dict[str, Any] = self.client.submit_request({"model": MODEL, "prompt": case.prompt})["context"]
        return context

    def _model_saw(self) -> list[str]:
        log = self.sandbox.model_input
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def _happened(case: Case, context: Mapping[str, Any], runs: Mapping[str, int], saw: list[str]) -> str:
    tools = [f"{name} ran {'once' if count == 1 else f'{count} times'}" for name, count in runs.items()]
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
    sandbox = Sandbox((data or folder / DATA) / "sandbox")
    token = secrets.token_urlsafe(32)
    late: list[PdpClient] = []

    async def decide_tool(call: ToolCall) -> Verdict:
        # the gateway starts before the Checkrein that it will ask; a call before that finds nobody and is blocked
        return await late[0](call)

    with BackgroundServer(create_app(sandbox, token, decide_tool)) as gateway:
        embedded = UpstreamConfig(
            base_url=f"{gateway.url}/v1", kind="openclaw", models=("openclaw*",), api_key_env=TOKEN
        )
        system = open_system(folder, data=data, upstreams={"embedded": embedded}, variables={TOKEN: token})
        try:
            caller, secret = system.keys.create(
                AGENT, owner=USER, roles=ROLES, agent=AGENT, expires_s=KEY_LIFE_S, by="demo",
                permissions=(Permission.CALL, Permission.AUDIT),
            )  # fmt: skip
            pep, pep_secret = system.keys.create(
                "embedded-gateway", permissions=(Permission.DECIDE,), expires_s=KEY_LIFE_S, by="demo"
            )
            with BackgroundServer(system.app()) as server:
                late.append(PdpClient(server.url, pep_secret))
                yield Stage(system, Client(server.url, secret), sandbox)
            for key in (caller, pep):
                system.keys.revoke(key.id, by="demo")
        finally:
            system.close()


def simulated(system: System) -> Approver:
    """An approver that says yes, and whose votes are recorded as simulated."""

    def answer(approval: Approval) -> str:
        names: list[str] = []
        while approval.state is State.PENDING:
            names.append(f"{SIMULATED}-{len(names) + 1}" if approval.votes else SIMULATED)
            approval = system.approvals.vote(
                approval.id,
                voter=names[-1],
                roles=tuple(factor.role for factor in approval.requirement.factors),
                approve=True,
                reason="simulated by the demo",
                auth="simulated",
                simulated=True,
            )
        return ", ".join(names) or "approved before"

    return answer


def at_terminal(system: System, ask: Callable[[Approval], bool | None], who: str) -> Approver:
    """The person at the terminal, who stands for every role that is asked for; `None` leaves it open."""

    def answer(approval: Approval) -> str:
        verdict = ask(approval)
        if verdict is None:
            return ""
        roles = tuple(factor.role for factor in approval.requirement.factors)
        after = system.approvals.vote(approval.id, voter=who, roles=roles, approve=verdict, auth="terminal")
        return who if after.state is not State.PENDING else ""

    return answer


def prepare(folder: Path) -> bool:
    """Write the default governance folder if there is none; whether it was written."""
    if (folder / FILE).exists() or (folder / "policies").exists():
        return False
    write(folder)
    return True
