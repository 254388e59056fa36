"""Chat completions as they come back: the tool calls in them, and what is told in the place of a refused one.

A call that policy lets pass reaches its caller byte for byte. What two readers could take for different calls is not
decided: the answer breaks off. `chunks` does the same for streams.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from checkrein.connectors.sse import load, unreadable
from checkrein.model import BadRequest
from checkrein.model.json import load_object, loads
from checkrein.services.answers import MAX_CALLS, Proposal, Verdict
from checkrein.services.speech import Speech

#: the members that hold calls, and how an answer ends that has some
CALLED = ("tool_calls", "function_call")
#: what is no words, in an answer or an event, in a choice, and in a message
ABOUT = frozenset({"id", "object", "created", "model", "usage", "system_fingerprint", "service_tier", "choices"})
ABOUT_CHOICE = frozenset({"index", "finish_reason", "logprobs", "message", "delta"})
SILENT = frozenset({"role", *CALLED})
_encode = msgspec.json.Encoder().encode

Json = dict[str, object]


#: kind of a call -> the member that holds its arguments
_KINDS = {"function": "arguments", "custom": "input"}
#: the kind of the older `function_call`, of which a message has one
_OLDER = ""


class Call(msgspec.Struct):
    """A tool call, whole or on its way."""

    kind: str
    id: str = ""
    name: str = ""
    text: str = ""

    def proposal(self) -> Proposal:
        if not self.name:
            raise unreadable("a tool call without a name")
        return Proposal(self.name, {"input": self.text} if self.kind == "custom" else arguments(self.text))

    def add(self, piece: Call) -> None:
        """Take the next piece of the call. What one reader would join and another overwrite is refused."""
        twice = (self.name and piece.name) or (self.id and piece.id and self.id != piece.id)
        if twice or self.kind != piece.kind:
            raise unreadable("a tool call that readers could take for different ones")
        self.id, self.name, self.text = self.id or piece.id, self.name or piece.name, self.text + piece.text

    def told(self, verdict: Verdict) -> Json:
        """The members of the call, with redacted arguments where there are some."""
        text = self.text
        if verdict.input is not None:
            text = str(verdict.input.get("input", "")) if self.kind == "custom" else _encode(verdict.input).decode()
        if self.kind == _OLDER:
            return {"name": self.name, "arguments": text}
        return {"id": self.id, "type": self.kind, self.kind: {"name": self.name, _KINDS[self.kind]: text}}


def arguments(text: str) -> Json | str:
    """Arguments by name; the text itself where it is no JSON object that all readers take for the same."""
    if not text.strip():
        return {}
    try:
        return load_object(text)
    except BadRequest:
        return text


# --- a whole answer ------------------------------------------------------------------------------------------


class Whole:
    """An answer in JSON. `asked` are its calls; `settle` gives the bytes that the caller may see.

    Its words are decided at once; raises `Withheld`.
    """

    def __init__(self, data: bytes, speech: Speech) -> None:
        self._data = data
        self._value = load(data, "a chat completion")
        #: its parts, each with the members that are no words
        self._parts = [(self._value, ABOUT)]
        #: each message with calls in it, and its choice
        self._told: list[tuple[Json, Json, list[Call]]] = []
        for choice in choices(self._value):
            self._parts.append((choice, ABOUT_CHOICE))
            for message in messages(choice):
                self._parts.append((message, SILENT))
                if found := [read_call(kind, piece) for kind, piece in pieces(message)]:
                    self._told.append((choice, message, found))
        self.asked = tuple(call.proposal() for _, _, calls in self._told for call in calls)
        if len(self.asked) > MAX_CALLS:
            raise unreadable(f"more than {MAX_CALLS} tool calls")
        self._changed = self._redact(speech)

    def _redact(self, speech: Speech) -> bool:
        """Take out what policy wants out of all words, and where something was taken out, of the tokens beside them."""
        words = [{name: item for name, item in part.items() if name not in about} for part, about in self._parts]
        clean = speech.whole(words)
        if clean is words or not isinstance(clean, list):
            return False
        for (part, about), told in zip(self._parts, clean, strict=True):
            kept = {name: item for name, item in part.items() if name in about and name != "logprobs"}
            part.clear()
            part.update(kept | told)
        return True

    def settle(self, verdicts: Sequence[Verdict]) -> bytes:
        if all(verdict.passes for verdict in verdicts):
            return _encode(self._value) if self._changed else self._data
        left = iter(verdicts)
        for choice, message, calls in self._told:
            _retell(choice, message, [(call, next(left)) for call in calls])
        return _encode(self._value)


def _retell(choice: Json, message: Json, calls: Sequence[tuple[Call, Verdict]]) -> None:
    for name in CALLED:
        message.pop(name, None)
    kept = [(call, verdict) for call, verdict in calls if not verdict.refusal]
    refusals = [verdict.refusal for _, verdict in calls if verdict.refusal]
    if refusals:
        message["content"] = _with_text(message.get("content"), "\n\n".join(refusals))
    if not kept:
        choice["finish_reason"] = ended(choice.get("finish_reason"))
    for call, verdict in kept:
        if call.kind == _OLDER:
            message["function_call"] = call.told(verdict)
    if modern := [call.told(verdict) for call, verdict in kept if call.kind != _OLDER]:
        message["tool_calls"] = modern


def _with_text(content: object, text: str) -> object:
    if isinstance(content, list):
        return [*content, {"type": "text", "text": text}]
    return f"{content}\n\n{text}" if content else text


def ended(reason: object) -> object:
    """How an answer ended of which no call is left."""
    return "stop" if reason in CALLED else reason


def failure(data: bytes, speech: Speech) -> bytes:
    """What an upstream says instead of an answer, as it may be heard. It need not be JSON."""
    try:
        value = loads(data)
    except BadRequest:
        text = data.decode("utf-8", "replace")
        clean = speech.whole(text)
        return data if clean is text else str(clean).encode()
    clean = speech.whole(value)
    return data if clean is value else _encode(clean)


# --- the parts of an answer ----------------------------------------------------------------------------------


def index_of(value: Json) -> int:
    index = value.get("index", 0)
    if not isinstance(index, int):
        raise unreadable("a choice that cannot be read")
    return index


def choices(value: Json) -> list[Json]:
    return _objects(value.get("choices"), "choices")


def is_over(choice: Json) -> bool:
    """Whether a choice says that it ends. Some upstreams say an empty word for as long as it does not."""
    return bool(choice.get("finish_reason"))


def messages(choice: Json) -> list[Json]:
    """Where a choice holds text and calls, in an answer and in a stream: in one place at most."""
    message, delta = choice.get("message"), choice.get("delta")
    if message is None:
        return [] if delta is None else _objects([delta], "a message")
    if delta is not None:
        raise unreadable("a choice with two messages")
    return _objects([message], "a message")


def pieces(message: Json) -> list[tuple[str, Json]]:
    """The calls of a message, or their pieces, each with its kind."""
    found: list[tuple[str, Json]] = []
    for call in _objects(message.get("tool_calls"), "tool calls"):
        kind = call.get("type") or ("custom" if "custom" in call else "function")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise unreadable("a tool call of an unknown type")
        found.append((kind, call))
    if message.get("function_call") is not None:
        found += [(_OLDER, call) for call in _objects([message["function_call"]], "a call")]
    return found


def read_call(kind: str, piece: Json) -> Call:
    body = piece if kind == _OLDER else piece.get(kind) or {}
    if not isinstance(body, dict):
        raise unreadable("a tool call that cannot be read")
    given = body.get("input" if kind == "custom" else "arguments")
    text = _encode(given).decode() if isinstance(given, dict) else given or ""
    id, name = piece.get("id") or "", body.get("name") or ""
    if not (isinstance(id, str) and isinstance(name, str) and isinstance(text, str)):
        raise unreadable("a tool call that cannot be read")
    return Call(kind, id, name, text)


def _objects(value: object, what: str) -> list[Json]:
    if value is None:
        return []
    if isinstance(value, list):
        for item in value:
            if not isinstance(item, dict):
                break
        else:
            return value
    raise unreadable(f"{what} that cannot be read")
