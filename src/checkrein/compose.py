"""Wires everything; the only place that knows all rooms. `open_system` is the one door."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path

import msgspec

from checkrein import config as configuration
from checkrein.config import Config, Loaded, NotifyConfig, UpstreamConfig, WebhookConfig
from checkrein.connectors.answerers import ModelAnswerer, Price, plain_answerer
from checkrein.connectors.http import HttpUpstream, Timeouts
from checkrein.connectors.metering import Tariff
from checkrein.connectors.oidc import Issuers
from checkrein.connectors.openclaw import WatchedUpstream
from checkrein.connectors.openclaw_observer import Observer, Watched
from checkrein.connectors.slack import SlackChannel
from checkrein.connectors.smtp import SmtpChannel, Tls
from checkrein.connectors.tokens import Expected
from checkrein.connectors.webhook import Webhook, read_secret
from checkrein.connectors.witness import HttpWitness
from checkrein.flow.approval import Approval
from checkrein.flow.quota import Price as NanoPrice
from checkrein.flow.quota import Quota
from checkrein.ledger.checkpoint import COSIGNATURE, VerifierKey
from checkrein.ledger.verify import Report
from checkrein.model import (
    BadRequest,
    ConfigError,
    Decision,
    NotFound,
    Outcome,
    Permission,
    Request,
    StoreUnavailable,
    Subject,
)
from checkrein.model.request import PROMPT
from checkrein.model.requirement import parse_span
from checkrein.model.target import Target
from checkrein.model.usage import NANO
from checkrein.policy.bundle import Bundle
from checkrein.policy.cases import CaseResult
from checkrein.policy.cases import run as run_policy_tests
from checkrein.policy.effect import Effect
from checkrein.policy.explain import PolicyExplained
from checkrein.ports import Channel, Upstream
from checkrein.services import drift, metrics
from checkrein.services.access_requests import AccessRequests
from checkrein.services.approvals import Approvals
from checkrein.services.arms import Arms
from checkrein.services.audit import Audit
from checkrein.services.edits import Edits
from checkrein.services.emergency import Emergencies
from checkrein.services.escalations import Escalations
from checkrein.services.gates import Answerer
from checkrein.services.gateway import Gateway
from checkrein.services.golden import Golden, read_golden
from checkrein.services.grants import Grants
from checkrein.services.idempotency import Idempotency
from checkrein.services.ids import noise
from checkrein.services.keys import Keys
from checkrein.services.killswitch import KillSwitch
from checkrein.services.limits import Limits
from checkrein.services.notices import KINDS_TOLD, NOTIFY, Audience, Noticed, Notices
from checkrein.services.outbox import Destination, Outbox, Told
from checkrein.services.payloads import Sealer
from checkrein.services.pdp import Asked, Pdp
from checkrein.services.privacy import SWEEP_AT_START, Privacy
from checkrein.services.reconcile import Gateways, Terms
from checkrein.services.recovery import recover
from checkrein.services.reload import Reloader, Source, Trial, Version, Watch, first, prove, read_bundle
from checkrein.services.rollouts import Rollouts
from checkrein.services.turns import Turns
from checkrein.services.vitals import Vitals, vitals
from checkrein.services.waiting import Drain, Hold, Waiting
from checkrein.services.witness import Pusher, Witness
from checkrein.storage.bundles import ArchiveSource, Bundles, FolderSource, read_public_key
from checkrein.storage.files import DataDir
from checkrein.storage.folder import read_folder
from checkrein.storage.scrub import scrub
from checkrein.storage.shelf import Shelf
from checkrein.storage.sqlite import SqliteStore
from checkrein.storage.vault import Vault
from checkrein.web.access_requests import AccessRequestRoutes
from checkrein.web.admin import Admin
from checkrein.web.app import Application, create_app
from checkrein.web.approvals import ApprovalRoutes
from checkrein.web.authzen import AuthZen
from checkrein.web.control import Control
from checkrein.web.guard import Guard
from checkrein.web.invoke import Invoke
from checkrein.web.metrics import Metrics
from checkrein.web.models import Models
from checkrein.web.openclaw import OpenClaw
from checkrein.web.pages import Pages
from checkrein.web.proxy import Proxy
from checkrein.web.routes import Route, Routes

#: where the store lives below the governance folder, unless `--data` says otherwise
DATA = ".checkrein"
#: where the golden cases lie in it
GOLDEN = "golden"
#: how often a server looks for a new policy version; what it finds must be there twice
RELOAD_EVERY_S = 1.0
#: how often it looks for approvals whose time is over; deadlines are kept whether it does or not
SWEEP_EVERY_S = 30.0
#: how often it looks whether a drift report is due
DRIFT_EVERY_S = 60.0
#: how often a server looks for a checkpoint that witnesses have not seen
WITNESS_EVERY_S = 5.0


class SystemClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000


class ConfiguredFacts:
    """Roles of the people in `checkrein.toml`."""

    def __init__(self, config: Config) -> None:
        self._people = config.people

    def roles(self, subject: Subject) -> tuple[str, ...]:
        person = self._people.get(subject.id) if subject.type == "user" else None
        return person.roles if person else ()

    def labels(self, request: Request) -> tuple[str, ...]:
        return ()


class System:
    """Everything that runs on one governance folder and one store. Close it; `open_system` made it."""

    def __init__(
        self,
        folder: Path,
        data: DataDir,
        loaded: Loaded,
        version: Version,
        source: Source,
        store: SqliteStore,
        vault: Vault,
    ) -> None:
        self.folder = folder
        self.data = data
        self.loaded = loaded
        self.config = loaded.config
        self.store = store
        self.vault = vault
        self.clock = SystemClock()
        self.turns = Turns()
        self._sweep_at = 0.0
        self.shelf = Shelf(data)
        key = data.commitment_key()
        self.facts = facts = ConfiguredFacts(self.config)
        self.pdp = Pdp(version.bundle, facts, self.clock, environment=self.config.environment, turns=self.turns)
        self.arms = Arms(store, self.pdp, self.shelf, key=key, offered=version.bundle)
        self.reloader = Reloader(self.arms, store, source, _trial(self.config), version)
        self.approvals = Approvals(store, self.clock, key, self.config.directory(), self._denied)
        self.escalations = Escalations(store, self.approvals, self.clock, key=key)
        self.waiting = Waiting(store, self.approvals, self.clock)
        self.rollouts = Rollouts(
            store, self.arms, self.approvals, self.clock, key=key, approvers=self.config.rollout.requirement()
        )
        self.grants = Grants(store, self.clock, key)
        self.emergencies = Emergencies(
            store,
            self.approvals,
            self.clock,
            key=key,
            role=self.config.approvals.break_glass,
            life_s=parse_span(self.config.approvals.break_glass_life),
            owners=self._owners,
        )
        self.edits = Edits(store, self.approvals, self.pdp, self.clock, key)
        self.keys = Keys(store, self.clock)
        self.killswitch = KillSwitch(store, self.clock)
        self.limits = Limits(store, self.clock, quotas(self.config))
        self.audit = Audit(store, data)
        self.payloads = _privacy(store, vault, data, self.config)
        self.drift = drift.Schedule(
            store,
            self.clock,
            self.config.drift,
            cases=self.golden,
            decider=self._golden_decider,
            every_us=parse_span(self.config.drift.every) * 1_000_000,
            since_us=parse_span(self.config.drift.since) * 1_000_000,
        )
        self.gateways = Gateways(store, self.clock, gateway_terms(self.config))
        self.witnesses = Pusher(configured_witnesses(self.config), store, data, every_s=WITNESS_EVERY_S)
        self.gateway = Gateway(
            store,
            self.pdp,
            self.approvals,
            Sealer(vault, facts, key=key, environment=self.config.environment, retention=self.config.retention),
            self.clock,
            key=key,
            owner=store.owner_token(),
            turns=self.turns,
            idempotency=Idempotency(
                store,
                vault,
                self.clock,
                key=key,
                owner=store.owner_token(),
                alive=store.owner_alive,
                retention=self.config.retention,
            ),
            killswitch=self.killswitch,
            limits=self.limits,
        )

    def _owners(self, approval: Approval) -> tuple[str, ...]:
        """Whom an approval concerns: its principal chain, and the owners of the policies that asked."""
        asked = {policy.id: policy for policy in self.pdp.bundle.policies.policies}
        owners = (asked[id].annotations.get("owner", "") for id in approval.policies if id in asked)
        return tuple(dict.fromkeys(name for name in (*sorted(approval.principals), *owners) if name))

    def _denied(self, approval: Approval) -> str:
        """Why the policies deny what an approval is for, if they have changed since it was asked."""
        if not approval.policies or approval.bundle in self.pdp.digests:
            return ""
        made = self.pdp.decide(Asked(approval.request()), trace_id=approval.trace_id, discharged=approval)
        return "; ".join(made.reasons) or "no policy grants it" if made.outcome is Outcome.DENY else ""

    def _steering(self, tool: str) -> tuple[str, ...]:
        """The arguments of a tool that steer its effect, by its manifest."""
        manifest = self.pdp.bundle.manifests.get(tool)
        return tuple(manifest.control) if manifest else ()

    def app(self) -> Application:
        """The HTTP application. Its upstream connections belong to the loop that serves it."""
        routes = {
            name: Route(
                upstream=self._upstream(name, given),
                models=given.models,
                agent=given.kind == "openclaw",
                aliases=given.aliases,
                fallback=given.fallback,
                retries=given.retries,
                tariff=tariff(given),
            )
            for name, given in self.config.upstreams.items()
        }
        tools = {name: self._upstream(name, at_root(given)) for name, given in gateway_configs(self.config).items()}
        server = self.config.server

        async def stop() -> None:
            for each in (*(route.upstream for route in routes.values()), *tools.values()):
                await each.close()
            await issuers.close()

        drain, issuers = Drain(), Issuers(expected_tokens(self.config), self.clock)
        where = Routes(routes)
        routed = ApprovalRoutes(self.approvals, self.waiting, self.killswitch, self.clock, drain)
        return create_app(
            Guard(self.keys, issuers, (server.host, *server.allowed_hosts)),
            Proxy(
                self.gateway,
                where,
                max_body_bytes=server.max_body_bytes,
                retry_after_s=parse_span(self.config.approvals.retry_after),
                arms=self.arms,
                hold=Hold(self.waiting, self.config.approvals.hold, drain),
            ),
            AuthZen(
                self.gateway,
                max_body_bytes=server.max_body_bytes,
                public_url=server.public_url,
                gateways=self.gateways,
            ),
            Admin(self.audit, self.failing, self.warnings, now_us=self.clock.now_us),
            Metrics(self.gateway.live, self.vitals, self.measured),
            Models(where),
            Control(self.killswitch, self.limits),
            routed,
            AccessRequestRoutes(
                AccessRequests(self.store, self.pdp, self.approvals, self.gateway.idempotency, self.clock),
                self.approvals,
                self.waiting,
                self.gateway.idempotency,
                self.clock,
                drain,
                max_body_bytes=server.max_body_bytes,
                retry_after_s=parse_span(self.config.approvals.retry_after),
                public_url=server.public_url,
            ),
            OpenClaw(self.gateways, self.waiting, drain),
            Invoke(self.gateway, tools, max_body_bytes=server.max_body_bytes),
            Pages(
                routed,
                self.approvals,
                self.keys,
                issuers,
                self.clock,
                key=self.data.commitment_key(),
                steering=self._steering,
            ),
            drain=drain,
            stop=stop,
        )

    def vitals(self) -> Vitals:
        """How it is right now."""
        return vitals(
            self.store,
            self.clock,
            checkpoint=self.data.checkpoint(),
            approvals=self.approvals,
            arms=self.arms,
            webhooks=sorted(self.config.webhooks),
            failing=len(self.failing()),
            warnings=len(self.warnings()),
            bundle=self.pdp.bundle.digest,
        )

    def _upstream(self, name: str, given: UpstreamConfig) -> Upstream:
        """An upstream; an agent gateway gets nothing while it is refused."""
        found = upstream(name, given, self.loaded)
        return WatchedUpstream(found, self.gateways.refusal) if given.kind == "openclaw" else found

    def measured(self, since_us: int = 0) -> metrics.Report:
        """How well this deployment governs, since then or over the window of its targets."""
        targets = self.config.targets
        since_us = since_us or self.clock.now_us() - parse_span(targets.window) * 1_000_000
        return metrics.measure(self.store, targets, self._known(), since_us=since_us)

    def _known(self) -> metrics.Known:
        """What the measures go by: the tools of the policies that decide now, and the golden cases of the folder."""
        manifests = self.pdp.bundle.manifests

        def has_side_effects(action: str) -> bool:
            return action != PROMPT and manifests.resolve(action).effects != (Effect.READ,)

        try:
            cases = self.golden()
        except BadRequest as error:
            return metrics.Known(has_side_effects=has_side_effects, why_not=str(error))
        if not cases:
            return metrics.Known(has_side_effects=has_side_effects, why_not="there are no golden cases")
        return metrics.Known(has_side_effects=has_side_effects, usual=metrics.usual(cases, self._golden_decider()))

    def compared(
        self,
        cases: Sequence[Golden],
        environment: str,
        *,
        since: str = "",
        reader: drift.Reader | None = None,
        prompts_only: bool = False,
    ) -> drift.Measured:
        """Production of this time (`drift.since`, if none is given) beside golden cases, as they are decided now."""
        until_us = self.clock.now_us()
        return drift.measure(
            self.store,
            cases,
            self._golden_decider(environment),
            self.config.drift,
            since_us=until_us - parse_span(since or self.config.drift.since) * 1_000_000,
            until_us=until_us,
            reader=reader,
            prompts_only=prompts_only,
        )

    def golden(self) -> list[Golden]:
        """The golden cases of the folder, as they are now; raises `BadRequest` for what is none."""
        try:
            files = {path.name: path.read_bytes() for path in (self.folder / GOLDEN).glob("*.jsonl")}
        except OSError as error:
            raise BadRequest("the golden cases cannot be read", hint=f"look at `{self.folder / GOLDEN}`") from error
        return read_golden(files) if files else []

    def _golden_decider(self, environment: str = "") -> Callable[[Request], Decision]:
        """Decides golden cases as the policies of now do, in this environment or its own; nothing is recorded."""
        pdp = production_pdp(self, self.pdp.bundle, environment or self.config.environment)
        return lambda request: pdp.decide(Asked(request))

    def telling(self) -> Outbox:
        """While the block runs, the configured webhooks, people and channels are told of what is recorded."""
        told: dict[str, Destination] = {**destinations(self.loaded), **self.notifying()}
        return Outbox(self.store, self.clock, told, self.source())

    def notifying(self) -> dict[str, Noticed]:
        """The ways to people under `[notify]`, by their name in the outbox."""
        notices = Notices(self.approvals, self.clock, self.config.directory(), self.config.server.public_url)
        found = [
            Noticed(
                name=NOTIFY + name,
                kinds=KINDS_TOLD,
                batch=1,
                notices=notices,
                channel=channel(name, given, self.loaded),
                audience=Audience(
                    everybody=given.kind == "smtp", roles=given.roles, alerts=given.alerts, arguments=given.arguments
                ),
            )
            for name, given in self.config.notify.items()
        ]
        return {each.name: each for each in found}

    def source(self) -> str:
        """What this ledger is called in events: the origin of its checkpoints."""
        return self.data.vkey().partition("+")[0]

    def failing(self) -> tuple[str, ...]:
        """What keeps actions from being decided or recorded right now."""
        failing = [] if self.store.writable() else ["store: a record cannot be written"]
        failing += [] if self.vault.writable() else ["payloads: a payload cannot be sealed"]
        return (*failing, *(f"ledger: {problem}" for problem in self.store.problems()))

    def warnings(self) -> tuple[str, ...]:
        """What to look at, although it keeps nothing from running."""
        stored: list[str] = []
        with suppress(StoreUnavailable):  # `failing` says so
            stored = [f"killed: {switch.target} ({switch.reason})" for switch in self.killswitch.killed()]
            stored += [*self.emergencies.warnings(), *self.drift.warnings()]
        return (*self.reloader.warnings(), *self.witnesses.warnings(), *self.gateways.warnings(), *stored)

    def observing(self) -> Observer:
        """While the block runs, a witness sees what the agent gateways really run."""
        watched = [
            Watched(name, at_root(given).base_url, credential(name, given, self.loaded))
            for name, given in gateway_configs(self.config).items()
            if given.witness_timeout
        ]
        return Observer(self.gateways, watched)

    def watching(self) -> Watch:
        """While the block runs, what a server does beside its requests is done; see `look`."""
        return Watch(self.look, every_s=RELOAD_EVERY_S)

    def comparing(self) -> AbstractContextManager[object]:
        """While the block runs, production is compared with the golden set when that is due.

        Apart from `watching`: counting a week takes time, and a rollout that must go back has none.
        """
        return Watch(self.drift.tick, every_s=DRIFT_EVERY_S) if self.config.drift.scheduled else nullcontext()

    def look(self) -> None:
        """Take new policies from where these came from, move a rollout on, and let approvals expire.

        A rollout must go back also while something is wrong with the policies that are offered.
        """
        try:
            self.reloader.poll()
        finally:
            self.rollouts.tick()
            self.gateways.tick()
            if time.monotonic() >= self._sweep_at:
                self._sweep_at = time.monotonic() + SWEEP_EVERY_S
                self.approvals.sweep()
                recover(self.store, self.clock)  # what another process held when it died
                self.escalations.tick()

    def close(self) -> None:
        self.waiting.close()
        self.vault.close()
        self.store.close()


def open_system(
    folder: Path | str,
    *,
    data: Path | str | None = None,
    flags: Mapping[str, object] | None = None,
    upstreams: Mapping[str, UpstreamConfig] | None = None,
    variables: Mapping[str, str] | None = None,
    bundle: Path | str | None = None,
    bundle_keys: Sequence[Path | str] = (),
) -> System:
    """Open a governance folder and its store. Raises `ConfigError`, `PolicyInvalid`, `LedgerInvalid`.

    `upstreams` stand in the place of the configured ones, `variables` beside the environment's. With `bundle` the
    policies come from that file, signed by one of the public keys in `bundle_keys`, and not from the folder.

    A policy version that was not active before is recorded as `policy.changed`; executions that a dead process
    left without an end are recorded as `execution.unknown`.
    """
    folder = Path(folder)
    loaded = configuration.load(folder, flags=flags)
    if upstreams is not None:
        config = msgspec.structs.replace(loaded.config, upstreams=dict(upstreams))
        loaded = msgspec.structs.replace(loaded, config=config)
    if variables:
        loaded = msgspec.structs.replace(loaded, variables={**loaded.variables, **variables})
    directory = DataDir(Path(data) if data else folder / DATA)
    source, version = _policies(folder, directory, loaded.config, bundle, bundle_keys)
    with ExitStack() as opened:
        store = SqliteStore(directory, SystemClock(), randomness=noise)
        opened.callback(store.close)
        vault = Vault(directory, randomness=noise)
        opened.callback(vault.close)
        system = System(folder, directory, loaded, version, source, store, vault)
        recover(store, system.clock)
        system.approvals.sweep()
        system.reloader.begin()
        system.arms.sync()
        with suppress(StoreUnavailable):  # somebody else is busy there: what is left over waits for the next start
            system.payloads.resume()
            system.payloads.sweep(SWEEP_AT_START)
        opened.pop_all()
    return system


def _policies(
    folder: Path, data: DataDir, config: Config, bundle: Path | str | None, keys: Sequence[Path | str]
) -> tuple[Source, Version]:
    """Where policy versions come from, and the one to start with."""
    if bundle is None:
        loaded = load_bundle(folder)
        return FolderSource(folder), Version(loaded, loaded.digest)
    source = ArchiveSource(Path(bundle), [read_public_key(Path(key)) for key in keys], Bundles(data))
    return source, first(source, _trial(config))


@contextmanager
def open_payloads(folder: Path | str, *, data: Path | str | None = None) -> Iterator[Privacy]:
    """Payloads and the ledger beside them, also while the policies do not load: erasure must not wait for those."""
    folder = Path(folder)
    config = configuration.load(folder).config
    directory = DataDir(Path(data) if data else folder / DATA)
    if not directory.database.exists():
        raise NotFound(
            f"there is no ledger in `{directory.path}`",
            hint="name the folder with `--dir`, or the store with `--data`",
        )
    with ExitStack() as opened:
        store = opened.enter_context(closing(SqliteStore(directory, SystemClock(), randomness=noise)))
        vault = opened.enter_context(closing(Vault(directory, randomness=noise)))
        yield _privacy(store, vault, directory, config)


def _privacy(store: SqliteStore, vault: Vault, data: DataDir, config: Config) -> Privacy:
    return Privacy(
        store,
        vault,
        SystemClock(),
        ConfiguredFacts(config),
        key=data.commitment_key(),
        retention=config.retention,
        scrub=lambda: scrub(data.database),
    )


def dry_pdp(folder: Path | str) -> Pdp:
    """A decision point on a folder, without a store: nothing is recorded, no approval is opened."""
    folder = Path(folder)
    config = configuration.load(folder).config
    return _trial(config)(load_bundle(folder))


def _trial(config: Config) -> Trial:
    facts = ConfiguredFacts(config)
    return lambda bundle: Pdp(bundle, facts, SystemClock(), environment=config.environment, turns=Turns())


def answerer(name: str, loaded: Loaded) -> Answerer:
    """What answers golden cases under this name: `upstream:NAME/MODEL`, `python:module:function`, `command:...`.

    Raises `ConfigError` for a name that says nothing, `NotFound` for an upstream that is not configured.
    """
    kind, _, rest = name.partition(":")
    if kind != "upstream":
        found = plain_answerer(name)
        if found is None:
            hint = "write `upstream:NAME/MODEL`, `python:module:function`, `command:...`, `run:FILE` or a policy folder"
            raise ConfigError(f"`{name[:100]}` answers nothing", hint=hint)
        return found
    alias, _, model = rest.partition("/")
    given = loaded.config.upstreams.get(alias)
    if given is None or not model:
        hint = f"write `upstream:NAME/MODEL`; configured: {', '.join(loaded.config.upstreams) or 'none'}"
        raise NotFound(f"no upstream `{alias[:100]}` with a model", hint=hint)
    price = None
    if given.price_in is not None or given.price_out is not None:
        price = Price(given.price_in or 0.0, given.price_out or 0.0)
    return ModelAnswerer(alias, upstream(alias, given, loaded), model, price)


def quotas(config: Config) -> dict[Target, Quota]:
    """The limits of `checkrein.toml`, by whom they are for."""
    found = {}
    for name, given in config.limits.items():
        what, _, named = name.partition(":")
        values = msgspec.structs.asdict(given)
        for spend in ("spend_per_day", "spend_per_month"):
            values[spend] = None if values[spend] is None else _nano(values[spend])
        found[Target.parse(what, named)] = Quota(**values)
    return found


def tariff(given: UpstreamConfig) -> Tariff:
    """What an upstream takes for its tokens."""
    prices = {name: NanoPrice(_nano(price.price_in), _nano(price.price_out)) for name, price in given.prices.items()}
    return Tariff(NanoPrice(_nano(given.price_in or 0), _nano(given.price_out or 0)), prices, given.output_tokens)


def _nano(money: float) -> int:
    return round(money * NANO)


def production_pdp(opened: System, bundle: Bundle, environment: str) -> Pdp:
    """A decision point on a bundle, as it would decide in this environment. Nothing it decides is recorded."""
    return Pdp(bundle, ConfiguredFacts(opened.config), SystemClock(), environment=environment, turns=Turns())


def proved_files(folder: Path | str) -> dict[str, bytes]:
    """The files of a folder whose policies a server would take: strictly read, tested, checked."""
    files = read_folder(Path(folder))
    prove(read_bundle(files), _trial(configuration.load(Path(folder)).config))
    return files


def explain_request(request: Request, folder: Path | str) -> tuple[Decision, tuple[PolicyExplained, ...]]:
    """The decision of a folder on a request, and what each policy said; empty if policies could not be asked."""
    pdp = dry_pdp(folder)
    return pdp.decide(Asked(request)), pdp.explain(request)


def run_cases(folder: Path | str) -> tuple[CaseResult, ...]:
    """Run the policy tests of a folder; nothing is recorded."""
    pdp = dry_pdp(folder)
    return run_policy_tests(pdp.bundle.cases, lambda request, now_us: pdp.decide(Asked(request), now_us=now_us))


def unfired(folder: Path | str) -> tuple[str, ...]:
    """The policies that no policy test of the folder makes fire, by id: each is a rule nobody has tried."""
    pdp = dry_pdp(folder)
    fired = {
        told.id
        for case in pdp.bundle.cases
        for told in pdp.explain(case.request, now_us=case.now_us)
        if told.state == "satisfied"
    }
    return tuple(policy.id for policy in pdp.bundle.policies.policies if policy.id not in fired)


def configured_witnesses(config: Config) -> list[Witness]:
    """The witnesses of `checkrein.toml`, each with the way to it."""
    return [
        Witness(name, VerifierKey.parse(given.vkey, COSIGNATURE), HttpWitness(name, given.url))
        for name, given in config.witnesses.items()
    ]


def verify_ledger(
    folder: Path | str,
    *,
    data: Path | str | None = None,
    vkey: str = "",
    witnesses: Sequence[VerifierKey] = (),
    indexes: bool = False,
) -> Report:
    """Walk the whole ledger without writing to it, also one that refuses to open. `vkey` is one's own copy.

    Each of the `witnesses` must have cosigned a beginning of it. With `indexes` what lists go by is checked too.
    """
    directory = DataDir(Path(data) if data else Path(folder) / DATA)
    if not directory.database.exists():
        raise NotFound(
            f"there is no ledger in `{directory.path}`",
            hint="name the folder with `--dir`, or the store with `--data`",
        )
    reader = SqliteStore.open_readonly(directory)
    try:
        report = Audit(reader, directory).verify(vkey, witnesses)
        return report.with_problems(reader.index_problems()) if indexes else report
    finally:
        reader.close()


def load_bundle(folder: Path | str) -> Bundle:
    """The policies, manifests and tests of a folder, strictly checked; raises `PolicyInvalid`."""
    return read_bundle(read_folder(Path(folder)))


def upstream(name: str, given: UpstreamConfig, loaded: Loaded) -> HttpUpstream:
    """An upstream with its credential; raises `ConfigError` if the credential cannot be had."""
    return HttpUpstream(
        name,
        given.base_url,
        credential=credential(name, given, loaded),
        timeouts=Timeouts(
            connect=given.connect_timeout,
            first_byte=given.first_byte_timeout,
            idle=given.idle_timeout,
            total=given.total_timeout,
        ),
        listed=given.networks,
    )


def gateway_terms(config: Config) -> dict[str, Terms]:
    """What is asked of each configured agent gateway."""
    return {
        name: Terms(heartbeat_s=given.heartbeat_timeout, witness_s=given.witness_timeout, quarantine=given.quarantine)
        for name, given in gateway_configs(config).items()
    }


def gateway_configs(config: Config) -> dict[str, UpstreamConfig]:
    """The upstreams that are agent gateways."""
    return {name: given for name, given in config.upstreams.items() if given.kind == "openclaw"}


def at_root(given: UpstreamConfig) -> UpstreamConfig:
    """The same server, above the `/v1` of its OpenAI endpoints."""
    return msgspec.structs.replace(given, base_url=given.base_url.rstrip("/").removesuffix("/v1"))


def expected_tokens(config: Config) -> list[Expected]:
    """What the tokens of each configured issuer must hold."""
    emails = {person.email.casefold(): name for name, person in config.people.items() if person.email}
    return [
        Expected(
            name=name,
            issuer=given.issuer,
            audience=given.audience,
            algorithms=given.algorithms,
            types=given.types,
            person_claim=given.person,
            emails=emails,
            roles_claim=given.roles_claim,
            roles=given.roles,
            agent_claim=given.agent,
            permissions=tuple(map(Permission, given.can)),
            leeway_s=given.leeway,
        )
        for name, given in config.oidc.items()
    ]


def destinations(loaded: Loaded) -> dict[str, Told]:
    """The configured webhooks, ready to be told; raises `ConfigError` for an address or a secret that will not do."""
    return {name: _destination(name, given, loaded) for name, given in loaded.config.webhooks.items()}


def channel(name: str, given: NotifyConfig, loaded: Loaded) -> Channel:
    """The way to people; raises `ConfigError` for a secret that cannot be had."""
    what = f"`notify.{name}`"
    if given.kind == "slack":
        return SlackChannel(_secret(given.url_env, given.url_file, "url_file", what, loaded), timeout_s=given.timeout)
    password = _secret(given.password_env, given.password_file, "password_file", what, loaded) if given.user else ""
    return SmtpChannel(
        given.host,
        given.port,
        sender=given.sender,
        tls=Tls(given.tls),
        user=given.user,
        password=password,
        timeout_s=given.timeout,
    )


def _secret(variable: str, file: str, field: str, what: str, loaded: Loaded) -> str:
    return _variable(variable, what, loaded) if variable else _secret_file(Path(file), field, what)


def _destination(name: str, given: WebhookConfig, loaded: Loaded) -> Told:
    secrets = [_variable(variable, f"webhook `{name}`", loaded) for variable in _secret_names(given)]
    if given.secret_file:
        secrets.append(_secret_file(Path(given.secret_file), "secret_file", f"webhook `{name}`"))
    try:
        hook = Webhook(given.url, [read_secret(secret) for secret in secrets], timeout_s=given.timeout)
    except ConfigError as error:
        raise ConfigError(f"webhook `{name}`: {error}", hint=error.hint) from error
    return Told(
        name=name,
        hook=hook,
        kinds=given.kinds,
        outcomes=given.outcomes,
        risks=given.risks,
        batch=given.batch,
        from_start=given.from_start,
    )


def _secret_names(given: WebhookConfig) -> list[str]:
    return [name for name in (given.secret_env, given.previous_secret_env) if name]


def _variable(variable: str, what: str, loaded: Loaded) -> str:
    value = loaded.variables.get(variable, "")
    if not value:
        hint = "export it, or write it into `.env` beside checkrein.toml"
        raise ConfigError(f"`{variable}` is not set; {what} needs it", hint=hint)
    return value


def _secret_file(path: Path, field: str, what: str) -> str:
    path = path.expanduser()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`{path}` cannot be read; {what} needs it", hint=f"mend `{field}`") from error


def credential(name: str, given: UpstreamConfig, loaded: Loaded) -> str:
    """The credential from the environment, `.env` or a file; empty when none is configured."""
    if given.api_key_env:
        return _variable(given.api_key_env, f"upstream `{name}`", loaded)
    return _secret_file(Path(given.api_key_file), "api_key_file", f"upstream `{name}`") if given.api_key_file else ""
