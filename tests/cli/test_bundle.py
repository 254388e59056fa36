"""`bundle`: built, signed, verified, shown; and `serve` with one, or on a folder that is edited."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest

Run = Callable[..., Any]
AT = "2026-01-31T09:00:00Z"
VERBS = ("build", "sign", "verify", "show")
NO_READS = '\n@id("no-reads") @owner("x") @reason("x") forbid (principal, action == Action::"read_file", resource);\n'
FAILING = "tests:\n  - {name: n, prompt: hi, expect: {outcome: deny}}\n"


@pytest.fixture
def bundle(cli: Run, folder: Path, tmp_path: Path) -> Path:
    """A bundle of the folder, signed with `release.key`."""
    file = tmp_path / "policy.tar"
    assert cli("bundle", "build", folder, "--to", file, "--created", AT).code == 0
    assert cli("bundle", "sign", file, "--key", tmp_path / "release.key", "--new-key").code == 0
    return file


def key(bundle: Path) -> Path:
    return bundle.parent / "release.key"


def public(bundle: Path) -> Path:
    return bundle.parent / "release.key.pub"


def edit(folder: Path, added: str) -> None:
    policies = folder / "policies/main.cedar"
    policies.write_text(policies.read_text() + added)


# --- build


def test_two_builds_of_the_same_are_the_same_bytes(cli: Run, folder: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "1.tar", tmp_path / "2.tar"
    for file in (one, two):
        ran = cli("bundle", "build", folder, "--to", file, "--serial", 7, "--created", AT)
        assert ran.code == 0
        assert "serial 7" in ran.out
        assert "bundle sign" in ran.err
    assert one.read_bytes() == two.read_bytes()


def test_serials_count_up_and_name_their_parent(cli: Run, folder: Path, tmp_path: Path) -> None:
    built = [cli("bundle", "build", folder, "--to", tmp_path / "x.tar", "-o", "json").json() for _ in range(2)]
    assert [made["serial"] for made in built] == [1, 2]
    assert [made["parent"] for made in built] == [None, built[0]["bundle"]]


def test_a_bundle_has_the_digest_that_check_shows(cli: Run, folder: Path, bundle: Path) -> None:
    digest = cli("check", folder, "-o", "json").json()["bundle"]
    assert cli("bundle", "show", bundle, "-o", "json").json()["bundle"] == digest


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [("policies/bad.cedar", "permit (", "policies/bad.cedar:1"), ("tests/t.yaml", FAILING, "1 of 1 policy tests fail")],
)
def test_what_a_server_would_refuse_is_not_built(
    cli: Run, folder: Path, tmp_path: Path, file: str, text: str, says: str
) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(text)
    ran = cli("bundle", "build", folder, "--to", tmp_path / "x.tar")
    assert ran.code == 5
    assert says in ran.err
    assert "hint: " in ran.err
    assert not (tmp_path / "x.tar").exists()


def test_a_serial_that_is_behind_and_a_time_that_is_none_are_usage_errors(
    cli: Run, folder: Path, tmp_path: Path, bundle: Path
) -> None:
    for more in (("--serial", 1), ("--created", "yesterday"), ("--serial", 0)):
        edit(folder, "// edited\n")
        ran = cli("bundle", "build", folder, "--to", tmp_path / "x.tar", *more)
        assert ran.code == 2


# --- sign and verify


def test_signing_makes_a_key_once_for_its_owner_alone_and_prints_its_public_half(cli: Run, bundle: Path) -> None:
    assert key(bundle).stat().st_mode & 0o777 == 0o600
    before = bundle.read_bytes()
    ran = cli("bundle", "sign", bundle, "--key", key(bundle))
    assert ran.out.strip() == str(public(bundle))
    assert "PRIVATE" not in ran.out + ran.err
    assert bundle.read_bytes() == before
    assert cli("bundle", "sign", bundle, "--key", key(bundle), "--new-key").code == 2


def test_without_a_key_the_hint_names_the_way_to_one(cli: Run, bundle: Path, tmp_path: Path) -> None:
    ran = cli("bundle", "sign", bundle, "--key", tmp_path / "other.key")
    assert ran.code == 2
    assert "--new-key" in ran.err


def test_no_key_is_made_for_what_cannot_be_signed(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"x")
    assert cli("bundle", "sign", tmp_path / "x.tar", "--key", tmp_path / "k", "--new-key").code == 5
    assert not (tmp_path / "k").exists()


def test_a_signed_bundle_verifies(cli: Run, bundle: Path) -> None:
    ran = cli("bundle", "verify", bundle, "--key", public(bundle))
    assert (ran.code, ran.out.startswith("ok: serial 1, sha256:")) == (0, True)
    assert cli("bundle", "verify", bundle, "--key", public(bundle), "-o", "json").json()["ok"] is True


def test_a_bundle_that_was_tampered_with_does_not(cli: Run, bundle: Path) -> None:
    data = bundle.read_bytes()
    bundle.write_bytes(data.replace(b"agents move no money", b"agents move all gold"))
    assert bundle.read_bytes() != data
    ran = cli("bundle", "verify", bundle, "--key", public(bundle))
    assert (ran.code, ran.out) == (5, "")
    assert "is not the file that its manifest names" in ran.err
    assert "hint: " in ran.err


def test_a_bundle_that_another_key_signed_does_not(cli: Run, bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tar"
    other.write_bytes(bundle.read_bytes())
    cli("bundle", "sign", other, "--key", tmp_path / "other.key", "--new-key")
    only = tmp_path / "other.key.pub"
    assert cli("bundle", "verify", other, "--key", only).code == 0
    assert cli("bundle", "verify", bundle, "--key", only).code == 5
    assert cli("bundle", "verify", bundle, "--key", only, "--key", public(bundle)).code == 0


def test_a_bundle_that_nobody_signed_does_not(cli: Run, folder: Path, bundle: Path) -> None:
    cli("bundle", "build", folder, "--to", bundle)
    ran = cli("bundle", "verify", bundle, "--key", public(bundle))
    assert ran.code == 5
    assert "checkrein bundle sign" in ran.err


def test_show_tells_what_is_in_it_and_that_it_believes_nobody(cli: Run, bundle: Path) -> None:
    shown = cli("bundle", "show", bundle, "-o", "json").json()
    assert (shown["serial"], shown["created"], shown["parent"]) == (1, AT, None)
    assert set(shown["files"]) == {"policies/main.cedar", "tools.yaml"}
    assert len(shown["keys"]) == 1
    ran = cli("bundle", "show", bundle)
    for text in (shown["bundle"], shown["keys"][0], "policies/main.cedar", AT):
        assert text in ran.out
    assert "not verified" in ran.err


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_teaches_by_example_and_can_answer_in_json(cli: Run, verb: str) -> None:
    text = cli("bundle", verb, "--help", COLUMNS="80").out
    assert f"  checkrein bundle {verb}" in text.partition("Examples:")[2]
    assert "--output <table|json>" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("verb", ["sign", "verify", "show"])
def test_a_file_that_is_not_there_is_an_error_with_a_way_on(cli: Run, tmp_path: Path, verb: str) -> None:
    keys = {"sign": ("--key", "k"), "verify": ("--key", "k.pub"), "show": ()}[verb]
    ran = cli("bundle", verb, tmp_path / "gone.tar", *keys)
    assert ran.code == 2
    assert "does not exist" in ran.err
    assert "hint: " in ran.err


# --- serve


@contextmanager
def serving(folder: Path, *more: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`checkrein serve` and its address."""
    command = [sys.executable, "-m", "checkrein", "serve", "--dir", folder, "--port", "0", *more]
    with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, heard(process, "listening on ").partition("listening on ")[2].partition(",")[0]
        finally:
            process.kill()


def heard(process: subprocess.Popen[str], words: str) -> str:
    """The next line on standard error that holds these words."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return line
    pytest.fail(f"it ended and never said `{words}`")


def ask(url: str, path: str, secret: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    direct = build_opener(ProxyHandler({}))
    with direct.open(Request(url + path, data, headers), timeout=30) as reply:  # noqa: S310 - our own loopback
        return json.loads(reply.read())


def test_serve_takes_an_edit_refuses_a_broken_one_and_says_both(
    folder: Path, cli: Run, asking: Callable[..., Path]
) -> None:
    secret = cli("keys", "create", "pep", "--can", "decide", "--dir", folder).out.strip()
    reading = json.loads(asking("read_file").read_text())

    def reads(url: str) -> bool:
        return bool(ask(url, "/access/v1/evaluation", secret, reading)["decision"])

    with serving(folder) as (process, url):
        assert reads(url)
        edit(folder, "permit (")
        process.send_signal(signal.SIGHUP)
        assert "policies/main.cedar" in heard(process, "is rejected")
        assert ask(url, "/readyz", secret)["warnings"]
        assert reads(url)
        policies = folder / "policies/main.cedar"
        policies.write_text(policies.read_text().removesuffix("permit (") + NO_READS)
        heard(process, "is active, before it was")
        assert not reads(url)
        assert ask(url, "/readyz", secret)["warnings"] == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    kinds = [record["kind"] for record in cli("audit", "list", "--dir", folder, "-o", "json").json()]
    assert {"policy.changed", "policy.rejected"} <= set(kinds)
    assert cli("audit", "verify", "--dir", folder).code == 0


def test_serve_starts_on_a_signed_bundle_and_refuses_to_go_back(folder: Path, cli: Run, bundle: Path) -> None:
    old = bundle.read_bytes()
    edit(folder, NO_READS)
    cli("bundle", "build", folder, "--to", bundle)
    cli("bundle", "sign", bundle, "--key", key(bundle))
    digest = cli("bundle", "show", bundle, "-o", "json").json()["bundle"]
    edit(folder, "what the folder holds does not count (")
    more = ("--bundle", bundle, "--bundle-key", public(bundle))
    with serving(folder, *more):
        pass
    bundle.write_bytes(old)
    with serving(folder, *more) as (process, _):
        assert digest in heard(process, "serial 1 is lower than 2")


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [("policies/bad.cedar", "permit (", "policies/bad.cedar:1"), ("tests/t.yaml", FAILING, "1 of 1 policy tests fail")],
)
def test_serve_starts_on_no_folder_that_it_would_not_reload(
    folder: Path, spawn: Run, file: str, text: str, says: str
) -> None:
    (folder / "tests").mkdir()
    (folder / file).write_text(text)
    ran = spawn("serve", "--dir", folder, "--port", 0)
    assert ran.code == 5
    assert says in ran.err


def test_a_bundle_without_a_key_is_not_served(folder: Path, cli: Run, bundle: Path) -> None:
    ran = cli("serve", "--dir", folder, "--port", 0, "--bundle", bundle)
    assert ran.code == 2
    assert "--bundle-key" in ran.err
