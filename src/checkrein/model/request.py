"""One agent action, as AuthZEN 1.0 shapes it: subject, action, resource, context (SARC)."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from checkrein.model.errors import BadRequest
from checkrein.model.json import JsonObject, canonical, fold

#: the name of the action "talk to a model"; every other action name is a tool
PROMPT = "prompt"
#: the name of what people agree to before policies are loosened; no tool bears it
LOOSEN = "rollout.loosen"
#: the type of the resource that is a tool
TOOL = "tool"
#: characters of the name or type of anything in a request
MAX_NAME = 512
#: people on whose behalf one action may be done
MAX_BEHALF = 16
#: what `action.properties.direction` says of what comes back: the answer to a prompt, the result of a tool
ANSWER = "answer"
_LISTS = (list, tuple)


class Subject(msgspec.Struct, frozen=True):
    """Who acts. `properties.roles` are believed only from a connector or a key that may name subjects."""

    type: str
    id: str
    properties: dict[str, Any] = {}

    @property
    def roles(self) -> tuple[str, ...]:
        roles = self.properties.get("roles", ())
        return tuple([role for role in roles if isinstance(role, str)]) if isinstance(roles, _LISTS) else ()


class Action(msgspec.Struct, frozen=True):
    """What is to be done. `properties.input` holds the arguments."""

    name: str
    properties: dict[str, Any] = {}

    @property
    def input(self) -> dict[str, Any]:
        value = self.properties.get("input", {})
        return value if isinstance(value, dict) else {}


class Resource(msgspec.Struct, frozen=True):
    """What it is done to: a model, a tool, a record."""

    type: str
    id: str
    properties: dict[str, Any] = {}


class Request(msgspec.Struct, frozen=True):
    """One action to be decided.

    For a prompt, `action.name` is `prompt`, `action.properties.input` is the body for the model (with
    `messages`) and the resource is the model. For a tool call the action is the tool and `input` its arguments.

    What a model answers is decided as its prompt is, with `action.properties.direction` = `answer`: `input` then holds
    the `model`, how many `chars` it said, and `found`: how many spans of each class of personal data and secrets.
    What a tool answers is decided as its call is, in the same direction: `input` are the arguments still, and `found`
    stands beside it.
    """

    subject: Subject
    action: Action
    resource: Resource
    context: dict[str, Any] = {}

    @classmethod
    def from_json(cls, value: JsonObject) -> Request:
        """Read the AuthZEN form. Unknown members are ignored; a missing or ill-typed one raises `BadRequest`."""
        try:
            request = msgspec.convert(value, cls, strict=True)
        except msgspec.ValidationError as error:
            raise BadRequest(
                f"the request is not in AuthZEN form: {_lower(str(error))}",
                hint="it needs `subject` and `resource` with `type` and `id`, and `action` with `name`",
            ) from error
        members = (
            ("subject.type", request.subject.type),
            ("subject.id", request.subject.id),
            ("action.name", request.action.name),
            ("resource.type", request.resource.type),
            ("resource.id", request.resource.id),
        )
        for name, text in members:
            if not text or len(text) > MAX_NAME:
                raise BadRequest(f"`{name}` is empty or longer than {MAX_NAME} characters", hint="name it")
        if not isinstance(request.action.properties.get("input", {}), dict):
            raise BadRequest("`action.properties.input` is not an object", hint="send the arguments by name")
        given = request.context.get("on_behalf_of")
        if given is not None and not request.on_behalf_of:
            raise BadRequest("`context.on_behalf_of` names nobody", hint=f"list at most {MAX_BEHALF} names")
        return request

    @property
    def is_prompt(self) -> bool:
        """Whether this is a prompt; a tool that bears its name is a tool still, and one that nobody knows."""
        return self.action.name == PROMPT and self.resource.type != TOOL

    @property
    def is_answer(self) -> bool:
        """Whether this is about what a model answers to a prompt."""
        return self.comes_back and self.is_prompt

    @property
    def comes_back(self) -> bool:
        """Whether this is about what came of an action: what a model or a tool answers."""
        return self.action.properties.get("direction") == ANSWER

    @property
    def agent_id(self) -> str:
        """The agent that acts for the subject, or an empty string."""
        agent = self.context.get("agent")
        value = agent.get("id", "") if isinstance(agent, dict) else ""
        return value if isinstance(value, str) else ""

    @property
    def on_behalf_of(self) -> tuple[str, ...]:
        """Who else this is done for, as `context.on_behalf_of` names them; none of them may approve it."""
        return _names(self.context.get("on_behalf_of"))

    def action_hash(self, bundle: str) -> str:
        """SHA-256 (hex) of what an approval is bound to, `checkrein.action.v3`.

        Subject, whom it is done for, agent, action and resource with all their properties, scope, environment and the
        policy version; no prose, no transient ids. What differs here is another action and needs another approval.
        """
        fields = {
            "v": "checkrein.action.v3",
            "subject": [self.subject.type, self.subject.id],
            "on_behalf_of": list(self.on_behalf_of),
            "agent": self.agent_id,
            "action": [self.action.name, fold({**self.action.properties, "input": self.action.input})],
            "resource": [self.resource.type, self.resource.id, fold(self.resource.properties)],
            "scope": fold(self.context.get("scope")),
            "environment": fold(self.context.get("environment")),
            "policy": bundle,
        }
        return hashlib.sha256(canonical(fields)).hexdigest()


def _names(given: object) -> tuple[str, ...]:
    """A name or a list of names, without repeats; empty for anything else."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or len(names) > MAX_BEHALF:
        return ()
    if not all(isinstance(name, str) and 0 < len(name) <= MAX_NAME for name in names):
        return ()
    return tuple(dict.fromkeys(names))


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
