"""What was asked and answered, sealed beside the ledger before the action runs.

A record holds only the id of its payload and a keyed commitment to it; the payload is encrypted under a key of
its subject. Two writes make a governed action, one in each database, issued together. Neither order of a crash
loses or leaks: a record whose payload never came has a `missing` one, and nothing ran; a payload whose record
never came is an orphan, which a sweep removes (`privacy`).
"""

from __future__ import annotations

import json
from functools import lru_cache

import msgspec

from checkrein.flow.grant import Discharge
from checkrein.ledger.record import commitment
from checkrein.model import CheckreinError, Decision, Request
from checkrein.model.retention import IDEMPOTENCY, Retention
from checkrein.pending import Pending
from checkrein.ports import Facts, Payload, Payloads
from checkrein.services import records
from checkrein.services.pdp import Asked

#: of a longer result only its beginning is kept
MAX_RESULT_BYTES = 256 * 1024
#: a longer answer is not kept for an idempotency key
MAX_ANSWER_BYTES = 1024 * 1024
_VERSION = 1


class Known(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was known besides the request when it was decided: what `Situation` needs to decide it again."""

    at_us: int
    roles: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    environment: str = ""
    prompt: str = ""
    endorsed: str = ""
    untrusted: str = ""
    directory: tuple[str, ...] = ()
    approval_id: str = ""
    discharged: tuple[str, ...] = ()


class _Form(msgspec.Struct, frozen=True):
    v: int
    request: Request
    known: Known


class Sealer:
    """Makes the payloads of governed actions, and hands them over to be sealed."""

    def __init__(self, payloads: Payloads, facts: Facts, *, key: bytes, environment: str, retention: Retention) -> None:
        self._payloads = payloads
        self._facts = facts
        self._key = key
        self._environment = environment
        self._retention = retention
        self._ref = lru_cache(maxsize=4096)(lambda type, id: reference(key, type, id))

    def request(self, asked: Asked, made: Decision, discharged: Discharge | None, at_us: int) -> Payload:
        """The whole request as it was decided, with what else was known."""
        request, turn = asked.request, asked.turn
        endorsed = turn.approval if turn else None
        if discharged is None and endorsed is not None and endorsed.id == made.approval_id:
            discharged = endorsed
        known = Known(
            at_us=at_us,
            roles=self._facts.roles(request.subject),
            labels=self._facts.labels(request),
            environment=self._environment,
            prompt=turn.prompt if turn else "",
            endorsed=turn.prompt if turn and endorsed else "",
            untrusted=turn.untrusted if turn else "",
            directory=turn.directory if turn else (),
            approval_id=discharged.id if discharged else "",
            discharged=discharged.policies if discharged else (),
        )
        data = _encode(_Form(_VERSION, request, known))
        return self._payload("request", request, made, at_us, data)

    def result(self, request: Request, made: Decision, data: bytes, at_us: int) -> Payload:
        """What the execution answered."""
        return self._payload("result", request, made, at_us, data)

    def answer(self, request: Request, made: Decision, data: bytes, at_us: int) -> Payload:
        """What the caller was told, to be told again under the same idempotency key."""
        payload = self._payload("answer", request, made, at_us, data)
        return msgspec.structs.replace(payload, retention=IDEMPOTENCY)

    @property
    def keeps_results(self) -> bool:
        """Whether what an execution answers is kept as its request is."""
        return self._retention.results

    def subject(self, request: Request) -> str:
        """Under which name the payloads of this request are kept."""
        return self._ref(request.subject.type, request.subject.id)

    def seal(self, payload: Payload) -> Pending[None]:
        """See `ports.Payloads.seal`."""
        return self._payloads.seal(payload)

    def discard(self, payload: Payload) -> None:
        """Its record was not written."""
        self._payloads.discard(payload.id)

    def _payload(self, part: str, request: Request, made: Decision, at_us: int, data: bytes) -> Payload:
        return Payload(
            id=f"{made.evaluation_id}.{part}",
            subject=self.subject(request),
            trace_id=made.trace_id,
            created_us=at_us,
            retention=self._retention.of(made.labels),
            data=data,
        )


def reference(key: bytes, type: str, id: str) -> str:
    """The keyed commitment under which payloads, holds and erasures name a subject; the ledger's own text counts."""
    return commitment(key, ["checkrein.subject.v1", records.cut(type), records.cut(id)])


def _encode(form: _Form) -> bytes:
    try:
        return msgspec.json.encode(form)
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can hold
        return json.dumps(msgspec.to_builtins(form), separators=(",", ":")).encode()


def decode(data: bytes) -> tuple[Request, Known]:
    """What `Sealer.request` sealed; raises `ValueError` for anything else."""
    try:
        value = json.loads(data)
        if value["v"] != _VERSION:
            raise ValueError(f"its version {value['v']} is not {_VERSION}")
        return Request.from_json(value["request"]), msgspec.convert(value["known"], Known)
    except (KeyError, TypeError, CheckreinError) as error:
        raise ValueError(str(error)) from error
