"""What a request is: labels, and a risk with the factors that made it.

A tool call is judged by its effects, its limits, where its control arguments came from and what stands in its
arguments. A prompt is judged by the tools it wants (the `intents` of the manifests) and by what stands in it.
A word can only raise a risk, never lower it; and the tool call that follows a prompt is judged by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import re2

from checkrein.decide.detect import BUILT_IN, EVERYTHING, Detectors, covers, known
from checkrein.decide.detectors import WITHHELD
from checkrein.decide.disguise import OPAQUE
from checkrein.decide.fold import skeleton
from checkrein.decide.patterns import PatternSet
from checkrein.decide.provenance import Provenance
from checkrein.decide.redact import detect_json
from checkrein.model import BadRequest, Request, Risk
from checkrein.model.json import json_type
from checkrein.model.risk import RED_FROM
from checkrein.policy.effect import Effect
from checkrein.policy.manifest import Manifest, Manifests

_EFFECT_SCORE = {
    Effect.READ: 0,
    Effect.WRITE: 20,
    Effect.EXTERNAL: 45,
    Effect.EGRESS: 75,
    Effect.IRREVERSIBLE: 75,
}
#: what cannot be undone and also reaches outside
_IRREVERSIBLE_EXTERNAL = 85
_NOTHING_FOUND = 5
_PERSONAL_DATA, _SECRET, _OPAQUE = 35, 50, 50
_LABELLED = 40
_UNSUPPORTED_ARGUMENT = 30
_UNDECLARED, _UNDECLARED_READ = 30, 10
#: what a word outside the user's messages can add: it makes nothing red by itself
_ELSEWHERE = 30

#: what may stand where nobody can read: everything a policy could ask for
_ANYTHING = tuple(sorted(cls for cls in BUILT_IN.classes if covers(EVERYTHING, cls)))
#: what detection counts beside classes: what it could not read, or would not release
_UNREAD = (OPAQUE, WITHHELD)

Factor = tuple[int, str]


class Classified(msgspec.Struct, frozen=True):
    """Labels (sorted), the risk, and how many spans of each class were detected."""

    risk: Risk
    labels: tuple[str, ...] = ()
    detected: dict[str, int] = {}


class _Tool(NamedTuple):
    """What a manifest makes of a call: labels, points, and the name that people read."""

    labels: frozenset[str]
    points: int
    named: str

    @classmethod
    def of(cls, manifest: Manifest) -> _Tool:
        return cls(_labels(manifest), _score(manifest.effects, manifest.labels), _named(manifest))


class Classifier:
    """Classifies requests against one set of manifests; built once for each bundle."""

    def __init__(self, manifests: Manifests) -> None:
        self.manifests = manifests
        self._intents = _Intents(manifests)
        tools = manifests.tools.values()
        self._tools = {tool.name: _Tool.of(tool) for tool in tools}
        self._detectors = {tool.name: BUILT_IN.with_fields(tool.personal) for tool in tools if tool.personal}
        #: what tools answered stands in prompts as JSON within a text
        every = {name: cls for tool in tools for name, cls in tool.personal.items()}
        self._prompt_detectors = BUILT_IN.with_fields({}, inner=every) if every else BUILT_IN

    def detectors(self, request: Request) -> Detectors:
        """What finds personal data in this action, in its arguments and its result: the fields of its manifest too."""
        if request.is_prompt:
            return self._prompt_detectors
        return self._detectors.get(request.action.name, BUILT_IN)

    def classify(self, request: Request, provenance: Mapping[str, Provenance] | None = None) -> Classified:
        """`provenance` of the control arguments of a tool call, where it is known at all."""
        if request.is_answer:  # it wants nothing: the calls in it are decided by themselves
            factors, labels = list[Factor](), set[str]()
            detected = _told(request.action.input)
        else:
            if request.is_prompt:
                factors, labels = self._prompt(request.action.input)
            else:
                factors, labels = self._call(request, provenance or {})
            detected = detect_json(request.action.input, detectors=self.detectors(request))
            if request.comes_back:
                detected.update(_told(request.action.properties))
        if detected:
            for cls in (*detected, *(_ANYTHING if OPAQUE in detected else ())):
                labels |= {cls, cls.partition(".")[0]}
            factors += _found("personal data", "pii", _PERSONAL_DATA, detected)
            factors += _found("a secret", "secret", _SECRET, detected)
            if OPAQUE in detected:
                factors.append((_OPAQUE, "text that is encoded too deeply to be read"))
        factors.sort(key=lambda factor: -factor[0])
        score = sum([points for points, _ in factors]) or _NOTHING_FOUND
        return Classified(
            Risk.of(score, tuple([text for _, text in factors])),
            tuple(sorted(labels)),
            dict(sorted(detected.items())),
        )

    def _prompt(self, body: Mapping[str, object]) -> tuple[list[Factor], set[str]]:
        labels: set[str] = set()
        strongest: Factor = (0, "")
        wanted, mentioned = self._intents.wanted(asked(body, joined=True), _elsewhere(body))
        for manifest in wanted:
            tool = self._tools[manifest.name]
            labels |= tool.labels
            strongest = max(strongest, (tool.points, f"asks for {tool.named}"), key=lambda factor: factor[0])
        # what stands elsewhere (instructions, answers of tools) may speak of a tool without wanting it
        for manifest in mentioned:
            tool = self._tools[manifest.name]
            points = min(tool.points, _ELSEWHERE)
            strongest = max(
                strongest, (points, f"speaks of {tool.named} outside what is asked"), key=lambda factor: factor[0]
            )
        return [strongest] if strongest[0] else [], labels

    def _call(self, request: Request, provenance: Mapping[str, Provenance]) -> tuple[list[Factor], set[str]]:
        name = request.action.name
        resolved = self.manifests.resolve(name)
        manifest = resolved.manifest or Manifest(name=name, effects=resolved.effects)
        tool = self._tools[manifest.name] if resolved.declared else _Tool.of(manifest)
        labels = {*tool.labels}
        factors: list[Factor] = [(tool.points, tool.named)]
        if not resolved.declared:
            labels.add("undeclared")
            reads = resolved.effects == (Effect.READ,)
            factors.append((_UNDECLARED_READ if reads else _UNDECLARED, "tool without a manifest"))
        for argument in manifest.control:
            found = provenance.get(argument)
            if found is not None and not found.trusted:
                source = "untrusted text" if found is Provenance.UNTRUSTED else "an unknown source"
                factors.append((_UNSUPPORTED_ARGUMENT, f"`{argument}` comes from {source}"))
        exceeded = _exceeded(manifest, request.action.input)
        missing = RED_FROM - sum(points for points, _ in factors)
        factors += [(max(missing, 1), f"`{argument}` over its limit") for argument in exceeded]
        return [factor for factor in factors if factor[0]], labels


def _told(about: Mapping[str, object]) -> dict[str, int]:
    """What was found in what came back, by class; raises `BadRequest` for what says nothing."""
    found = about.get("found", {})
    if not isinstance(found, Mapping) or not all(
        isinstance(cls, str) and (known(cls) or cls in _UNREAD) and type(count) is int for cls, count in found.items()
    ):
        raise BadRequest("`found` does not say what was found", hint='send `{"pii.email": 2}`')
    return {cls: count for cls, count in found.items() if count > 0}


def _labels(manifest: Manifest) -> frozenset[str]:
    effects = (f"effect:{effect}" for effect in manifest.effects)
    return frozenset((f"tool:{manifest.name}", *effects, *manifest.labels))


def _named(manifest: Manifest) -> str:
    """`transfer_funds (irreversible, external)`"""
    name = manifest.name if len(manifest.name) <= 80 else manifest.name[:79] + "…"
    what = [*reversed(manifest.effects), *manifest.labels]
    return f"{name} ({', '.join(what) or 'unknown'})"


def _score(effects: Sequence[Effect], labels: Sequence[str]) -> int:
    score = max((_EFFECT_SCORE[effect] for effect in effects), default=RED_FROM)
    if Effect.IRREVERSIBLE in effects and Effect.EXTERNAL in effects:
        score = _IRREVERSIBLE_EXTERNAL
    # a label in a manifest says that the tool touches something worth a second look
    return max(score, _LABELLED) if labels else score


def _exceeded(manifest: Manifest, input: Mapping[str, object]) -> list[str]:
    """The arguments over their limit. What is no number is not judged here: the input check refuses it."""
    return [
        argument
        for argument, limit in manifest.limits.items()
        if isinstance(value := input.get(argument), int | float) and not value <= limit.review_above
    ]


def _found(what: str, root: str, points: int, detected: Mapping[str, int]) -> list[Factor]:
    kinds = sorted(cls.partition(".")[2].replace("_", " ") for cls in detected if cls.startswith(root + "."))
    return [(points, f"{what} ({', '.join(kinds)})")] if kinds else []


def _elsewhere(body: Mapping[str, object]) -> str:
    """The text of messages that are not the user's."""
    messages = body.get("messages", body.get("input"))
    texts: list[str] = []
    for message in messages if isinstance(messages, list) else ():
        if json_type(message) is dict and _is_others(message):
            _say(message.get("content", message.get("output")), texts, joined=True)
    return "\n".join(texts)


#: roles whose text is not what the user asks for
_OTHER_ROLES = frozenset({"system", "developer", "assistant", "tool", "function"})


def asked(body: Mapping[str, object], *, joined: bool = False) -> str:
    """What the user asks for: text of the user's messages, or all text where none is marked as the user's.

    `joined` adds the parts of each message as one text: so a matcher finds words that are cut into two.
    """
    messages = body.get("messages", body.get("input"))
    if isinstance(messages, str) and messages.strip():
        return messages
    texts: list[str] = []
    for message in messages if isinstance(messages, list) else ():
        if json_type(message) is not dict:
            _say(message, texts, joined=joined)
        elif not _is_others(message):
            _say(message.get("content"), texts, joined=joined)
    said = "\n".join(texts)
    if not said or said.isspace():
        _say(body, texts := [], joined=False)
        said = "\n".join(texts)
    return said


def _is_others(message: Mapping[str, object]) -> bool:
    """Whether this is what somebody else said: by its role, or an item that is no message (a call, its result)."""
    return message.get("role") in _OTHER_ROLES or message.get("type", "message") != "message"


def _say(value: Any, texts: list[str], *, joined: bool) -> None:
    """Every text of a message's content; with `joined`, a word that is cut into two parts also whole."""
    kind = json_type(value)
    if kind is str:
        texts.append(value)
    elif kind is dict:
        for item in value.values():
            _say(item, texts, joined=False)
    elif kind is list:
        for item in value:
            _say(item, texts, joined=False)
        if joined and len(value) > 1:
            texts.append("".join([str(part.get("text", "")) for part in value if json_type(part) is dict]))


#: one character of a word, and what may stand between two words of one phrase, in folded text
_WORD = r"[^\x00-/:-`{-\x7f]"
_BETWEEN = r"[\x00-\x20\"-\-/:<-@\[-`{-\x7f]"
#: what `*` stands for: at most eight words of the same sentence
_GAP = f"{_BETWEEN}{{1,8}}(?:{_WORD}+{_BETWEEN}{{1,8}}){{0,8}}"

#: the tool, the phrases it needs, and all of it
_Intent = tuple[Manifest, frozenset[int], re2._Regexp]


class _Intents:
    """The intents of all manifests. One pass finds the phrases between the gaps; few intents are then left.

    Gaps within the set would make its automaton grow with every text.
    """

    def __init__(self, manifests: Manifests) -> None:
        tools = (manifests.tools[name] for name in manifests.names())
        intents = [
            (manifest, needed) for manifest in tools for intent in manifest.intents if (needed := _phrases(intent))
        ]
        phrases = sorted({phrase for _, needed in intents for phrase in needed})
        self._phrases = PatternSet(phrases)
        self._intents = [
            (
                manifest,
                frozenset(phrases.index(phrase) for phrase in needed),
                re2.compile(_whole(needed).encode()),
            )
            for manifest, needed in intents
        ]
        #: for each phrase, where the intents stand of which it is the longest
        self._places: list[list[int]] = [[] for _ in phrases]
        for place, (_, needed) in enumerate(intents):
            self._places[phrases.index(max(needed, key=len))].append(place)

    def wanted(self, *texts: str) -> list[list[Manifest]]:
        """The tools that each of the texts asks for, by name."""
        folded = [skeleton(text).encode("utf-8", "replace") for text in texts]
        seen = frozenset(self._phrases.match(b"\n".join(folded)))
        places = sorted([place for phrase in seen for place in self._places[phrase]])
        possible = [intent for intent in map(self._intents.__getitem__, places) if intent[1] <= seen]
        return [self._named(text, possible) for text in folded]

    @staticmethod
    def _named(folded: bytes, possible: Sequence[_Intent]) -> list[Manifest]:
        found: dict[str, Manifest] = {}
        for manifest, _, whole in possible:
            if manifest.name not in found and whole.search(folded) is not None:
                found[manifest.name] = manifest
        return list(found.values())


def _phrases(intent: str) -> list[str]:
    """The patterns between the gaps: `wire money` fits `Wire  MONEY`, `mail*` fits `mailed`."""
    phrases: list[list[str]] = [[]]
    for word in skeleton(intent).split(" "):
        if word == "*":
            phrases.append([])
        else:
            phrases[-1].append(f"{_WORD}{{0,12}}".join(re2.escape(piece) for piece in word.split("*")))
    return [f"{_BETWEEN}{{0,8}}".join(words) for words in phrases if words]


def _whole(phrases: list[str]) -> str:
    return f"(?:^|[^a-z0-9]){_GAP.join(phrases)}(?:$|[^a-z0-9])"
