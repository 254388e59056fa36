"""A folder in which an OpenClaw Gateway runs under Checkrein: its hardened configuration, its state, our plugin.

Nobody's edits are lost: what the user added to `openclaw.json` stays, and where it contradicts what governs the
gateway, that is an error that names the place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

import msgspec

from checkrein.model import CheckreinError, ConfigError

PLUGIN = "checkrein"
MARKER = "checkrein.json"
#: sections of `openclaw.json` that hold what `setup` writes and nothing else: another model provider or plugin, or
#: another way in, would be a way around
OURS = ("gateway", "models", "plugins")
#: what tool calls may not name besides the gateway's folder: a shell in `workspace` finds it by these too
PROTECTED = ("openclaw.json", "gateway.token", "OPENCLAW_CONFIG_PATH", "OPENCLAW_STATE_DIR")
_SHIPPED = files("checkrein") / "integrations" / "openclaw" / "plugin"


class Home(msgspec.Struct, frozen=True, kw_only=True):
    """What `setup` decided, kept in `checkrein.json` beside the configuration. No secret stands there."""

    #: the name of this gateway's upstream in checkrein.toml
    gateway: str
    #: where Checkrein listens
    url: str
    port: int
    node: str
    entry: str
    #: the model that agents talk to, through Checkrein
    model: str
    #: tools of the gateway (`docs__search`) by their names in policies
    names: dict[str, str] = {}
    #: the API key of the plugin, by its id
    key_id: str = ""
    #: what was written into `openclaw.json`, as SHA-256 by place: what is something else by now is somebody's edit
    written: dict[str, str] = {}


class Conflict(ConfigError):
    """The configuration was edited where it governs the gateway. `places` says where."""

    def __init__(self, path: Path, places: tuple[str, ...]) -> None:
        listed = ", ".join(f"`{place}`" for place in places[:8]) + (" ..." if len(places) > 8 else "")
        super().__init__(
            f"{path} was changed where it governs the gateway: {listed}",
            hint="`checkrein openclaw setup --force` puts it back and keeps yours beside it",
        )
        self.places = places


class Folder:
    """The paths of one gateway's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.marker = self.root / MARKER
        self.config = self.root / "openclaw.json"
        self.token_file = self.root / "gateway.token"
        self.plugin = self.root / "plugin"
        self.state = self.root / "state"
        self.home = self.root / "home"
        self.workspace = self.root / "workspace"
        self.log = self.root / "gateway.log"

    def read(self) -> Home:
        """What `setup` wrote; raises `ConfigError` where it never ran."""
        try:
            return msgspec.json.decode(self.marker.read_bytes(), type=Home)
        except FileNotFoundError as error:
            raise ConfigError(
                f"there is no gateway in `{self.root}`", hint="make one with `checkrein openclaw setup DIR`"
            ) from error
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"{self.marker} cannot be read", hint="run `checkrein openclaw setup` again") from error

    def prepare(self) -> str:
        """Make the folders and the token, where they are not there yet; the token."""
        for folder in (self.root, self.state, self.home, self.workspace, self.plugin):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.token_file.exists():
            _put(self.token_file, secrets.token_urlsafe(32).encode() + b"\n")
        return self.token()

    def token(self) -> str:
        """The gateway's token, which is the whole power over it."""
        try:
            return self.token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"{self.token_file} cannot be read", hint="run `checkrein openclaw setup`") from error

    def plugin_key(self) -> str:
        """The plugin's key as it stands in the configuration; empty if there is none."""
        found: object = self.configuration()
        for name in ("plugins", "entries", PLUGIN, "config", "key"):
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, str) else ""

    def configuration(self) -> dict[str, object]:
        """`openclaw.json` as it is; empty if it is not there."""
        try:
            value = json.loads(self.config.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.config} is not JSON that can be read", hint="mend it, or move it away") from error
        if not isinstance(value, dict):
            raise ConfigError(f"{self.config} holds no object", hint="mend it, or move it away")
        return value

    def write(
        self, home: Home, key: str, *, also: Mapping[str, object] | None = None, force: bool = False
    ) -> tuple[str, ...]:
        """Write what is missing or old; the names of what was written. Raises `Conflict` before it writes anything.

        `also` are further settings, such as MCP servers.

        With `force` an edited file is put back, and a copy of it stays as `NAME.before-N`.
        """
        token = self.prepare()
        before = self.configuration()
        wanted = merge(also or {}, hardened(self, home, token, key))
        known = self.read().written if self.marker.exists() else {}
        found = dict(leaves(before))
        places = tuple(
            place for place in conflicts(before, wanted) if place in found and _digest(found[place]) != known.get(place)
        )
        if places and not force:
            raise Conflict(self.config, places)
        merged = merge({name: value for name, value in before.items() if name not in OURS}, wanted)
        home = msgspec.structs.replace(home, written={place: _digest(value) for place, value in leaves(wanted)})
        given = {
            self.config: _pretty(merged) if merged != before else None,
            **{self.plugin / name: data for name, data in plugin_files().items()},
            self.marker: _pretty(msgspec.to_builtins(home)),
        }
        if places:
            _keep(self.config)
        return tuple(
            str(path.relative_to(self.root)) for path, data in given.items() if data is not None and _put(path, data)
        )

    def check(self, home: Home) -> None:
        """Raise `Conflict` where the configuration or the plugin is not what governs the gateway."""
        wanted = hardened(self, home, self.token(), self.plugin_key())
        places = conflicts(self.configuration(), wanted)
        places += [f"plugin/{name}" for name, data in plugin_files().items() if _content(self.plugin / name) != data]
        if places:
            raise Conflict(self.config, tuple(places))


def hardened(folder: Folder, home: Home, token: str, key: str) -> dict[str, object]:
    """What `openclaw.json` must say: loopback, a token, our plugin alone, models through Checkrein.

    Changes of the file wait for a restart (`reload.mode`): an agent that edits it cannot switch its own guard off
    while it runs.
    """
    model = {
        "id": home.model,
        "name": home.model,
        "reasoning": False,
        "input": ["text"],
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        "contextWindow": 128_000,
        "maxTokens": 4096,
    }
    provider = {
        "baseUrl": f"{home.url}/v1",
        "apiKey": key,
        "api": "openai-completions",
        "models": [model],
    }
    entry = {
        "enabled": True,
        "hooks": {"timeouts": {"before_tool_call": 600_000}},
        "config": {"url": home.url, "key": key, "gateway": home.gateway, "protect": [str(folder.root), *PROTECTED]}
        | ({"names": home.names} if home.names else {}),
    }
    return {
        "gateway": {
            "mode": "local",
            "bind": "loopback",
            "port": home.port,
            "auth": {"mode": "token", "token": token},
            "http": {"endpoints": {"chatCompletions": {"enabled": True}, "responses": {"enabled": True}}},
            "reload": {"mode": "off"},
            "controlUi": {"enabled": False},
        },
        "discovery": {"mdns": {"mode": "off"}},
        "update": {"checkOnStart": False},
        "telemetry": {"enabled": False},
        "cron": {"enabled": False},
        "logging": {"file": str(folder.state / "openclaw.log")},
        "models": {
            "mode": "replace",
            "catalogRefresh": {"enabled": False},
            "providers": {PLUGIN: provider},
        },
        "agents": {
            "defaults": {
                "workspace": str(folder.workspace),
                "model": {"primary": f"{PLUGIN}/{home.model}"},
                "skipBootstrap": True,
                "heartbeat": {"every": "0m"},
            }
        },
        "tools": {
            "deny": ["group:automation", "group:nodes", "sessions_spawn", "sessions_send"],
            "fs": {"workspaceOnly": True},
            "elevated": {"enabled": False},
        },
        "plugins": {
            "allow": [PLUGIN],
            "load": {"paths": [str(folder.plugin)]},
            "entries": {PLUGIN: entry},
        },
    }


def leaves(value: Mapping[str, object], place: str = "") -> Iterator[tuple[str, object]]:
    """Everything that is no object, by its place."""
    for name, item in value.items():
        path = f"{place}.{name}" if place else name
        if isinstance(item, Mapping):
            yield from leaves(item, path)
        else:
            yield path, item


def conflicts(given: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """The places where `given` does not say what is `wanted`, or says more in a section that is ours alone.

    What it says elsewhere is nobody's business.
    """
    found, meant = dict(leaves(given)), dict(leaves(wanted))
    other = [place for place, value in meant.items() if place not in found or found[place] != value]
    return other + [place for place in found if place.partition(".")[0] in OURS and place not in meant]


def merge(given: Mapping[str, object], wanted: Mapping[str, object]) -> dict[str, object]:
    """`given` with everything that is `wanted`."""
    merged = dict(given)
    for name, value in wanted.items():
        found = given.get(name)
        merged[name] = (
            merge(found if isinstance(found, Mapping) else {}, value) if isinstance(value, Mapping) else value
        )
    return merged


def plugin_files() -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in _SHIPPED.iterdir() if entry.name.endswith((".js", ".json"))}


def environment(folder: Folder, node: Path) -> dict[str, str]:
    """The gateway's environment, made anew: its agents' commands inherit it, so no secret of ours stands there."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ", "TERM") if name in os.environ}
    return kept | {
        "PATH": f"{node.parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder.home),
        "OPENCLAW_STATE_DIR": str(folder.state),
        "OPENCLAW_CONFIG_PATH": str(folder.config),
        "OPENCLAW_NO_AUTO_UPDATE": "1",
        "OPENCLAW_DISABLE_BONJOUR": "1",
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _pretty(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _put(path: Path, data: bytes) -> bool:
    """Write the file for its owner alone, whole or not at all; False when it says so already."""
    if _content(path) == data:
        return False
    new = path.with_name(f".{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise CheckreinError(f"`{path}` cannot be written: {why}", hint="choose another folder") from error
    return True


def _keep(path: Path) -> None:
    number = 1
    while (copy := path.with_name(f"{path.name}.before-{number}")).exists():
        number += 1
    shutil.copy2(path, copy)
