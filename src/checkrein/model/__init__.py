"""The nouns everyone shares; pure values, importing nothing else of Checkrein.

`request`   what an agent wants to do (AuthZEN's subject, action, resource, context)
`decision`  what was decided, and why
`risk`      green, amber, red, with the factors that made it
`identity`  who is calling: the key they hold and what it lets them do
`usage`     what somebody has used so far
`vocabulary` what enforcement points call things that have another name here
`target`    what a switch or a limit is about: an agent, a key, a model, a subject, a tool
`requirement` what people a policy asks for ("2 of finance")
`people`    who there is: roles, on-call lists; `likeness` says which names look alike to people
`retention` how long payloads are kept
`stamp`     times in RFC 3339
`json`      strict JSON in, canonical JSON out
`errors`    the errors people meet, each with a `hint` on what to do next

Start with `request` and `decision`. Nothing here decides anything, reads a clock or touches a disk.
"""

from checkrein.model.decision import Advice, Decision, Obligation, Outcome, PolicyError, strictest
from checkrein.model.errors import (
    ApprovalRequired,
    BadRequest,
    CheckreinError,
    ConfigError,
    Denied,
    IdempotencyConflict,
    Killed,
    LedgerInvalid,
    MethodNotAllowed,
    NotFound,
    PolicyInvalid,
    RouteNotFound,
    StoreConflict,
    StoreUnavailable,
    Unauthorized,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from checkrein.model.identity import ApiKey, Caller, Permission
from checkrein.model.request import Action, Request, Resource, Subject
from checkrein.model.requirement import Factor, Requirement
from checkrein.model.risk import Level, Risk

__all__ = [
    "Action",
    "Advice",
    "ApiKey",
    "ApprovalRequired",
    "BadRequest",
    "Caller",
    "CheckreinError",
    "ConfigError",
    "Decision",
    "Denied",
    "Factor",
    "IdempotencyConflict",
    "Killed",
    "LedgerInvalid",
    "Level",
    "MethodNotAllowed",
    "NotFound",
    "Obligation",
    "Outcome",
    "Permission",
    "PolicyError",
    "PolicyInvalid",
    "Request",
    "Requirement",
    "Resource",
    "Risk",
    "RouteNotFound",
    "StoreConflict",
    "StoreUnavailable",
    "Subject",
    "Unauthorized",
    "UpstreamUnavailable",
    "UpstreamUnreachable",
    "strictest",
]
