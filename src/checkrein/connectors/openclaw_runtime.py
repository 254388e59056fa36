"""Node and the OpenClaw Gateway, in the versions this Checkrein was tested with.

They come from npm by a package-lock that is part of this package: every file has its integrity hash, and no
package's install script is run. PyPI's `openclaw` is something else, unrelated to the gateway.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import msgspec

from checkrein.model import CheckreinError, ConfigError

OPENCLAW = "2026.9.6"
NODE = "24.21.0"
#: what is below each was released without the SQLite that the gateway needs: (major, minor from)
NODE_VERSIONS = {24: 16, 26: 1}
#: what is on disk when it is installed, roughly
SIZE_MB = 832

_SHIPPED = files("checkrein") / "integrations" / "openclaw" / "runtime"
_INSTALL_TIMEOUT_S = 900.0
_TELL_EVERY_S = 5.0
#: what npm may know: how to reach its registry, and nothing that is secret to somebody else
_NPM_ENV = re.compile(
    r"PATH|HOME|LANG|LC_.*|TMPDIR|(?:npm_config_|NPM_CONFIG_).*|(?:https?|no)_proxy|.*_CA_CERTS", re.I
)


class Runtime(msgspec.Struct, frozen=True):
    """A Node that can run the gateway, and the gateway's entry file."""

    node: Path
    entry: Path

    def command(self, *args: str) -> list[str]:
        return [str(self.node), str(self.entry), *args]


def default_cache() -> Path:
    """Where installed versions are kept for this user."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "checkrein" / f"openclaw-{OPENCLAW}"


def find(
    *,
    node: Path | None = None,
    openclaw: Path | None = None,
    cache: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Runtime:
    """The runtime: `node` (a program) and `openclaw` (a package folder) if given, else from the cache.

    What is not there yet is installed; raises `ConfigError` or `CheckreinError` that says why it cannot be.
    """
    cache = cache or default_cache()
    if node is not None:
        check_node(node)
    if node is None or openclaw is None:
        _install(cache, tell)
    modules = cache / "node_modules"
    node = node or modules / ".bin" / "node"
    if not node.exists():
        raise ConfigError(
            f"npm has no Node {NODE} for this machine",
            hint=f"install Node {_wanted()} and name it with `--node`",
        )
    check_node(node)
    package = openclaw or modules / "openclaw"
    entry = package / "openclaw.mjs"
    if not entry.is_file():
        raise ConfigError(f"`{package}` is not the openclaw package", hint="name the folder that holds `openclaw.mjs`")
    return Runtime(node.absolute(), entry.absolute())


def check_node(node: Path) -> str:
    """The version of this Node; raises `ConfigError` when it cannot run the gateway."""
    try:
        said = subprocess.run(
            [node, "--version"], capture_output=True, text=True, timeout=30, check=False
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"`{node}` cannot be run", hint=f"name a Node {_wanted()} with `--node`") from error
    match = re.fullmatch(r"v(\d+)\.(\d+)\.(\d+)", said)
    if not match:
        raise ConfigError(f"`{node}` is no Node", hint=f"name a Node {_wanted()} with `--node`")
    major, minor = int(match[1]), int(match[2])
    if minor < NODE_VERSIONS.get(major, minor + 1):
        hint = f"OpenClaw {OPENCLAW} needs Node {_wanted()}; leave `--node` out and one is installed"
        raise ConfigError(f"`{node}` is Node {said[1:]}, which cannot run the gateway", hint=hint)
    return said[1:]


def openclaw_version(entry: Path) -> str:
    """What the package says it is; empty if it says nothing."""
    try:
        version = json.loads((entry.parent / "package.json").read_bytes())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return version if isinstance(version, str) else ""


def _wanted() -> str:
    return " or ".join(f"{major}.{minor}+" for major, minor in NODE_VERSIONS.items())


def _install(cache: Path, tell: Callable[[str], None]) -> None:
    """Install into a folder beside the cache and move it there when it is whole, so that no half of it is ever used."""
    if (cache / "node_modules" / "openclaw" / "openclaw.mjs").is_file():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(
            "npm is not installed, and it fetches OpenClaw",
            hint="install npm, or name what you have with `--node` and `--openclaw`",
        )
    cache.parent.mkdir(parents=True, exist_ok=True)
    tell(f"installing OpenClaw {OPENCLAW} and Node {NODE} into {cache} (about {SIZE_MB} MB)")
    with tempfile.TemporaryDirectory(prefix=f"{cache.name}.", dir=cache.parent) as made:
        folder = Path(made) / "new"
        folder.mkdir()
        for name in ("package.json", "package-lock.json"):
            (folder / name).write_bytes((_SHIPPED / name).read_bytes())
        _npm(npm, folder, tell)
        shutil.rmtree(cache, ignore_errors=True)  # an older half, which no finished install leaves
        try:
            folder.rename(cache)
        except OSError:
            if not (cache / "node_modules").is_dir():  # else another process was faster
                raise
    tell("installed")


def _npm(npm: str, folder: Path, tell: Callable[[str], None]) -> None:
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    env = {name: value for name, value in os.environ.items() if _NPM_ENV.fullmatch(name)}
    begun = told = time.monotonic()
    log = folder / "npm.log"
    with log.open("wb") as out:
        running = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            while running.poll() is None:
                now = time.monotonic()
                if now - begun > _INSTALL_TIMEOUT_S:
                    raise CheckreinError(
                        f"npm did not finish within {_INSTALL_TIMEOUT_S / 60:g} minutes",
                        hint="look at the network, and run it again",
                    )
                if now - told >= _TELL_EVERY_S:
                    told = now
                    tell(f"  {_size_mb(folder)} of about {SIZE_MB} MB, {now - begun:.0f} s")
                time.sleep(0.1)
        finally:
            if running.poll() is None:
                running.kill()
                running.wait()
    if running.returncode != 0:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if "npm error" in line]
        why = "; ".join(line.removeprefix("npm error ").strip() for line in lines[:3]) or "it did not say why"
        raise CheckreinError(
            f"npm could not install OpenClaw: {why[:400]}",
            hint="npm must reach its registry; or name what you have with `--node` and `--openclaw`",
        )
    log.unlink()


def _size_mb(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).lstat().st_size
            except OSError:  # npm moves files while it works
                continue
    return total // 1_000_000
