"""What is wrong with a deployment, and how to mend it. It looks and probes; it appends no record.

Every question is asked even when an earlier one failed, as far as it can be. Secrets are not shown: settings hold
the names of variables and files, never what stands there, and `config` refuses an address with a password.
"""

from __future__ import annotations

import asyncio
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from checkrein import __version__
from checkrein import config as configuration
from checkrein.compose import (
    DATA,
    SystemClock,
    channel,
    credential,
    destinations,
    expected_tokens,
    load_bundle,
    run_cases,
    tracer,
    verify_ledger,
)
from checkrein.config import Loaded, Origin, UpstreamConfig
from checkrein.connectors.addresses import admits, networks
from checkrein.connectors.oidc import Issuer
from checkrein.connectors.openclaw_home import Folder
from checkrein.connectors.openclaw_runtime import check_node, openclaw_version
from checkrein.connectors.tokens import Expected
from checkrein.flow.delivery import Delivery
from checkrein.model import CheckreinError, LedgerInvalid, PolicyInvalid, UpstreamUnavailable
from checkrein.model.stamp import stamp
from checkrein.model.target import What
from checkrein.policy.bundle import Bundle
from checkrein.ports import Unit
from checkrein.services.drift import last
from checkrein.services.emergency import reviews
from checkrein.services.keys import Keys
from checkrein.services.killswitch import KillSwitch, revival
from checkrein.services.notices import NOTIFY
from checkrein.services.outbox import Deliveries
from checkrein.storage.files import DataDir
from checkrein.storage.folder import read_folder
from checkrein.storage.sqlite import SqliteStore

#: less free space than this, in bytes, is worth a warning
LOW_SPACE = 1024 * 1024 * 1024
#: how long an upstream may take to accept a connection
_REACH_S = 3.0


class Finding(msgspec.Struct, frozen=True):
    """`verdict` is `ok`, `warn` or `fail`; `hint` is the next step."""

    verdict: str
    what: str
    found: str
    hint: str = ""

    def to_json(self) -> dict[str, str]:
        return {"verdict": self.verdict, "what": self.what, "found": self.found, "hint": self.hint}


def examine(folder: Path, data: Path | None) -> tuple[list[Finding], tuple[Origin, ...]]:
    """Every finding, in the order in which one would mend them, and the origin of every setting."""
    doctor = _Doctor(folder, data or folder / DATA)
    doctor.ask("folder", doctor.folder_is_there)
    if not doctor.failed:
        doctor.ask("settings", doctor.settings)
        doctor.ask("policies", doctor.policies)
        doctor.ask("policy tests", doctor.policy_tests)
        doctor.ask("approvers", doctor.approvers)
        doctor.ask("ledger", doctor.ledger)
        doctor.ask("store", doctor.store)
        doctor.ask("drift", doctor.drift)
        doctor.ask("disk", doctor.disk)
        doctor.ask("upstreams", doctor.upstreams)
        doctor.ask("oidc", doctor.issuers)
        doctor.ask("webhooks", doctor.webhooks)
        doctor.ask("telemetry", doctor.telemetry)
        doctor.ask("port", doctor.port)
    return doctor.findings, doctor.loaded.origins if doctor.loaded else ()


class _Doctor:
    def __init__(self, folder: Path, data: Path) -> None:
        self._folder = folder
        self._data = DataDir(data)
        self._bundle: Bundle | None = None
        self.loaded: Loaded | None = None
        self.findings = [Finding("ok", "checkrein", f"{__version__}, Python {platform.python_version()}")]

    @property
    def failed(self) -> bool:
        return any(finding.verdict == "fail" for finding in self.findings)

    def ask(self, what: str, look: Callable[[], Iterator[Finding]]) -> None:
        """What `look` finds; an error it meets is a finding too."""
        try:
            self.findings.extend(look())
        except (CheckreinError, OSError) as error:
            self.findings.extend(_failures(what, error))

    def folder_is_there(self) -> Iterator[Finding]:
        read_folder(self._folder)
        yield Finding("ok", "folder", str(self._folder.resolve()))

    def settings(self) -> Iterator[Finding]:
        self.loaded = configuration.load(self._folder)
        yield Finding("ok", "settings", f"{self._folder / configuration.FILE} is read")
        for warning in self.loaded.warnings:
            yield Finding("warn", "settings", warning, "mend its name, or unset it")

    def policies(self) -> Iterator[Finding]:
        self._bundle = load_bundle(self._folder)
        yield Finding("ok", "policies", f"{len(self._bundle.policies)} load, {self._bundle.digest[:19]}")
        for warning in self._bundle.warnings:
            yield Finding("warn", "policies", warning, f"run `checkrein check {self._folder}`")

    def policy_tests(self) -> Iterator[Finding]:
        if self.loaded is None or self._bundle is None:
            return
        failed = [result.case for result in run_cases(self._folder) if not result.passed]
        hint = f"run `checkrein test {self._folder}`"
        for case in failed:
            yield Finding("fail", "policy tests", f"{case.place}: `{case.name}` fails", hint)
        if not self._bundle.cases:
            yield Finding("warn", "policy tests", "there are none", "write what must hold into tests/*.yaml")
        elif not failed:
            yield Finding("ok", "policy tests", f"{len(self._bundle.cases)} pass")

    def approvers(self) -> Iterator[Finding]:
        """Each role that a policy asks for must be held by enough people."""
        if self.loaded is None or self._bundle is None:
            return
        people = self.loaded.config.directory()
        role = self.loaded.config.approvals.break_glass
        if role and len(people.holders(role)) < 2:
            found = f"`approvals.break_glass` is `{role}`; {len(people.holders(role)) or 'nobody'} holds the role"
            yield Finding(
                "warn", "approvers", found, "give it to two people at least: one may have to sign for the other"
            )
        for policy in self._bundle.policies.policies:
            for step in policy.requirement.escalation if policy.requirement else ():
                if not people.holders(step.role):
                    yield Finding(
                        "warn",
                        "approvers",
                        f"`{policy.id}` escalates to `{step.role}`, and nobody holds the role",
                        f"give people the role under `[people]`, or make the list `[oncall.{step.role}]`",
                    )
            for factor in policy.requirement.factors if policy.requirement else ():
                have = len(people.holders(factor.role))
                if have < factor.count:
                    yield Finding(
                        "warn",
                        "approvers",
                        f"`{policy.id}` asks for {factor}; {have or 'nobody'} hold{'s' * (have < 2)} the role",
                        f"give people the role `{factor.role}` under `[people]`, or its approvals only expire",
                    )

    def ledger(self) -> Iterator[Finding]:
        if self._data.database.exists():
            report = verify_ledger(self._folder, data=self._data.path)
            yield Finding("ok", "ledger", report.require().summary())

    def store(self) -> Iterator[Finding]:
        if not self._data.database.exists():
            yield from self._store_to_be()
            return
        store = SqliteStore(self._data, SystemClock())
        try:
            store.commit(Unit()).result()  # an empty unit takes the whole way to the disk and appends nothing
            yield Finding("ok", "store", f"{self._data.path} takes records, {store.head().size} stand there")
            live = [key for key in Keys(store, SystemClock()).all() if key.live(SystemClock().now_us())]
            yield Finding("ok", "keys", f"{len(live)} live") if live else _no_keys()
            yield from self._limits_of_nobody({key.id for key in live})
            for switch in KillSwitch(store, SystemClock()).killed():
                found = f"`{switch.target}` is killed since {stamp(switch.at_us)[:19]}Z by {switch.by}: {switch.reason}"
                yield Finding("warn", "kill switch", found, f"`{revival(switch.target)}` when it may run again")
            for review in reviews(store):
                found = f"`{review.broken_by}` broke the glass of `{review.approval}`, and nobody has reviewed it"
                hint = f"`checkrein approvals sign {review.approval} --as PERSON --reason ...`, by somebody else"
                yield Finding("warn", "break-glass", found, hint)
        finally:
            store.close()

    def drift(self) -> Iterator[Finding]:
        """What the last report of a server said."""
        if not self._data.database.exists():
            return
        store = SqliteStore(self._data, SystemClock())
        try:
            found = last(store)
        finally:
            store.close()
        if found is None:
            return
        if found.problem:
            yield Finding("warn", "drift", found.problem, "mend it: no report can be made until then")
        if found.ran_us:
            hint = "" if found.settled else f"run `checkrein drift report --suggest FILE --dir {self._folder}`"
            told = f"{found.told} ({stamp(found.ran_us)[:10]})"
            yield Finding("ok" if found.settled else "warn", "drift", told, hint)

    def _limits_of_nobody(self, live: set[str]) -> Iterator[Finding]:
        """A limit for a key that there is not is quietly dead."""
        for name in self.loaded.config.limits if self.loaded else ():
            what, _, key = name.partition(":")
            if what == What.KEY and key.startswith("key_") and "*" not in key and key not in live:
                yield Finding("warn", "limits", f"`{name}` is for no live key", "`checkrein keys list` shows the ids")

    def _store_to_be(self) -> Iterator[Finding]:
        """There is no store yet. Whether one can be made shows when a directory is made and taken away again."""
        there = _standing(self._data.path)
        try:
            probe = there / f".{self._data.path.name}.probe"
            probe.mkdir(mode=0o700)
            probe.rmdir()
        except OSError as error:
            why = (error.strerror or type(error).__name__).lower()
            hint = "make it writable, or choose another with `--data`"
            yield Finding("fail", "store", f"`{self._data.path}` cannot be made: {why}", hint)
        else:
            yield Finding("ok", "store", f"{self._data.path} is made with the first action")
            yield _no_keys()

    def disk(self) -> Iterator[Finding]:
        free = shutil.disk_usage(_standing(self._data.path)).free
        if free < LOW_SPACE:
            hint = f"free space where {self._data.path} lies: when it is full, nothing runs"
            yield Finding("warn", "disk", f"{free // 2**20} MiB free", hint)
        else:
            yield Finding("ok", "disk", f"{free // 2**30} GiB free")

    def upstreams(self) -> Iterator[Finding]:
        if self.loaded is None:
            return
        for name, given in self.loaded.config.upstreams.items():
            what = f"upstream {name}"
            try:
                credential(name, given, self.loaded)
            except CheckreinError as error:
                yield from _failures(what, error)
            why = _unreachable(given.base_url) or _inside(given)
            if why:
                hint = "start it, or mend its `base_url`"
                yield Finding("fail", what, f"{given.base_url} cannot be reached: {why}", hint)
            else:
                yield Finding("ok", what, f"{given.base_url} can be reached")
            if given.kind == "openclaw":
                yield from _gateway(what, Path(given.api_key_file).expanduser().parent)
        if not self.loaded.config.upstreams:
            hint = f"add `[upstreams.NAME]` to {configuration.FILE}; decisions work without one"
            yield Finding("warn", "upstreams", "none configured", hint)

    def issuers(self) -> Iterator[Finding]:
        """Whether each publishes keys that its tokens can be checked with."""
        for expected in expected_tokens(self.loaded.config) if self.loaded else ():
            what = f"oidc {expected.name}"
            try:
                count = asyncio.run(_keys_of(expected))
            except UpstreamUnavailable as error:
                yield Finding("fail", what, str(error), error.hint)
            else:
                yield Finding("ok", what, f"{expected.issuer} publishes {count} key{'' if count == 1 else 's'}")

    def telemetry(self) -> Iterator[Finding]:
        """Whether spans can leave, where they are to; without a collector all else works."""
        if self.loaded is None or (told := tracer(self.loaded)) is None:
            return
        told.close()
        endpoint = self.loaded.config.telemetry.endpoint
        if why := _unreachable(endpoint):
            yield Finding(
                "warn", "telemetry", f"{endpoint}: {why}", "start the collector; its spans are lost till then"
            )
        else:
            yield Finding("ok", "telemetry", f"spans go to {endpoint}")

    def webhooks(self) -> Iterator[Finding]:
        """Whether each webhook and each way to people can be told, how far it is behind, and what it would not take."""
        if self.loaded is None:
            return
        config = self.loaded.config
        destinations(self.loaded)
        for name, given in config.notify.items():
            channel(name, given, self.loaded)
        told = {name: f"webhook {name}" for name in config.webhooks}
        told |= {NOTIFY + name: f"notify {name}" for name in config.notify}
        if not told or not self._data.database.exists():
            return
        store = SqliteStore(self._data, SystemClock())
        try:
            deliveries, size = Deliveries(store, SystemClock()), store.head().size
            for name, what in told.items():
                found = deliveries.of(name)
                yield from _told(what, found, size) if found else [Finding("warn", what, *_UNTOLD)]
        finally:
            store.close()

    def port(self) -> Iterator[Finding]:
        if self.loaded is None:
            return
        host, port = self.loaded.config.server.host, self.loaded.config.server.port
        why = _taken(host, port)
        if why:
            hint = "Checkrein may be serving there already; else choose another `server.host` or `server.port`"
            yield Finding("warn", "port", f"{host}:{port}: {why}", hint)
        else:
            yield Finding("ok", "port", f"{host}:{port} is free")


def _gateway(what: str, place: Path) -> Iterator[Finding]:
    """Whether a gateway that was set up here can still run, and still stands under Checkrein."""
    folder = Folder(place)
    if not folder.marker.exists():
        return
    home = folder.read()
    try:
        version = check_node(Path(home.node))
        folder.check(home)
    except CheckreinError as error:
        yield from _failures(what, error)
    else:
        yield Finding("ok", what, f"Node {version}, OpenClaw {openclaw_version(Path(home.entry)) or 'unknown'}")


async def _keys_of(expected: Expected) -> int:
    issuer = Issuer(expected)
    try:
        return await issuer.keys()
    finally:
        await issuer.close()


_UNTOLD = ("nothing was delivered yet", "it is told while `checkrein serve` runs")


def _told(what: str, found: Delivery, size: int) -> Iterator[Finding]:
    behind = size - 1 - found.cursor
    if found.refused:
        seqs = ", ".join(str(one.seq) for one in found.refused[:5])
        many = f"{len(found.refused)} record{'' if len(found.refused) == 1 else 's'}"
        hint = f"see why it refuses them, then `checkrein webhooks retry {found.name}`"
        yield Finding("fail" if found.halted() else "warn", what, f"refused {many}: {seqs}", hint)
    if found.failing_since_us:
        since = stamp(found.failing_since_us)[:19]
        yield Finding("fail", what, f"{found.why}, since {since}Z; {behind} records wait", "mend it: nothing is lost")
    elif not found.refused:
        yield Finding("ok", what, f"{found.delivered} records taken, {behind} wait")


def _failures(what: str, error: CheckreinError | OSError) -> Iterator[Finding]:
    """One finding for each problem the error names; the error itself if it names none."""
    hint = error.hint if isinstance(error, CheckreinError) else "check who may use it"
    problems = error.problems if isinstance(error, PolicyInvalid | LedgerInvalid) else ()
    for problem in problems or (str(error),):
        yield Finding("fail", what, problem, hint)


def _no_keys() -> Finding:
    return Finding("warn", "keys", "none: nobody can call", "make one with `checkrein keys create NAME`")


def _standing(path: Path) -> Path:
    """The path itself if something is there, else the nearest one above it."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _unreachable(base_url: str) -> str:
    """Why no connection can be made to this address, or nothing."""
    address = urlsplit(base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_REACH_S).close()
    except TimeoutError:
        return f"no connection within {_REACH_S:g} s"
    except (OSError, UnicodeError) as error:
        return _why(error)
    return ""


def _inside(given: UpstreamConfig) -> str:
    """Why the addresses that this name leads to are not used, or nothing."""
    host, listed = urlsplit(given.base_url).hostname or "", networks(given.networks)
    found = {str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    if any(admits(host, address, listed) for address in found):
        return ""
    return "its name leads to no public address, and `networks` does not list it"


def _taken(host: str, port: int) -> str:
    """Why nobody can listen here, or nothing."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        return _why(error)
    return ""


def _why(error: OSError | UnicodeError) -> str:
    return (error.strerror or "").lower() if isinstance(error, OSError) and error.strerror else "no such host"
