"""What `checkrein.toml` may say: one struct for each section, with its defaults."""

from __future__ import annotations

import msgspec

from checkrein.flow.limits import DriftLimits, Limits, Targets
from checkrein.flow.rollout import Kind, Plan
from checkrein.model.people import Absence, People
from checkrein.model.people import Person as KnownPerson
from checkrein.model.requirement import Requirement, parse_factors, parse_span
from checkrein.model.retention import Retention
from checkrein.model.vocabulary import Vocabulary


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where `checkrein serve` listens. Names in `allowed_hosts` are accepted in the `Host` header.

    `public_url` is its address for others, such as `https://checkrein.example`, where something stands before it.
    """

    host: str = "127.0.0.1"
    port: int = 8642
    max_body_bytes: int = 8 * 1024 * 1024
    allowed_hosts: tuple[str, ...] = ()
    drain_seconds: int = 10
    public_url: str = ""


class PriceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What 1,000 tokens of a model cost."""

    price_in: float
    price_out: float


class UpstreamConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One upstream. `base_url` ends before `/chat/completions`. The credential comes from the environment or a file.

    `kind` is `openai` for a model provider, `openclaw` for an agent gateway that asks Checkrein about tool calls.
    `aliases` are names of models and what the upstream calls them; `fallback` the upstreams that stand in for it, in
    order; `networks` those that its name may lead to although they are not public.
    """

    base_url: str
    kind: str = "openai"
    models: tuple[str, ...] = ("*",)
    api_key_env: str = ""
    api_key_file: str = ""
    connect_timeout: float = 5.0
    #: what 1,000 tokens cost, in and out, for the gate and for budgets, and what they cost where a model's name fits
    price_in: float | None = None
    price_out: float | None = None
    prices: dict[str, PriceConfig] = {}
    #: so many tokens an answer is expected to have where the request names no maximum
    output_tokens: int = 1024
    first_byte_timeout: float = 120.0
    idle_timeout: float = 60.0
    total_timeout: float = 600.0
    aliases: dict[str, str] = {}
    fallback: tuple[str, ...] = ()
    retries: int = 0
    networks: tuple[str, ...] = ()
    #: for an agent gateway, seconds; 0 asks nothing: silent for so long it is refused, and a tool call that is
    #: observed must be decided within
    heartbeat_timeout: float = 15.0
    witness_timeout: float = 10.0
    #: whether a tool call that ran ungoverned closes the gateway until a person releases it
    quarantine: bool = True


class Person(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody who acts or approves, with the roles this deployment gives them."""

    roles: tuple[str, ...] = ()
    email: str = ""
    #: who votes in their place while they are away, and when that is: `"2026-12-20..2027-01-06"`
    delegate: str = ""
    away: tuple[str, ...] = ()


class Agent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agent, and the person it belongs to."""

    owner: str


class Oncall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An on-call list: its name is a role that these people vote with."""

    people: tuple[str, ...]


class WebhookConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A destination that is told of records as CloudEvents. Secrets (`whsec_...`) come from the environment or a file.

    `kinds` are patterns such as `approval.*`; while a secret is replaced, the previous one signs too.
    """

    url: str
    secret_env: str = ""
    previous_secret_env: str = ""
    secret_file: str = ""
    kinds: tuple[str, ...] = ("*",)
    outcomes: tuple[str, ...] = ()
    risks: tuple[str, ...] = ()
    batch: int = 100
    timeout: float = 10.0
    from_start: bool = False


class NotifyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way to people: mail (`smtp`) to the addresses under `[people]`, or a channel (`slack`) of those with `roles`.

    `alerts` are told of rollbacks and drift: people or addresses by mail; for a channel, its name. Messages show the
    arguments of an action only with `arguments`.
    """

    kind: str
    host: str = ""
    port: int = 587
    #: `starttls`, `tls` from the first byte, or `none`, on this machine only
    tls: str = "starttls"
    sender: str = ""
    user: str = ""
    password_env: str = ""
    password_file: str = ""
    #: the address of an incoming webhook, which is a secret
    url_env: str = ""
    url_file: str = ""
    roles: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    arguments: bool = False
    timeout: float = 10.0


class OidcConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An OpenID Connect issuer whose bearer tokens say who calls and who approves.

    `person` is the claim that names them as `[people]` does; `roles` what its roles (in the claim `roles_claim`) are
    called here; `agent` a claim that names the agent which holds the token, and an agent never votes.
    """

    issuer: str
    audience: str
    algorithms: tuple[str, ...] = ("RS256",)
    types: tuple[str, ...] = ("JWT", "at+jwt")
    person: str = "sub"
    roles_claim: str = ""
    roles: dict[str, str] = {}
    agent: str = ""
    can: tuple[str, ...] = ("call", "approve")
    leeway: int = 30


class WitnessConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A C2SP tlog-witness that cosigns checkpoints: its submission prefix, and its key `name+id+base64`."""

    url: str
    vkey: str


class LimitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one may use, or each whose name fits. Spending in the unit of the prices; days and months of UTC."""

    requests_per_minute: int | None = None
    reviews_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    spend_per_day: float | None = None
    spend_per_month: float | None = None


class TelemetryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where spans go: the address of an OTLP/HTTP collector, empty for nowhere.

    `headers_env` names the variable with what it asks for (`name=value,name=value`); of the traces that begin here the
    share `sample_ratio` is told of.
    """

    endpoint: str = ""
    headers_env: str = ""
    sample_ratio: float = 1.0


class ApprovalsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A caller that needs people is kept waiting for `hold` seconds, 0 for not at all.

    `retry_after` is what it is told then, such as `"5s"`. Who holds the role `break_glass` may let an action run that
    people were asked about, within `break_glass_life`; without a role nobody may.
    """

    retry_after: str = "5s"
    hold: int = 25
    break_glass: str = ""
    break_glass_life: str = "15m"


class RedactionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With `restore`, values that were taken out of a prompt are put back into its answer, where policy lets them."""

    restore: bool = False


class GateConfig(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a challenger must keep to be promoted, and how many cases are asked at once.

    `on_drift` says what it means that production has drifted from the golden set: `open`, `refuse` or `tell`.
    """

    concurrency: int = 8
    on_drift: str = "open"


class DriftConfig(DriftLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When production counts as different from the golden set, and of how long a time production is looked at.

    A server that is `scheduled` reports by itself, once in `every`.
    """

    since: str = "7d"
    scheduled: bool = True
    every: str = "7d"


class RolloutConfig(Plan, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rollouts go, and who must agree to policies that loosen anything.

    `slow_ms` is for answers of an upstream, `slow_decision_ms` for decisions of a policy bundle.
    """

    slow_decision_ms: int = 50
    approvers: str = "1 of security"
    expires: str = "3d"

    def requirement(self) -> Requirement:
        return Requirement(parse_factors(self.approvers), parse_span(self.expires))

    def plan(self, kind: Kind) -> Plan:
        given = {name: getattr(self, name) for name in Plan.__struct_fields__}
        return Plan(**{**given, "slow_ms": self.slow_decision_ms if kind is Kind.POLICY else self.slow_ms})


class AuthzenConfig(Vocabulary, frozen=True, forbid_unknown_fields=True):
    """What enforcement points call an action that has another name here, and the resources that there are."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of `checkrein.toml`."""

    environment: str = "development"
    server: Server = Server()
    approvals: ApprovalsConfig = ApprovalsConfig()
    authzen: AuthzenConfig = AuthzenConfig()
    redaction: RedactionConfig = RedactionConfig()
    upstreams: dict[str, UpstreamConfig] = {}
    people: dict[str, Person] = {}
    oncall: dict[str, Oncall] = {}
    agents: dict[str, Agent] = {}
    webhooks: dict[str, WebhookConfig] = {}
    witnesses: dict[str, WitnessConfig] = {}
    limits: dict[str, LimitConfig] = {}
    oidc: dict[str, OidcConfig] = {}
    notify: dict[str, NotifyConfig] = {}
    retention: Retention = Retention()
    rollout: RolloutConfig = RolloutConfig()
    gate: GateConfig = GateConfig()
    drift: DriftConfig = DriftConfig()
    targets: Targets = Targets()
    telemetry: TelemetryConfig = TelemetryConfig()

    def directory(self) -> People:
        """The people of this deployment, as votes see them."""
        people = {
            name: KnownPerson(
                roles=person.roles,
                email=person.email,
                delegate=person.delegate,
                away=tuple(map(Absence.parse, person.away)),
            )
            for name, person in self.people.items()
        }
        return People(
            people=people,
            oncall={name: listed.people for name, listed in self.oncall.items()},
            agents={name: agent.owner for name, agent in self.agents.items()},
        )


#: sections whose fields flags and the environment may set, with the type of the section
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": Server,
    "approvals": ApprovalsConfig,
    "authzen": AuthzenConfig,
    "redaction": RedactionConfig,
    "retention": Retention,
    "rollout": RolloutConfig,
    "gate": GateConfig,
    "targets": Targets,
    "drift": DriftConfig,
    "telemetry": TelemetryConfig,
}
#: sections that hold one table for each name
NAMED: dict[str, type[msgspec.Struct]] = {
    "upstreams": UpstreamConfig,
    "people": Person,
    "oncall": Oncall,
    "agents": Agent,
    "webhooks": WebhookConfig,
    "witnesses": WitnessConfig,
    "limits": LimitConfig,
    "oidc": OidcConfig,
    "notify": NotifyConfig,
}
