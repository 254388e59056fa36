"""Help teaches, fits the screen, and costs nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]

#: every verb here works on a deployment; those that answer can answer in JSON
VERBS = (
    *("init", "check", "test", "doctor", "decide", "activity", "metrics"),
    *(
        "approvals list",
        "approvals show",
        "approvals approve",
        "approvals deny",
        "approvals delegate",
        "approvals edit",
        "approvals grants",
        "approvals revoke",
        "approvals break-glass",
        "approvals reviews",
        "approvals sign",
        "approvals watch",
    ),
    *("audit list", "audit show", "audit tail", "audit verify"),
    *("keys create", "keys list", "keys rotate", "keys revoke", "keys rotate-signer"),
    *("kill", "revive", "killed", "limits", "drift report", "gate run", "webhooks list"),
    *("rollout start", "rollout list", "rollout status"),
    *("rollout pause", "rollout resume", "rollout promote", "rollout abort", "rollout undo"),
)
WITHOUT_A_TABLE = (
    *("demo", "serve", "audit export", "audit prove", "audit consistency"),
    *("rollout watch", "webhooks retry"),
)
#: verbs that need no store, and groups of verbs
OTHERS = (
    *("gate diff", "gate import", "webhooks test"),
    *("", "approvals", "audit", "drift", "gate", "keys", "rollout", "webhooks"),
)
#: what makes start-up slow
HEAVY = ("aiohttp", "apsw", "asyncio", "cedarpy", "cryptography", "re2", "rich", "starlette", "uvicorn", "yaml")


@pytest.mark.parametrize("verb", [*VERBS, *WITHOUT_A_TABLE, *OTHERS])
def test_help_is_as_it_was_read_last(verb: str, cli: Run, golden: Callable[[str, str], None]) -> None:
    ran = cli(*verb.split(), "--help", COLUMNS="80")
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= 80
    # which verbs there are is shown by themselves
    golden("-".join(["help", *verb.split()]), re.sub(r"(?s)\nCommands:\n.*?(?=\n\n|\Z)", "", ran.out))


@pytest.mark.parametrize("verb", [*VERBS, *WITHOUT_A_TABLE])
def test_every_verb_takes_the_folder_and_the_store_and_shows_an_example(verb: str, cli: Run) -> None:
    text = cli(*verb.split(), "-h").out
    assert "--dir DIR" in text
    assert "--data DIR" in text
    assert f"  checkrein {verb}" in text.partition("Examples:")[2]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_answers_can_answer_in_json(verb: str, cli: Run) -> None:
    assert "--output <table|json>" in cli(*verb.split(), "-h").out


def test_without_a_verb_the_help_is_shown_as_a_usage_error(cli: Run) -> None:
    ran = cli()
    assert ran.code == 2
    assert "Examples:" in ran.out + ran.err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom checkrein.cli import main\nsys.argv = ['checkrein', '--help']\n"
        f"try:\n    main()\nexcept SystemExit:\n    print([name for name in {HEAVY} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_the_version_is_one_line(cli: Run) -> None:
    from checkrein import __version__

    assert cli("--version").out == f"checkrein {__version__}\n"
