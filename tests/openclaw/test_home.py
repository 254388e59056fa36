"""A gateway's folder: hardened, made again without harm, and nobody's edits lost."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import msgspec
import pytest

from checkrein.connectors.openclaw_home import Conflict, Folder, Home, environment, plugin_files
from checkrein.model import ConfigError

HOME = Home(
    gateway="openclaw", url="http://127.0.0.1:8642", port=18789, node="/n/node", entry="/o/openclaw.mjs", model="gpt"
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "gateway")
    made.write(HOME, "crk_one")
    return made


def _edit(folder: Folder, *path: str, value: object) -> None:
    config = folder.configuration()
    place: dict = config
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = value
    folder.config.write_text(json.dumps(config))


def test_the_gateway_listens_on_loopback_with_a_token_and_loads_our_plugin_alone(folder: Folder) -> None:
    config = folder.configuration()
    assert config["gateway"]["bind"] == "loopback"
    assert config["gateway"]["auth"] == {"mode": "token", "token": folder.token()}
    assert len(folder.token()) >= 32
    assert config["plugins"]["allow"] == ["checkrein"]
    assert config["gateway"]["reload"] == {"mode": "off"}


def test_models_are_reached_through_checkrein_and_nowhere_else(folder: Folder) -> None:
    models = folder.configuration()["models"]
    assert models["mode"] == "replace"
    assert {name: given["baseUrl"] for name, given in models["providers"].items()} == {
        "checkrein": "http://127.0.0.1:8642/v1"
    }


def test_its_own_folder_is_closed_to_tools(folder: Folder) -> None:
    config = folder.configuration()
    assert config["plugins"]["entries"]["checkrein"]["config"]["protect"][0] == str(folder.root)
    assert "group:automation" in config["tools"]["deny"]
    assert config["tools"]["fs"] == {"workspaceOnly": True}


def test_only_the_owner_reads_what_holds_secrets(folder: Folder) -> None:
    for path in (folder.config, folder.token_file, folder.marker):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
    assert "crk_one" not in folder.marker.read_text()
    assert folder.token() not in folder.marker.read_text()


def test_making_it_again_writes_nothing(folder: Folder) -> None:
    token = folder.token()
    assert folder.write(HOME, "crk_one") == ()
    assert folder.token() == token


def test_other_choices_are_taken_where_nobody_edited(folder: Folder) -> None:
    folder.write(msgspec.structs.replace(HOME, port=20000), "crk_two")
    assert folder.configuration()["gateway"]["port"] == 20000
    assert folder.plugin_key() == "crk_two"


def test_what_a_user_added_stays(folder: Folder) -> None:
    _edit(folder, "mcp", "servers", "docs", value={"url": "http://127.0.0.1:9"})
    _edit(folder, "agents", "defaults", "models", "checkrein/gpt", "alias", value="gpt")
    folder.write(msgspec.structs.replace(HOME, port=20000), "crk_one")
    assert folder.configuration()["mcp"] == {"servers": {"docs": {"url": "http://127.0.0.1:9"}}}
    assert folder.configuration()["agents"]["defaults"]["models"] == {"checkrein/gpt": {"alias": "gpt"}}
    folder.check(msgspec.structs.replace(HOME, port=20000))


def test_an_edit_that_loosens_is_named_and_nothing_is_written(folder: Folder) -> None:
    _edit(folder, "plugins", "entries", "checkrein", "enabled", value=False)
    edited = folder.config.read_bytes()
    with pytest.raises(Conflict, match=r"`plugins\.entries\.checkrein\.enabled`"):
        folder.write(HOME, "crk_one")
    assert folder.config.read_bytes() == edited


@pytest.mark.parametrize(
    "path",
    [
        ("models", "providers", "mine", "baseUrl"),
        ("plugins", "entries", "mine", "enabled"),
        ("plugins", "entries", "checkrein", "config", "names", "exec"),
        ("gateway", "tools", "allow"),
    ],
)
def test_what_would_be_a_way_around_is_named_and_taken_back(folder: Folder, path: tuple[str, ...]) -> None:
    _edit(folder, *path, value="read_file")
    with pytest.raises(Conflict, match=".".join(path)):
        folder.write(HOME, "crk_one")
    with pytest.raises(Conflict, match=".".join(path)):
        folder.check(HOME)
    folder.write(HOME, "crk_one", force=True)
    folder.check(HOME)


def test_force_puts_it_back_and_keeps_the_edited_file(folder: Folder) -> None:
    _edit(folder, "gateway", "bind", value="lan")
    edited = folder.config.read_bytes()
    folder.write(HOME, "crk_one", force=True)
    assert folder.configuration()["gateway"]["bind"] == "loopback"
    assert folder.config.with_name("openclaw.json.before-1").read_bytes() == edited


@pytest.mark.parametrize("path", [("plugins", "allow"), ("plugins", "entries", "checkrein", "enabled")])
def test_a_gateway_whose_guard_was_changed_does_not_pass_the_check(folder: Folder, path: tuple[str, ...]) -> None:
    folder.check(HOME)
    _edit(folder, *path, value=False)
    with pytest.raises(Conflict, match=".".join(path)):
        folder.check(HOME)


def test_a_changed_plugin_does_not_pass_the_check(folder: Folder) -> None:
    (folder.plugin / "governor.js").write_text("export class Governor {}")
    with pytest.raises(Conflict, match=r"plugin/governor\.js"):
        folder.check(HOME)


def test_a_folder_that_was_never_set_up_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no gateway"):
        Folder(tmp_path).read()


def test_the_plugin_needs_no_other_package() -> None:
    given = plugin_files()
    assert "dependencies" not in json.loads(given["package.json"])
    sources = b"".join(data for name, data in given.items() if name.endswith(".js"))
    imports = [line for line in sources.decode().splitlines() if line.startswith("import")]
    assert imports and all('from "./' in line for line in imports)


def test_commands_of_agents_inherit_no_secret(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    monkeypatch.setenv("CHECKREIN_API_KEY", "crk_mine")
    given = environment(folder, Path("/n/node"))
    assert not {"sk-mine", "crk_mine", folder.token()} & set(given.values())
    assert given["HOME"] == str(folder.home)
