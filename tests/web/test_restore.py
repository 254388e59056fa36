"""Values that were taken out of a prompt come back in its answer, where policy lets an answer hold them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from checkrein.compose import System, load_bundle
from checkrein.ports import RecordQuery
from fakes import FakeModel, chunk, completion, streamed

EMAIL = "jane@example.com"
ASKED: list[Any] = [{"role": "user", "content": f"write to {EMAIL}, card 4111 1111 1111 1111"}]
CARDS = """
@id("no-cards") @reason("cards stay here") @outcome("redact") @redact("pii.card")
forbid (principal, action in Action::"llm", resource) when { context.labels.contains("pii.card") };
"""
both = pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])


@pytest.fixture
def folder(folder: Path) -> Path:
    """Addresses stay out of prompts only, cards out of answers too; what was taken out comes back."""
    config, policies = folder / "checkrein.toml", folder / "policies/main.cedar"
    config.write_text(config.read_text() + "\n[redaction]\nrestore = true\n")
    only = policies.read_text().replace('"pii.email") };', '"pii.email") && !context.answer };')
    policies.write_text(only + CARDS)
    return folder


@pytest.fixture
async def client(server: str, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key=key, max_retries=0) as opened:
        yield opened


async def ask(client: openai.AsyncOpenAI, stream: bool) -> Any:
    if not stream:
        return (await client.chat.completions.create(model="m", messages=ASKED)).choices[0].message
    async with client.chat.completions.stream(model="m", messages=ASKED) as events:
        async for _ in events:
            pass
        return (await events.get_final_completion()).choices[0].message


def say(model: FakeModel, text: str, stream: bool) -> None:
    model.answer = completion(content=text)
    if stream:
        model.stream = [chunk({"content": text[place : place + 3]}) for place in range(0, len(text), 3)]
        model.stream += [chunk({}, "stop"), b"data: [DONE]\n\n"]


def propose(model: FakeModel, tool: str, stream: bool, **given: str) -> None:
    model.answer, model.stream = completion((tool, given)), streamed((tool, given)) if stream else []


@both
async def test_who_sent_a_value_sees_it_in_the_answer_and_the_model_never_does(
    system: System, client: openai.AsyncOpenAI, model: FakeModel, stream: bool
):
    say(model, "I wrote to <EMAIL_1> (<EMAIL_1>), <EMAIL_2> and <b>.", stream)
    assert (await ask(client, stream)).content == f"I wrote to {EMAIL} ({EMAIL}), <EMAIL_2> and <b>."
    assert EMAIL.encode() not in model.raw[0]
    *_, last = system.store.records(RecordQuery())
    assert last.body["detail"]["restored"] == {"pii.email": 2}
    assert EMAIL not in json.dumps([record.body for record in system.store.records(RecordQuery())])


@both
async def test_a_class_that_an_answer_may_not_hold_stays_out(
    client: openai.AsyncOpenAI, model: FakeModel, stream: bool
):
    say(model, "card <CARD_1> of <EMAIL_1>, not 5500 0000 0000 0004", stream)
    assert (await ask(client, stream)).content == f"card <CARD_1> of {EMAIL}, not <CARD_2>"


@both
async def test_a_proposed_call_is_decided_with_the_values_it_will_be_made_with(
    system: System, folder: Path, client: openai.AsyncOpenAI, model: FakeModel, stream: bool
):
    propose(model, "read_file", stream, path="notes of <EMAIL_1>")
    (call,) = (await ask(client, stream)).tool_calls
    assert json.loads(call.function.arguments) == {"path": f"notes of {EMAIL}"}
    strict = '@id("strict") @reason("no people") forbid (principal, action == Action::"read_file", resource) '
    (folder / "policies/strict.cedar").write_text(strict + 'when { context.labels.contains("pii.email") };')
    system.pdp.replace(load_bundle(folder))
    assert not (await ask(client, stream)).tool_calls


async def test_a_value_that_comes_back_comes_from_where_it_stood(
    system: System, client: openai.AsyncOpenAI, model: FakeModel
):
    seen: list[str] = []

    def note(request: Any, context: Any) -> None:
        seen.extend(context.get("provenance", {}).values())

    system.pdp.register(note)
    propose(model, "send_email", False, to="<EMAIL_1>", subject="s", body="b")
    await ask(client, False)
    assert seen == ["prompt"]
