"""Wires everything; the only place that knows all rooms. `open_system` is the one door."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from starlette.types import ASGIApp

from checkrein import config as configuration
from checkrein.config import Config, Loaded, UpstreamConfig
from checkrein.connectors.http import HttpUpstream, Timeouts
from checkrein.ledger.verify import Report
from checkrein.model import ConfigError, NotFound, Request, Subject
from checkrein.model.requirement import parse_span
from checkrein.policy.bundle import Bundle
from checkrein.policy.cases import CaseResult
from checkrein.policy.cases import run as run_policy_tests
from checkrein.ports import RecordQuery, Unit
from checkrein.services import records
from checkrein.services.approvals import Approvals
from checkrein.services.audit import Audit
from checkrein.services.gateway import Gateway
from checkrein.services.ids import noise
from checkrein.services.keys import Keys
from checkrein.services.pdp import Asked, Pdp
from checkrein.services.recovery import recover
from checkrein.services.turns import Turns
from checkrein.storage.files import DataDir
from checkrein.storage.folder import read_folder
from checkrein.storage.sqlite import SqliteStore
from checkrein.web.admin import Admin
from checkrein.web.app import create_app
from checkrein.web.authzen import AuthZen
from checkrein.web.guard import Guard
from checkrein.web.proxy import Proxy, Route

#: where the store lives below the governance folder, unless `--data` says otherwise
DATA = ".checkrein"


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

    def __init__(self, folder: Path, data: DataDir, loaded: Loaded, bundle: Bundle, store: SqliteStore) -> None:
        self.folder = folder
        self.data = data
        self.loaded = loaded
        self.config = loaded.config
        self.store = store
        self.clock = SystemClock()
        self.turns = Turns()
        key = data.commitment_key()
        facts = ConfiguredFacts(self.config)
        self.pdp = Pdp(bundle, facts, self.clock, environment=self.config.environment, turns=self.turns)
        self.approvals = Approvals(store, self.clock, key)
        self.keys = Keys(store, self.clock)
        self.audit = Audit(store, data)
        self.gateway = Gateway(
            store, self.pdp, self.approvals, self.clock, key=key, owner=store.owner_token(), turns=self.turns
        )

    def app(self) -> ASGIApp:
        """The HTTP application. Its upstream connections belong to the loop that serves it."""
        routes = {
            name: Route(upstream(name, given, self.loaded), given.models, handles=given.kind == "openclaw")
            for name, given in self.config.upstreams.items()
        }
        server = self.config.server

        async def stop() -> None:
            for route in routes.values():
                await route.upstream.close()

        named = {model for route in routes.values() for model in route.models if "*" not in model}
        return create_app(
            Guard(self.keys, (server.host, *server.allowed_hosts)),
            Proxy(
                self.gateway,
                routes,
                max_body_bytes=server.max_body_bytes,
                retry_after_s=parse_span(self.config.approvals.retry_after),
            ),
            AuthZen(self.gateway, max_body_bytes=server.max_body_bytes),
            Admin(self.audit, tuple(sorted(named)), self.failing),
            stop=stop,
        )

    def failing(self) -> tuple[str, ...]:
        """What keeps actions from being decided or recorded right now."""
        failing = [] if self.store.writable() else ["store: a record cannot be written"]
        return (*failing, *(f"ledger: {problem}" for problem in self.store.problems()))

    def close(self) -> None:
        self.store.close()


def open_system(
    folder: Path | str,
    *,
    data: Path | str | None = None,
    flags: Mapping[str, object] | None = None,
    upstreams: Mapping[str, UpstreamConfig] | None = None,
    variables: Mapping[str, str] | None = None,
) -> System:
    """Open a governance folder and its store. Raises `ConfigError`, `PolicyInvalid`, `LedgerInvalid`.

    `upstreams` stand in the place of the configured ones, `variables` beside the environment's.

    A policy version that was not active before is recorded as `policy.changed`; executions that a dead process
    left without an end are recorded as `execution.unknown`.
    """
    folder = Path(folder)
    bundle = load_bundle(folder)
    loaded = configuration.load(folder, flags=flags)
    if upstreams is not None:
        config = msgspec.structs.replace(loaded.config, upstreams=dict(upstreams))
        loaded = msgspec.structs.replace(loaded, config=config)
    if variables:
        loaded = msgspec.structs.replace(loaded, variables={**loaded.variables, **variables})
    directory = DataDir(Path(data) if data else folder / DATA)
    store = SqliteStore(directory, SystemClock(), randomness=noise)
    try:
        system = System(folder, directory, loaded, bundle, store)
        recover(store, system.clock)
        _note_bundle(store, bundle)
    except BaseException:
        store.close()
        raise
    return system


def dry_pdp(folder: Path | str) -> Pdp:
    """A decision point on a folder, without a store: nothing is recorded, no approval is opened."""
    folder = Path(folder)
    config = configuration.load(folder).config
    facts = ConfiguredFacts(config)
    return Pdp(load_bundle(folder), facts, SystemClock(), environment=config.environment, turns=Turns())


def run_cases(folder: Path | str) -> tuple[CaseResult, ...]:
    """Run the policy tests of a folder; nothing is recorded."""
    pdp = dry_pdp(folder)
    return run_policy_tests(pdp.bundle.cases, lambda request, now_us: pdp.decide(Asked(request), now_us=now_us))


def verify_ledger(folder: Path | str, *, data: Path | str | None = None, vkey: str = "") -> Report:
    """Walk the whole ledger without writing to it, also one that refuses to open. `vkey` is one's own copy."""
    directory = DataDir(Path(data) if data else Path(folder) / DATA)
    if not directory.database.exists():
        raise NotFound(
            f"there is no ledger in `{directory.path}`",
            hint="name the folder with `--dir`, or the store with `--data`",
        )
    reader = SqliteStore.open_readonly(directory)
    try:
        return Audit(reader, directory).verify(vkey)
    finally:
        reader.close()


def load_bundle(folder: Path | str) -> Bundle:
    """The policies, manifests and tests of a folder, strictly checked; raises `PolicyInvalid`."""
    return Bundle.from_files(read_folder(Path(folder)))


def _note_bundle(store: SqliteStore, bundle: Bundle) -> None:
    last = next(iter(store.records(RecordQuery(kinds=("policy.changed",), newest_first=True, limit=1))), None)
    before = str(_detail(last.data).get("bundle", "")) if last else ""
    if before != bundle.digest:
        draft = records.admin("policy.changed", "system", {"bundle": bundle.digest, "before": before})
        store.commit(Unit(drafts=(draft,))).result()


def _detail(data: bytes) -> Mapping[str, object]:
    detail = msgspec.json.decode(data)["body"].get("detail", {})
    return detail if isinstance(detail, dict) else {}


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
    )


def credential(name: str, given: UpstreamConfig, loaded: Loaded) -> str:
    """The credential from the environment, `.env` or a file; empty when none is configured."""
    if given.api_key_env:
        value = loaded.variables.get(given.api_key_env, "")
        if not value:
            raise ConfigError(
                f"`{given.api_key_env}` is not set; upstream `{name}` needs it",
                hint="export it, or write it into `.env` beside checkrein.toml",
            )
        return value
    if given.api_key_file:
        path = Path(given.api_key_file).expanduser()
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"`{path}` cannot be read; upstream `{name}` needs it", hint="mend `api_key_file`"
            ) from error
    return ""
