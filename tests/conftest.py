"""A small governance folder, the system on it, and a model that counts its calls: a fake at the edge of the world."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from checkrein.compose import System, open_system
from checkrein.config import UpstreamConfig
from checkrein.connectors.openclaw_runtime import Runtime, find
from checkrein.model import CheckreinError, Permission
from checkrein.web.server import BackgroundServer
from fakes import FakeModel

#: how long a machine takes is no reason to fail
settings.register_profile("checkrein", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("checkrein")

CONFIG = """
environment = "test"
approvals.hold = 0

[people.bob]
roles = ["finance"]

[people.carol]
roles = ["finance", "security"]
"""

TOOLS = """
tools:
  read_file:
    effects: [read]
    input: {path: string}
    output: {path: trusted, content: untrusted}
  send_email:
    effects: [external]
    input: {to: string, subject: string, body: string}
    control: [to]
    intents: ["send * email"]
  transfer_funds:
    effects: [irreversible, external]
    input: {to: string, amount: integer, memo: string?}
    control: [to, amount]
    intents: ["transfer funds"]
"""

POLICIES = """
@id("ask-models") @owner("platform") @reason("models may be asked")
permit (principal, action in Action::"llm", resource);

@id("use-tools") @owner("platform") @reason("tools may be used")
permit (principal, action in Action::"tool", resource);

@id("mail-review") @owner("comms") @reason("mail needs a second look")
@outcome("require_review") @approvers("1 of finance") @expires("1h")
forbid (principal, action, resource) when { context.labels.contains("tool:send_email") };

@id("no-transfers") @owner("treasury") @reason("agents move no money") @alternative("draft the transfer")
forbid (principal, action, resource) when { context.labels.contains("tool:transfer_funds") };

@id("clean-mail") @owner("privacy") @reason("no addresses leave") @outcome("redact") @redact("pii.email")
forbid (principal, action in Action::"llm", resource) when { context.labels.contains("pii.email") };
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A governance folder: reads run, mail is reviewed, transfers are denied, addresses in prompts are redacted."""
    target = tmp_path / "governance"
    (target / "policies").mkdir(parents=True)
    (target / "checkrein.toml").write_text(CONFIG)
    (target / "tools.yaml").write_text(TOOLS)
    (target / "policies/main.cedar").write_text(POLICIES)
    return target


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def model_url(model: FakeModel) -> Iterator[str]:
    with BackgroundServer(model) as server:
        yield server.url


@pytest.fixture
def system(folder: Path, model_url: str) -> Iterator[System]:
    """The system on the folder, with the fake model as its only upstream."""
    upstream = UpstreamConfig(base_url=f"{model_url}/v1", api_key_env="MODEL_KEY")
    opened = open_system(folder, upstreams={"fake": upstream}, variables={"MODEL_KEY": "sk-upstream"})
    yield opened
    opened.close()


@pytest.fixture
def server(system: System) -> Iterator[str]:
    """The address of a Checkrein that serves."""
    with BackgroundServer(system.app()) as running:
        yield running.url


@pytest.fixture
def key(system: System) -> str:
    """A key that may do everything, of the user alice."""
    _, secret = system.keys.create("alice", agent="bot", permissions=tuple(Permission), by="tests")
    return secret


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    """The real OpenClaw, installed when it is not there. Where it cannot be, what needs it fails and says why."""
    try:
        return find(tell=print)
    except CheckreinError as error:
        pytest.fail(f"the real OpenClaw cannot be tested here: {error} ({error.hint})", pytrace=False)
