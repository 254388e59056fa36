"""Our records in the words of others: OCSF events, OpenTelemetry log records and spans. One table, and both exports,
the spans, the page docs/exports.md and its tests read it.

A target is where a value goes: `a.b[].c` makes one object of a list for each item. What has no word of theirs keeps
ours, under OCSF's `unmapped` and the attributes `checkrein.*`; so does whatever a record has that stands in no row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

#: https://schema.ocsf.io/1.8.0: the names, and the numbers that stand for values
OCSF_VERSION = "1.8.0"
OCSF_PROFILES = ("security_control",)
#: the last version of the semantic conventions in which the names of `gen_ai` stand; they moved on unchanged, and are
#: still in development
OTEL_SCHEMA = "https://opentelemetry.io/schemas/1.41.1"


class Class(msgspec.Struct, frozen=True):
    """A class of OCSF events. `lacks` are attributes that only the other has: what goes there keeps our name."""

    caption: str
    category: int
    uid: int
    lacks: tuple[str, ...]


API = Class("API Activity", 6, 6003, ("entity",))
ENTITY = Class("Entity Management", 3, 3004, ("api", "resources"))


class Kind(msgspec.Struct, frozen=True):
    """What a kind of record is to OCSF. `name` may end in `*`; the longest that fits counts."""

    name: str
    event: Class
    activity: int
    severity: int = 1
    status: int = 1
    #: what was managed, for `ENTITY`
    entity: str = ""


#: activity 1 Create, 2 Read, 3 Update, 4 Delete, 9 Disable, 99 Other; severity 1 Informational, 2 Low, 3 Medium,
#: 4 High; status 0 Unknown, 1 Success, 2 Failure, 99 Other. What a record says itself goes before these.
KINDS = (
    Kind("decision", API, 99),
    Kind("search", API, 2),
    Kind("approval.requested", API, 1),
    Kind("approval.escalated", API, 3),
    Kind("approval.voted", API, 3),
    Kind("approval.vote_refused", API, 3, severity=3, status=2),
    Kind("approval.decided", API, 3),
    Kind("approval.expired", API, 3),
    Kind("approval.cancelled", API, 3),
    Kind("approval.used", API, 3),
    Kind("approval.edited", API, 3),
    Kind("approval.edit_refused", API, 3, severity=3, status=2),
    Kind("approval.break_glass", API, 3, severity=4),
    Kind("approval.break_glass_refused", API, 3, severity=4, status=2),
    Kind("approval.reviewed", API, 3),
    Kind("approval.review_refused", API, 3, severity=3, status=2),
    Kind("approval.granted", ENTITY, 1, entity="grant"),
    Kind("approval.grant_used", ENTITY, 3, entity="grant"),
    Kind("approval.grant_revoked", ENTITY, 9, entity="grant"),
    Kind("approval.grant_ended", ENTITY, 9, entity="grant"),
    Kind("approval.delegated", ENTITY, 1, entity="delegation"),
    Kind("approval.undelegated", ENTITY, 9, entity="delegation"),
    Kind("execution.started", API, 99),
    Kind("execution.finished", API, 99),
    Kind("execution.unknown", API, 99, severity=4, status=0),
    Kind("execution.reported", API, 99),
    Kind("policy.changed", ENTITY, 3, entity="policy bundle"),
    Kind("policy.rejected", ENTITY, 3, severity=3, status=2, entity="policy bundle"),
    Kind("rollout.step", ENTITY, 3, entity="rollout"),
    Kind("rollout.rollback", ENTITY, 3, severity=3, entity="rollout"),
    Kind("gate.verdict", ENTITY, 3, entity="rollout"),
    Kind("drift.alarm", ENTITY, 99, severity=3, entity="golden set"),
    Kind("admin.key_created", ENTITY, 1, entity="API key"),
    Kind("admin.key_rotated", ENTITY, 3, entity="API key"),
    Kind("admin.key_revoked", ENTITY, 9, entity="API key"),
    Kind("admin.killed", ENTITY, 9, severity=3, entity="kill switch"),
    Kind("admin.revived", ENTITY, 3, severity=2, entity="kill switch"),
    Kind("admin.payload_read", ENTITY, 2, entity="payload"),
    Kind("admin.payload_read_refused", ENTITY, 2, severity=4, status=2, entity="payload"),
    Kind("admin.payloads_swept", ENTITY, 4, entity="payload"),
    Kind("admin.hold_set", ENTITY, 3, entity="legal hold"),
    Kind("admin.hold_released", ENTITY, 3, entity="legal hold"),
    Kind("erasure", ENTITY, 4, severity=2, entity="payload"),
    Kind("key.*", ENTITY, 3, severity=2, entity="signing key"),
    Kind("admin.*", ENTITY, 99, entity="deployment"),
    Kind("admin.gateway_released", ENTITY, 3, entity="gateway"),
    Kind("system.refused", API, 99, severity=3, status=2),
    Kind("system.ungoverned", ENTITY, 99, severity=4, status=2, entity="gateway"),
    Kind("system.gateway_quarantined", ENTITY, 9, severity=4, entity="gateway"),
    Kind("system.*", ENTITY, 99, entity="deployment"),
    Kind("*", API, 99),
)


class To(msgspec.Struct, frozen=True):
    """Where a value goes. `values` says what becomes of which, with `*` for the others (left out without).

    `form` says how it is written: as it is, as `text`, `texts`, one text `joined` with semicolons, an `integer` (or
    left out), or, of microseconds, `ms` or a `time` of RFC 3339. `when` says what the action must be: `prompt`, or
    `tool` for every other.
    """

    name: str
    values: Mapping[str, int | str] | None = None
    form: str = "as it is"
    when: str = ""


class Field(msgspec.Struct, frozen=True):
    """A member of a record. `why` says why one side has no word for it."""

    path: str
    ocsf: tuple[To, ...] = ()
    otel: tuple[To, ...] = ()
    why: str = ""


_ACTION = {"allow": 1, "deny": 2, "allow_with_redaction": 4, "*": 99}
_DISPOSITION = {"allow": 1, "deny": 2, "require_review": 14, "*": 99}
_DECIDED = {"allow": 1, "allow_with_redaction": 1, "deny": 2, "*": 99}
_SEVERITY = {"allow": 1, "allow_with_redaction": 2, "require_review": 2, "*": 3}
_ENDED = {"ok": 1, "failed": 2, "*": 99}
_RISK = {"green": 1, "amber": 2, "red": 3, "*": 99}
_PERSON = {"user": 1, "operator": 2, "service": 4, "*": 99}

_COMMITMENT = "a keyed commitment: it proves later what was seen, and only Checkrein has that"
_OURS = "a word of Checkrein alone"


def _own(path: str, why: str = _OURS) -> Field:
    """A member that keeps our name on both sides."""
    name = path.removeprefix("body.")
    return Field(path, (To(f"unmapped.{name}"),), (To(f"checkrein.{name}"),), why)


FIELDS = (
    Field("v", (To("metadata.log_version", form="text"),), (To("checkrein.record.version"),)),
    Field("seq", (To("metadata.sequence", form="integer"),), (To("checkrein.seq"),)),
    Field("id", (To("metadata.uid"),), (To("log.record.uid"),)),
    Field("kind", (To("metadata.event_code"), To("activity_name")), (To("checkrein.kind"),)),
    Field("trace_id", (To("metadata.correlation_uid"),), (To("checkrein.trace_id"),)),
    Field("ts_us", (To("time", form="ms"), To("metadata.original_time", form="time")), (To("checkrein.ts_us"),)),
    Field(
        "body.actor.type",
        (To("actor.user.type", form="text"), To("actor.user.type_id", _PERSON)),
        (To("checkrein.actor.type"),),
    ),
    Field("body.actor.id", (To("actor.user.uid", form="text"),), (To("user.id"),)),
    Field("body.actor.agent", (To("actor.app_uid", form="text"),), (To("gen_ai.agent.id"),)),
    Field(
        "body.action.name",
        (To("api.operation", form="text"),),
        (
            To("gen_ai.operation.name", {"prompt": "chat", "*": "execute_tool"}),
            To("gen_ai.tool.name", when="tool"),
            To("checkrein.action"),
        ),
    ),
    Field("body.action.resource.type", (To("resources[].type", form="text"),), (To("checkrein.resource.type"),)),
    Field(
        "body.action.resource.id",
        (To("resources[].uid", form="text"),),
        (To("gen_ai.request.model", when="prompt"), To("checkrein.resource.id")),
        "OCSF's `ai_model` needs a provider, which a record does not name",
    ),
    _own("body.action.direction"),
    _own("body.input_hmac", _COMMITMENT),
    _own("body.input_bytes"),
    Field("body.caller", (To("src_endpoint.uid", form="text"),), (To("checkrein.caller"),)),
    _own("body.mode"),
    Field("body.decision.evaluation_id", (To("api.request.uid", form="text"),), (To("checkrein.evaluation_id"),)),
    Field(
        "body.decision.outcome",
        (
            To("action_id", _ACTION),
            To("action", form="text"),
            To("disposition_id", _DISPOSITION),
            To("disposition", form="text"),
            To("status_id", _DECIDED),
            To("severity_id", _SEVERITY),
        ),
        (To("checkrein.outcome"),),
    ),
    Field("body.decision.reasons", (To("status_detail", form="joined"),), (To("checkrein.reasons"),)),
    Field("body.decision.policies", (To("authorizations[].policy.uid", form="texts"),), (To("checkrein.policies"),)),
    _own("body.decision.errors"),
    Field(
        "body.decision.risk.level",
        (To("risk_level_id", _RISK), To("risk_level", form="text")),
        (To("checkrein.risk.level"),),
    ),
    Field("body.decision.risk.score", (To("risk_score", form="integer"),), (To("checkrein.risk.score"),)),
    Field("body.decision.risk.factors", (To("risk_details", form="joined"),), (To("checkrein.risk.factors"),)),
    Field("body.decision.labels", (To("metadata.labels", form="texts"),), (To("checkrein.labels"),)),
    Field("body.decision.bundle", (To("policy.uid", form="text"),), (To("checkrein.bundle"),)),
    _own("body.decision.arm"),
    Field(
        "body.decision.code",
        (To("status_code", form="text"),),
        (To("checkrein.code"),),
        "why, where policy did not say",
    ),
    _own("body.decision.latency_us", "OCSF's `duration` counts milliseconds, in which this would be nothing"),
    _own("body.redactions"),
    _own("body.search"),
    _own("body.approval.id"),
    _own("body.approval"),
    _own("body.vote"),
    _own("body.edit"),
    _own("body.grant"),
    _own("body.break_glass"),
    _own("body.review"),
    _own("body.payload", _COMMITMENT),
    Field("body.evaluation_id", (To("api.request.uid", form="text"),), (To("checkrein.evaluation_id"),)),
    _own("body.owner"),
    _own("body.reserved"),
    _own("body.started_seq"),
    Field(
        "body.status",
        (To("status_id", _ENDED), To("status", form="text"), To("status_code", form="text")),
        (To("checkrein.status"),),
    ),
    Field("body.duration_us", (To("duration", form="ms"),), (To("checkrein.duration_us"),)),
    _own("body.rollout"),
    Field("body.error", (To("api.response.error", form="text"),), (To("error.type"),)),
    Field(
        "body.detail.key",
        (To("entity.uid", form="text"),),
        (To("checkrein.detail.key"),),
        "the id, never the key itself",
    ),
    Field("body.detail.switch", (To("entity.uid", form="text"),), (To("checkrein.detail.switch"),)),
    Field("body.detail.bundle", (To("entity.uid", form="text"),), (To("checkrein.detail.bundle"),)),
    Field(
        "body.detail.usage.tokens_in",
        (To("unmapped.detail.usage.tokens_in"),),
        (To("gen_ai.usage.input_tokens", form="integer"),),
        _OURS,
    ),
    Field(
        "body.detail.usage.tokens_out",
        (To("unmapped.detail.usage.tokens_out"),),
        (To("gen_ai.usage.output_tokens", form="integer"),),
        _OURS,
    ),
    Field(
        "body.detail.upstream",
        (To("unmapped.detail.upstream"),),
        (To("gen_ai.provider.name", when="prompt"), To("checkrein.detail.upstream")),
        "by the name that the configuration gives it",
    ),
    _own("body.detail", "its members differ by kind"),
)


#: the attributes of spans. Who acts, why, and what was asked or answered is not among them: spans leave the house
SPAN = (
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.tool.name",
    "gen_ai.agent.id",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "error.type",
    "checkrein.mode",
    "checkrein.evaluation_id",
    "checkrein.outcome",
    "checkrein.code",
    "checkrein.policies",
    "checkrein.risk.level",
    "checkrein.risk.score",
    "checkrein.approval.id",
    "checkrein.status",
)


def kind_of(name: str) -> Kind:
    """The row of a kind: by its whole name, or the longest `*` that fits."""
    found = _EXACT.get(name)
    return found or next(row for row in _STARS if name.startswith(row.name[:-1]))


_EXACT = {row.name: row for row in KINDS if not row.name.endswith("*")}
_STARS = sorted((row for row in KINDS if row.name.endswith("*")), key=lambda row: -len(row.name))
BY_PATH = {field.path: field for field in FIELDS}


def page() -> str:
    """The tables as docs/exports.md shows them."""
    kinds = [
        (f"`{row.name}`", f"{row.event.caption} ({row.event.uid})", row.activity, row.severity, row.status, row.entity)
        for row in KINDS
    ]
    fields = [
        (
            f"`{row.path}`",
            _targets(row.ocsf),
            "<br>".join((_targets(row.otel), *_LOG_RECORD.get(row.path, ()))),
            row.why,
        )
        for row in FIELDS
    ]
    return (
        _HEAD
        + _table(("kind", "OCSF class", "activity_id", "severity_id", "status_id", "entity.type"), kinds)
        + _BETWEEN
        + _table(("member", f"OCSF {OCSF_VERSION}", "OpenTelemetry", ""), fields)
    )


#: what a log record of OpenTelemetry has a place of its own for, besides the attribute
_LOG_RECORD = {"kind": ("`eventName`",), "trace_id": ("`traceId`",), "ts_us": ("`timeUnixNano`",)}

_HEAD = f"""<!-- drawn from services/mapping.py by `make docs` -->
# Exports

`checkrein audit export --format FORMAT --output FILE` writes the records of one moment, oldest first; what is recorded
meanwhile is not in it. The file appears when it is complete, and the command ends by saying how many records it holds
and the head (size and root) of the ledger they were read from. The filters of `audit list` apply, but for `tlog`.

| format | |
|---|---|
| `jsonl` | the exact bytes of each record, one a line: each line hashes to its leaf |
| `csv` | one row a record; a cell that a spreadsheet would take for a formula begins with `'` |
| `parquet` | the columns of `csv` with types, by pyarrow: `pip install "checkrein[parquet]"` |
| `ocsf` | OCSF {OCSF_VERSION} events, one JSON object a line, profile `{"`, `".join(OCSF_PROFILES)}` |
| `otel` | OTLP log records as JSON, one `LogsData` a line, with the names of {OTEL_SCHEMA} |
| `tlog` | everything, with the proofs, for strangers: see [the ledger](ledger.md#for-strangers) |

Only `jsonl` and `tlog` can be verified; the others are for looking, and name each record by its number and id.
Prompts, arguments and results are in none of them, since they are not in the ledger.

## Kinds

What a record says itself, such as the outcome of a decision, goes before the severity and status of its kind.
`type_uid` is the class times 100 plus the activity.

"""
_BETWEEN = """
## Members

What no row names keeps its own name, under `unmapped` and `checkrein.*`; so does what goes to an attribute that the
class of the event lacks (`entity`, or `api` and `resources`). An event of a class that needs more than the record says
gets `api.operation` from the kind, `actor.app_name` and `src_endpoint.svc_name` as `checkrein`, and `unknown` for the
id of a person or a resource.

"""


def _targets(targets: tuple[To, ...]) -> str:
    return "<br>".join(_target(target) for target in targets)


def _target(target: To) -> str:
    values = ", ".join(f"{name} {value}" for name, value in (target.values or {}).items())
    notes = [
        values,
        target.form if target.form in ("ms", "joined") else "",
        f"of a {target.when}" if target.when else "",
    ]
    said = "; ".join(note for note in notes if note)
    return f"`{target.name}`" + (f" ({said})" if said else "")


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    print(page(), end="")
