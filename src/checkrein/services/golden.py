"""Golden cases (`golden/*.jsonl`): what must go on being decided, and answered, as it is.

    {"request": {... AuthZEN ...}, "expect": "ALLOW"}                     an action and its decision
    {"id": "refund-1", "prompt": "How long do refunds take?",             a question, what a good answer is,
     "answer": {"contains": ["14 days"]}, "expect": "ALLOW"}              and the decision on asking it

`answer` holds one or more of `exact`, `contains` (all of these), `regex` (RE2), `schema` (JSON Schema of a JSON
answer), `python` (`module:function` of case and answer, giving true, false or a share) and `judge` (what a model must
find true). `expect` is the outcome, ALLOW unless given. `messages` may stand in the place of `prompt`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from checkrein.model import BadRequest, CheckreinError, Outcome, Request
from checkrein.model.json import canonical, fold, load_object
from checkrein.model.request import PROMPT

SCORERS = ("exact", "contains", "regex", "schema", "python", "judge")
_MEMBERS = {"id", "request", "prompt", "messages", "answer", "expect", "subject", "model"}
_OUTCOMES = {outcome.name: outcome for outcome in Outcome} | {outcome.wire: outcome for outcome in Outcome}
MAX_CASES = 100_000
#: the model of a prompt that names none
UNNAMED = "golden"


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """One case. `messages` are empty for an action that is only decided."""

    id: str
    place: str
    request: Request
    expect: Outcome = Outcome.ALLOW
    messages: tuple[dict[str, object], ...] = ()
    answer: Mapping[str, object] = {}


def read_golden(files: Mapping[str, bytes]) -> list[Golden]:
    """The cases of these files, by name; raises `BadRequest` for the first line that is none."""
    cases: list[Golden] = []
    seen: dict[str, str] = {}
    for name in sorted(files):
        for number, line in enumerate(files[name].splitlines(), 1):
            if not line.strip():
                continue
            case = _case(line, f"{name}:{number}")
            if case.id in seen:
                raise BadRequest(f"{case.place}: the id `{case.id}` stands in {seen[case.id]} too", hint="rename one")
            seen[case.id] = case.place
            cases.append(case)
            if len(cases) > MAX_CASES:
                raise BadRequest(f"{name}: more than {MAX_CASES:,} golden cases", hint="split the set")
    if not cases:
        raise BadRequest(
            "there are no golden cases", hint="write some into golden/*.jsonl; `checkrein init` has examples"
        )
    return cases


def digest(cases: Sequence[Golden]) -> str:
    """`sha256:` over the cases: the same set, wherever it lies."""
    listed = [
        [case.id, case.expect.wire, fold(msgspec.to_builtins([case.request, case.messages, case.answer]))]
        for case in cases
    ]
    return "sha256:" + hashlib.sha256(canonical(listed)).hexdigest()


def _case(line: bytes, place: str) -> Golden:
    try:
        value = load_object(line)
        if unknown := sorted(set(value) - _MEMBERS):
            raise BadRequest(
                f"`{unknown[0][:40]}` is no member of a case", hint=f"known: {', '.join(sorted(_MEMBERS))}"
            )
        messages = tuple(_messages(value))
        given = value.get("request")
        if given is None and not messages:
            raise BadRequest("there is neither a `request` nor a `prompt`", hint="see the README's examples")
        request = Request.from_json(given) if isinstance(given, dict) else _prompt(value, messages)
        answer = value.get("answer", {})
        if not isinstance(answer, dict) or set(answer) - set(SCORERS):
            raise BadRequest("`answer` names no way to score", hint=f"known: {', '.join(SCORERS)}")
        expect = _OUTCOMES.get(str(value.get("expect", "ALLOW")))
        if expect is None:
            raise BadRequest("`expect` is no outcome", hint=f"known: {', '.join(outcome.name for outcome in Outcome)}")
        id = value.get("id", place)
        if not isinstance(id, str) or not id or len(id) > 200:
            raise BadRequest("`id` is not a short text", hint="leave it out, or name the case")
    except CheckreinError as error:
        raise BadRequest(f"{place}: {error}", hint=error.hint) from error
    return Golden(id=id, place=place, request=request, expect=expect, messages=messages, answer=answer)


def _messages(value: Mapping[str, object]) -> Iterator[dict[str, object]]:
    prompt, messages = value.get("prompt"), value.get("messages", [])
    if prompt is not None:
        if not isinstance(prompt, str) or not prompt or messages:
            raise BadRequest("`prompt` is not a text beside no `messages`", hint="give one of the two")
        yield {"role": "user", "content": prompt}
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BadRequest("`messages` are not a list of messages", hint='write `[{"role": "user", "content": "..."}]`')
    yield from messages


def _prompt(value: Mapping[str, object], messages: Sequence[dict[str, object]]) -> Request:
    subject = value.get("subject", {"type": "user", "id": "golden", "properties": {"roles": ["staff"]}})
    given = {
        "subject": subject,
        "action": {"name": PROMPT, "properties": {"input": {"messages": list(messages)}}},
        "resource": {"type": "model", "id": value.get("model", UNNAMED)},
    }
    return Request.from_json(given)
