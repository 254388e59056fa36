"""A response as a stream of typed events. A call is whole with `response.output_item.done`.

The same call is told up to four times: item added, arguments in pieces, arguments done, item done; and once more in the
response that ends the stream. What does not tell the same is not passed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from checkrein.connectors.completions import Json
from checkrein.connectors.responses import (
    identity,
    is_call,
    items,
    proposal,
    redact_parts,
    redact_response,
    settled_item,
    words,
)
from checkrein.connectors.sse import Event, dump, unreadable
from checkrein.connectors.stream import Stream, Told
from checkrein.connectors.texts import Place, Texts
from checkrein.services.answers import Proposal, Verdict
from checkrein.services.speech import Speech

_ADDED, _DONE = "response.output_item.added", "response.output_item.done"
#: the last event of a stream
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
#: events with pieces of a call, and the member of the item that they must add up to
_PIECES = {
    "response.function_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
}
#: what tells one text of a stream from another
_WHERE = ("item_id", "output_index", "content_index", "summary_index")
#: members of an event that are no words
_ABOUT = frozenset({"type", "sequence_number", "delta", "item", "response", "logprobs", "obfuscation", *_WHERE})


#: where the item of a call stands: its place, or that in a response
_Item = str | int | tuple[str, int]


class _Call:
    """A call under way: what was told of it so far."""

    def __init__(self, item: Json) -> None:
        self.item = item
        self.text = ""
        self.whole = False


class Events(Stream):
    def __init__(self, speech: Speech) -> None:
        super().__init__(Texts(speech, EventForm()))
        #: the calls that are not settled yet, by the place of their item
        self._open: dict[_Item, _Call] = {}
        self._settled: dict[bytes, Verdict] = {}

    def read(self, value: Json) -> None:
        kind, place = value.get("type"), _key(value.get("output_index"))
        item, response = value.get("item"), value.get("response")
        if isinstance(item, dict) and is_call(item):
            if kind == _ADDED and place not in self._open:
                self._open[place] = _Call(item)
            elif kind == _DONE:
                self._finish(self._open.setdefault(place, _Call(item)), item)
            else:
                raise unreadable("a tool call where none is expected")
        elif place in self._open:
            self._piece(self._open[place], str(kind), value)
        elif str(kind).rpartition(".")[0] in _PIECES:
            raise unreadable("pieces of a tool call that did not begin")
        for number, told in enumerate(items(response) if isinstance(response, dict) else ()):
            if is_call(told) and identity(told) not in self._settled:
                call = self._open.setdefault(("response", number), _Call(told))
                self._finish(call, told)

    def _piece(self, call: _Call, kind: str, value: Json) -> None:
        family, _, part = kind.rpartition(".")
        member = _PIECES.get(family)
        if member is None:
            return
        if call.whole:
            raise unreadable("more of a tool call that was whole")
        if part == "delta" and isinstance(value.get("delta"), str):
            call.text += str(value["delta"])
        elif part != "done" or value.get(member) != call.text:
            raise unreadable("a tool call that readers could take for different ones")

    def _finish(self, call: _Call, item: Json) -> None:
        said = item.get("input" if item["type"] == "custom_tool_call" else "arguments")
        other = any(call.item.get(name) != item.get(name) for name in ("type", "name", "call_id"))
        if call.whole or other or (call.text and call.text != said):
            raise unreadable("a tool call that readers could take for different ones")
        call.item, call.whole = item, True

    def open(self) -> bool:
        return bool(self._open)

    def whole(self) -> bool:
        return all(call.whole for call in self._open.values())

    def proposals(self) -> Iterator[Proposal]:
        if not self.whole():
            raise unreadable("a tool call that is not whole")
        return (proposal(call.item) for call in self._open.values())

    def settled(self, held: Sequence[Told], verdicts: Sequence[Verdict]) -> Iterable[Told]:
        calls, self._open = self._open, {}
        for call, verdict in zip(calls.values(), verdicts, strict=True):
            self._settled[identity(call.item)] = verdict
        given = dict(zip(calls, verdicts, strict=True))
        return [told for event, value in held for told in self._retold(event, value, given)]

    def _retold(self, event: Event, value: Json, given: dict[_Item, Verdict]) -> Iterator[Told]:
        verdict = given.get(_key(value.get("output_index")))
        if verdict is None or verdict.passes:
            yield event, value
        elif value.get("type") == _DONE:
            yield from _told_item(value, settled_item(dict(value["item"]), verdict))  # type: ignore[call-overload]

    def over(self) -> bool:
        return False

    def closes(self, event: Event, value: Json) -> bool:
        return event.done or value.get("type") in _ENDS

    def _emit(self, told: Iterable[Told]) -> bytes:
        return super()._emit(self._as_settled(told))

    def _as_settled(self, told: Iterable[Told]) -> Iterator[Told]:
        """Responses with the calls in them as they were settled."""
        for event, value in told:
            response = value.get("response")
            if not isinstance(response, dict) or not items(response):
                yield event, value
                continue
            output = [
                settled_item(item, self._settled[identity(item)]) if is_call(item) else item for item in items(response)
            ]
            if all(new is old for new, old in zip(output, items(response), strict=True)):
                yield event, value
            else:
                value = {**value, "response": {**response, "output": output}}
                yield dump(value, str(value["type"])), value


def _told_item(value: Json, item: Json) -> Iterator[Told]:
    """Every event of an item that is told in the place of another, in the order that readers expect."""
    where: Json = {name: value[name] for name in ("output_index", "sequence_number") if name in value}
    at = {**where, "item_id": item.get("id")}
    content = item.get("content")
    if item["type"] == "message" and isinstance(content, list):
        part = content[0]
        text, empty = {**at, "content_index": 0}, {**part, "text": ""}
        events: list[Json] = [
            {"type": _ADDED, **where, "item": {**item, "status": "in_progress", "content": []}},
            {"type": "response.content_part.added", **text, "part": empty},
            {"type": "response.output_text.delta", **text, "delta": part["text"], "logprobs": []},
            {"type": "response.output_text.done", **text, "text": part["text"], "logprobs": []},
            {"type": "response.content_part.done", **text, "part": part},
        ]
    else:
        member = "input" if item["type"] == "custom_tool_call" else "arguments"
        family = next((name for name, of in _PIECES.items() if of == member and member in item), "")
        events = [{"type": _ADDED, **where, "item": {**item, member: ""} if family else item}]
        if family:
            events += [
                {"type": f"{family}.delta", **at, "delta": item[member]},
                {"type": f"{family}.done", **at, member: item[member], "name": item.get("name")},
            ]
    for told in [*events, {"type": _DONE, **where, "item": item}]:
        yield dump(told, str(told["type"])), told


class EventForm:
    """Events of responses. A text is known by what its events are called and the places they name."""

    def texts(self, value: Json) -> Iterator[tuple[Place, str]]:
        family, _, part = str(value.get("type", "")).rpartition(".")
        if part == "delta" and isinstance(value.get("delta"), str) and family not in _PIECES:
            yield (family, *(_key(value.get(name)) for name in _WHERE)), str(value["delta"])

    def field(self, place: Place) -> str:
        return ""

    def put(self, value: Json, place: Place, text: str) -> None:
        value["delta"] = text
        value.pop("logprobs", None)
        value.pop("obfuscation", None)

    def over(self, value: Json, under_way: Iterable[Place]) -> list[Place]:
        kind = str(value.get("type", ""))
        family, _, part = kind.rpartition(".")
        if kind in _ENDS:
            return [*under_way]
        index = _key(value.get("output_index"))
        if kind == _DONE:
            return [place for place in under_way if place[2] == index]
        here = (family, *(_key(value.get(name)) for name in _WHERE))
        return [place for place in under_way if part == "done" and place == here]

    def piece(self, place: Place, text: str) -> Event:
        where = {name: key for name, key in zip(_WHERE, place[1:], strict=True) if key != ""}
        kind = f"{place[0]}.delta"
        return dump({"type": kind, **where, "delta": text}, kind)

    def event(self, value: Json) -> Event:
        return dump(value, str(value.get("type", "")))

    def redact(self, value: Json, speech: Speech) -> bool:
        family, _, _ = str(value.get("type", "")).rpartition(".")
        found = False
        response, item, delta = value.get("response"), value.get("item"), value.get("delta")
        if isinstance(response, dict):
            found = redact_response(response, speech, again=True)
        if isinstance(item, dict):
            found = redact_parts([(item, words(item))], speech, again=True) or found
        if family not in _PIECES:
            said = {name: member for name, member in value.items() if name not in _ABOUT}
            if delta is not None and not isinstance(delta, str):
                said["delta"] = delta
            found = redact_parts([(value, said)], speech, again=True) or found
        return found

    def only_says_more(self, value: Json) -> bool:
        return False  # each event has a number of its own, so none is like another


def _key(value: object) -> str | int:
    return value if isinstance(value, str | int) else ""
