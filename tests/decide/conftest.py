"""Small folders and requests, for asking one thing at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from checkrein.decide.classify import Classifier
from checkrein.decide.evaluate import NamedPolicy, Situation, evaluate
from checkrein.model import Decision, Request
from checkrein.policy.bundle import Bundle

TOOLS = b"""
tools:
  pay:
    effects: [irreversible, external]
    input: {to: string, amount: integer, rate: number?, tags: array?, extra: object?}
    control: [to, amount]
    limits: {amount: {review_above: 1000}}
    intents: ["pay * invoice", "wire* * money"]
  mail:
    effects: [external]
    input: {to: string, body: string}
    control: [to]
    intents: ["send * email"]
  look:
    effects: [read]
    input: {query: string?}
    labels: [personal_data]
  note:
    effects: [write]
    input: {text: string}
"""


@pytest.fixture(scope="session")
def bundle() -> Callable[[str], Bundle]:
    """A bundle of the tools above and the given policies."""
    return lambda policies: Bundle.from_files({"tools.yaml": TOOLS, "policies/all.cedar": policies.encode()})


@pytest.fixture(scope="session")
def classifier(bundle: Callable[[str], Bundle]) -> Classifier:
    return Classifier(bundle('@id("all") permit (principal, action, resource);').manifests)


@pytest.fixture(scope="session")
def decide(bundle: Callable[[str], Bundle]) -> Callable[..., Decision]:
    """Decide a request by these policies; `python` are policies in Python, the rest are facts."""
    known: dict[str, tuple[Bundle, Classifier]] = {}

    def run(request: Request, policies: str, python: tuple[NamedPolicy, ...] = (), **facts: object) -> Decision:
        if policies not in known:
            made = bundle(policies)
            known[policies] = made, Classifier(made.manifests)
        made, judge = known[policies]
        situation = Situation(**{"now_us": 0, **facts})  # type: ignore[arg-type]
        return evaluate(request, made, situation, classifier=judge, python_policies=python)

    return run


@pytest.fixture(scope="session")
def prompt() -> Callable[..., Request]:
    """A prompt with one message of the user, or with these messages."""

    def make(content: object, **body: object) -> Request:
        messages = {"messages": [{"role": "user", "content": content}], **body}
        return _request("prompt", messages, "model")

    return make


@pytest.fixture(scope="session")
def call() -> Callable[..., Request]:
    """A call of a tool with arguments; `subject` and `context` replace the usual ones."""

    def make(tool: str, input: object = None, **members: object) -> Request:
        return _request(tool, {} if input is None else input, "tool", **members)

    return make


def _request(action: str, input: object, kind: str, **members: object) -> Request:
    value = {
        "subject": {"type": "user", "id": "alice"},
        "action": {"name": action, "properties": {"input": input}},
        "resource": {"type": kind, "id": "it"},
    }
    return Request.from_json({**value, **members})
