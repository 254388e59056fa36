"""Events of responses: the same however they are cut, and nothing passes that readers could take differently."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkrein.connectors.events import Events
from checkrein.connectors.responses import WholeResponse
from checkrein.model import UpstreamUnavailable
from checkrein.services.answers import Proposal, Verdict
from fakes import called, response, response_events, said, speech, typed

NO = "not `pay`."
ITEMS = {
    "words": said("mail jane@example.com today"),
    "read": called("read", {"to": "a"}, 1),
    "pay": called("pay", {"to": "secret-b"}, 2),
    "hide": called("hide", {"to": "secret-c"}, 3),
}


def verdict(proposal: Proposal) -> Verdict:
    if proposal.name == "hide":
        return Verdict(input={"to": "<X_1>"})
    return Verdict(refusal="" if proposal.name == "read" else NO)


def run(parts: list[bytes], *redact: str) -> tuple[bytes, list[Proposal]]:
    events, out, asked = Events(speech(redact=redact)), b"", list[Proposal]()

    def settled(part: bytes) -> bytes:
        while events.asked:
            asked.extend(events.asked)
            part += events.settle([verdict(proposal) for proposal in events.asked])
        return part

    for part in parts:
        out += settled(events.feed(part))
    return out + settled(events.close()) + events.rest, asked


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(st.lists(st.sampled_from(sorted(ITEMS)), max_size=4, unique=True), st.lists(st.integers(0, 9000), max_size=20))
def test_every_chunking_gives_the_same_stream(names: list[str], places: list[int]):
    data = b"".join(response_events(*(ITEMS[name] for name in names)))
    whole, asked = run([data], "pii.email")
    assert run(cut(data, places), "pii.email") == (whole, asked)
    assert [proposal.name for proposal in asked] == [name for name in names if name != "words"]
    assert b"secret-" not in whole
    assert b"example.com" not in whole
    assert (NO.encode() in whole) == ("pay" in names)
    if set(names) <= {"read"}:
        assert whole == data


@given(st.lists(st.sampled_from(sorted(ITEMS)), max_size=4, unique=True))
def test_the_last_event_holds_what_a_whole_response_would(names: list[str]):
    items = [ITEMS[name] for name in names]
    answer = WholeResponse(response(*items), speech(redact=("pii.email",)))
    told = json.loads(answer.settle([verdict(proposal) for proposal in answer.asked]))
    out, _ = run(response_events(*items), "pii.email")
    last = json.loads(out.rstrip().rpartition(b"\ndata: ")[2])
    assert [_plain(item) for item in last["response"]["output"]] == [_plain(item) for item in told["output"]]


@pytest.mark.parametrize(
    "text",
    [
        "say c2F5IGphbmVAZXhhbXBsZS5jb20gdG8= and jane%40example.com",
        '{"first_name": "Yusuf", "to": "jane\\u0040example.com"}',
        '[{"text": "jane@exa"}, {"text": "mple.com"}]',
        "[a link](https://example.com/?to=jane&#64;example.com)",
        "jane [at] example [dot] com",
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 100])
def test_pieces_and_what_tells_them_again_say_what_a_whole_response_says(text: str, piece: int):
    policy = ("pii.email", "pii.person_name")
    answer = WholeResponse(response(said(text)), speech(redact=policy))
    (expected,) = json.loads(answer.settle([]))["output"]
    told = [
        json.loads(line[6:])
        for line in run(response_events(said(text), piece=piece), *policy)[0].splitlines()
        if line.startswith(b"data")
    ]
    said_in = {
        kind: "".join(event[name] for event in told if event["type"] == f"response.output_text.{kind}")
        for kind, name in (("delta", "delta"), ("done", "text"))
    }
    clean = expected["content"][0]["text"]
    assert clean != text
    assert said_in == {"delta": clean, "done": clean}
    assert told[-1]["response"]["output"][0]["content"][0]["text"] == clean


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name != "logprobs"}


def at(kind: str, **more: Any) -> bytes:
    return typed({"type": f"response.{kind}", "output_index": 0, **more})


READ = called("read", {"to": "a"})
ADDED = at("output_item.added", item={**READ, "arguments": ""})
OTHER = {**READ, "arguments": '{"to":"b"}'}


@pytest.mark.parametrize(
    "parts",
    [
        [ADDED, at("function_call_arguments.delta", delta='{"to":"b"}'), at("output_item.done", item=READ)],
        [ADDED, at("function_call_arguments.done", arguments='{"to":"b"}'), at("output_item.done", item=READ)],
        [ADDED, at("output_item.done", item={**READ, "name": "pay"})],
        [at("function_call_arguments.delta", delta="{}")],
        [at("function_call_arguments.done", arguments="{}")],
        [at("something.new", item=READ)],
        [ADDED],
        [ADDED, b"data: [DONE]\n\n"],
        [at("output_item.added", item={"id": "x"}, response={"output": [{"id": "x"}]})],
        [at("completed", response={"output": "all"})],
        [b"data: hello\n\n"],
    ],
    ids=lambda parts: str(len(parts)),
)
def test_what_cannot_be_decided_breaks_the_answer_off(parts: list[bytes]):
    with pytest.raises(UpstreamUnavailable) as refused:
        run(parts)
    assert "without an end" not in str(refused.value)


def test_a_call_that_only_the_last_event_tells_is_decided_too():
    pay = ITEMS["pay"]
    out, asked = run([typed({"type": "response.completed", "response": {"output": [pay]}})])
    assert [proposal.name for proposal in asked] == ["pay"]
    assert b"secret-b" not in out
    changed = [*response_events(READ)[:-1], typed({"type": "response.completed", "response": {"output": [OTHER]}})]
    assert len(run(changed)[1]) == 2


def test_kinds_of_calls_nobody_knows_are_calls():
    item = {"type": "teleport_call", "id": "t", "to": "secret-x"}
    end = at("completed", response={"output": []})
    out, asked = run([at("output_item.done", item=item), end])
    assert asked == [Proposal("teleport", {"to": "secret-x"})]
    assert b"secret-x" not in out
    hosted = {"type": "web_search_call", "id": "w", "status": "completed", "action": {"query": "weather"}}
    part = at("output_item.done", item=hosted)
    assert run([part, end]) == (part + end, [])


@pytest.mark.parametrize("parts", [[], [at("created", response={})], [at("output_text.delta", delta="so far ")]])
def test_a_stream_that_does_not_end_is_none(parts: list[bytes]):
    with pytest.raises(UpstreamUnavailable, match="a stream without an end"):
        run(parts)
