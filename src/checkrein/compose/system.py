"""Everything that runs on one governance folder and one store. `open_system` is the one door."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import msgspec

from checkrein import config as configuration
from checkrein.compose.facts import ConfiguredFacts, SystemClock
from checkrein.compose.outside import channel, credential, destinations, tracer
from checkrein.compose.records import DATA, privacy
from checkrein.compose.serving import application
from checkrein.compose.terms import at_root, configured_witnesses, gateway_configs, gateway_terms, quotas
from checkrein.compose.trial import load_bundle, production_pdp, trial
from checkrein.config import Config, Loaded, UpstreamConfig
from checkrein.connectors.openclaw_observer import Observer, Watched
from checkrein.flow.approval import Approval
from checkrein.model import BadRequest, Decision, Outcome, Request, StoreUnavailable
from checkrein.model.request import PROMPT
from checkrein.model.requirement import parse_span
from checkrein.policy.effect import Effect
from checkrein.services import drift, metrics
from checkrein.services.approvals import Approvals
from checkrein.services.arms import Arms
from checkrein.services.audit import Audit
from checkrein.services.edits import Edits
from checkrein.services.emergency import Emergencies
from checkrein.services.escalations import Escalations
from checkrein.services.gateway import Gateway
from checkrein.services.golden import Golden, read_golden
from checkrein.services.grants import Grants
from checkrein.services.idempotency import Idempotency
from checkrein.services.ids import noise
from checkrein.services.keys import Keys
from checkrein.services.killswitch import KillSwitch
from checkrein.services.limits import Limits
from checkrein.services.notices import KINDS_TOLD, NOTIFY, Audience, Noticed, Notices
from checkrein.services.outbox import Destination, Outbox
from checkrein.services.payloads import Sealer
from checkrein.services.pdp import Asked, Pdp
from checkrein.services.privacy import SWEEP_AT_START
from checkrein.services.reconcile import Gateways
from checkrein.services.recovery import recover
from checkrein.services.refusals import Refusals
from checkrein.services.reload import Reloader, Source, Version, Watch, first
from checkrein.services.rollouts import Rollouts
from checkrein.services.showing import Showing
from checkrein.services.spans import Spans
from checkrein.services.turns import Turns
from checkrein.services.vitals import Vitals, vitals
from checkrein.services.waiting import Waiting
from checkrein.services.witness import Pusher
from checkrein.storage.bundles import ArchiveSource, Bundles, FolderSource, read_public_key
from checkrein.storage.files import DataDir
from checkrein.storage.shelf import Shelf
from checkrein.storage.sqlite import SqliteStore
from checkrein.storage.vault import Vault
from checkrein.web.app import Application

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
        self.spans = Spans()
        self._sweep_at = 0.0
        self.shelf = Shelf(data)
        key = data.commitment_key()
        self.facts = facts = ConfiguredFacts(self.config)
        self.pdp = Pdp(version.bundle, facts, self.clock, environment=self.config.environment, turns=self.turns)
        self.arms = Arms(store, self.pdp, self.shelf, key=key, offered=version.bundle)
        self.reloader = Reloader(self.arms, store, source, trial(self.config), version)
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
        self.showing = Showing(self.approvals, self.emergencies, self.pdp, self.clock)
        self.keys = Keys(store, self.clock)
        self.killswitch = KillSwitch(store, self.clock)
        self.limits = Limits(store, self.clock, quotas(self.config))
        self.audit = Audit(store, data)
        self.payloads = privacy(store, vault, data, self.config)
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
            spans=self.spans,
            restores=self.config.redaction.restore,
        )
        self.refusals = Refusals(store, self.clock, self.gateway.live)

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

    def app(self) -> Application:
        """The HTTP application. Its upstream connections belong to the loop that serves it."""
        return application(self)

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
        pdp = production_pdp(self.config, self.pdp.bundle, environment or self.config.environment)
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

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """While the block runs, each governed action is told of as a span, where that is configured."""
        found = tracer(self.loaded)
        self.spans.tell(found, self.config.telemetry.sample_ratio)
        try:
            yield
        finally:
            self.spans.tell(None)
            if found is not None:
                found.close()

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
            self.refusals.tick()
            if time.monotonic() >= self._sweep_at:
                self._sweep_at = time.monotonic() + SWEEP_EVERY_S
                self.approvals.sweep()
                recover(self.store, self.clock)  # what another process held when it died
                self.escalations.tick()

    def close(self) -> None:
        with suppress(StoreUnavailable):  # what was refused stands in the log too
            self.refusals.flush()
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
    return source, first(source, trial(config))
