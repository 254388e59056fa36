"""What is wrong with a deployment, and how to mend it. Reads and probes; changes nothing but a store's own probe."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from checkrein import config as configuration
from checkrein.compose import DATA, System, credential, load_bundle, open_system, run_cases, verify_ledger
from checkrein.config import Loaded, Origin
from checkrein.model import CheckreinError, LedgerInvalid, PolicyInvalid
from checkrein.policy.bundle import Bundle

#: less free space than this, in bytes, is worth a warning
LOW_SPACE = 1024 * 1024 * 1024


class Finding(msgspec.Struct, frozen=True):
    """`verdict` is `ok`, `warn` or `fail`."""

    verdict: str
    what: str
    found: str
    hint: str = ""

    def to_json(self) -> dict[str, str]:
        return {"verdict": self.verdict, "what": self.what, "found": self.found, "hint": self.hint}


def examine(folder: Path, data: Path | None) -> tuple[list[Finding], tuple[Origin, ...]]:
    """Every finding, in the order in which one would mend them, and the origin of every setting."""
    findings = [_python()]
    loaded: Loaded | None = None
    bundle: Bundle | None = None

    def step(what: str, act: Callable[[], Iterator[Finding]]) -> None:
        try:
            findings.extend(act())
        except (CheckreinError, OSError) as error:
            findings.append(_failure(what, error))

    def settings() -> Iterator[Finding]:
        nonlocal loaded
        loaded = configuration.load(folder)
        yield Finding("ok", "settings", f"{folder / configuration.FILE}")
        for warning in loaded.warnings:
            yield Finding("warn", "settings", warning, "check the spelling")

    def policies() -> Iterator[Finding]:
        nonlocal bundle
        bundle = load_bundle(folder)
        yield Finding("ok", "policies", f"{len(bundle.policies)} load, {bundle.digest[:19]}")
        for warning in bundle.warnings:
            yield Finding("warn", "policies", warning)
        failed = [result.case.name for result in run_cases(folder) if not result.passed]
        if failed:
            yield Finding("fail", "policy tests", f"{len(failed)} fail", f"run `checkrein test {folder}`")
        else:
            yield Finding("ok", "policy tests", f"{len(bundle.cases)} pass")

    step("settings", settings)
    step("policies", policies)
    if loaded is not None and bundle is not None:
        step("approvers", lambda: _approvers(loaded, bundle))
        step("store", lambda: _store(folder, data))
        step("ledger", lambda: _ledger(folder, data))
        for name in loaded.config.upstreams:
            step(f"upstream {name}", lambda name=name: _upstream(name, loaded))  # type: ignore[misc]
        if not loaded.config.upstreams:
            findings.append(Finding("warn", "upstreams", "none configured", "add `[upstreams.NAME]` to checkrein.toml"))
        step("port", lambda: _port(loaded))
    return findings, loaded.origins if loaded else ()


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("ok", "python", version)


def _failure(what: str, error: CheckreinError | OSError) -> Finding:
    problems = error.problems if isinstance(error, PolicyInvalid | LedgerInvalid) else ()
    more = f"; first: {problems[0]}" if problems else ""
    return Finding("fail", what, f"{error}{more}", getattr(error, "hint", ""))


def _approvers(loaded: Loaded, bundle: Bundle) -> Iterator[Finding]:
    """Each role that a policy asks for must be held by enough people."""
    held: dict[str, int] = {}
    for person in loaded.config.people.values():
        for role in person.roles:
            held[role] = held.get(role, 0) + 1
    for policy in bundle.policies.policies:
        for factor in policy.requirement.factors if policy.requirement else ():
            if held.get(factor.role, 0) < factor.count:
                yield Finding(
                    "warn",
                    "approvers",
                    f"`{policy.id}` asks for {factor}, {held.get(factor.role, 0)} hold the role",
                    f"give people the role `{factor.role}` under `[people]`, or its approvals only expire",
                )


def _store(folder: Path, data: Path | None) -> Iterator[Finding]:
    where = data or folder / DATA
    if not where.exists():
        yield Finding("ok", "store", f"{where} is made with the first action")
        return
    system: System = open_system(folder, data=data)
    try:
        if system.store.writable():
            yield Finding("ok", "store", f"{where}, {system.store.head().size} records")
        else:
            yield Finding("fail", "store", f"{where} cannot be written", "free disk space, or mend its permissions")
        live = [key for key in system.keys.all() if key.live(system.clock.now_us())]
        if live:
            yield Finding("ok", "keys", f"{len(live)} live")
        else:
            yield Finding("warn", "keys", "nobody can call", "make a key with `checkrein keys create NAME`")
    finally:
        system.close()
    free = shutil.disk_usage(where).free
    if free < LOW_SPACE:
        yield Finding("warn", "disk", f"{free // 2**20} MiB free", "free space: when it is full nothing runs")


def _ledger(folder: Path, data: Path | None) -> Iterator[Finding]:
    if not (data or folder / DATA).exists():
        return
    report = verify_ledger(folder, data=data)
    if report.problems:
        yield Finding("fail", "ledger", report.problems[0], "run `checkrein audit verify`")
    else:
        yield Finding("ok", "ledger", report.summary())


def _upstream(name: str, loaded: Loaded) -> Iterator[Finding]:
    given = loaded.config.upstreams[name]
    credential(name, given, loaded)
    address = urlsplit(given.base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=3).close()
    except OSError as error:
        yield Finding(
            "fail",
            f"upstream {name}",
            f"{given.base_url} cannot be reached: {error}",
            "start it, or mend `base_url`",
        )
    else:
        yield Finding("ok", f"upstream {name}", given.base_url)


def _port(loaded: Loaded) -> Iterator[Finding]:
    server = loaded.config.server
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            yield Finding(
                "warn",
                "port",
                f"{server.host}:{server.port}: {(error.strerror or '').lower()}",
                "Checkrein may be serving there already; else choose another `server.port`",
            )
        else:
            yield Finding("ok", "port", f"{server.host}:{server.port} is free")
