"""`approvals`: people see the whole action, and a vote that does not count is refused with its reason, and recorded."""

from __future__ import annotations

import datetime
import json
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def waiting(folder: Path, cli: Run, asking: Callable[..., Path]) -> str:
    """The id of an approval that waits for one of finance."""
    ran = cli("decide", asking("send_email"), "--dir", folder)
    return str(ran.json()["context"]["access_request"]["id"])


def kinds(cli: Run, folder: Path) -> list[str]:
    return [row["kind"] for row in cli("audit", "list", "--dir", folder, "-o", "json").json()]


def test_what_waits_is_listed_until_somebody_answers(waiting: str, folder: Path, cli: Run) -> None:
    assert waiting in cli("approvals", "list", "--dir", folder).out
    ran = cli("approvals", "approve", waiting, "--as", "bob", "--reason", "agreed", "--dir", folder)
    assert (ran.code, ran.out) == (0, "")
    assert "is approved; it runs once" in ran.err
    assert cli("approvals", "list", "--dir", folder).out == ""
    assert waiting in cli("approvals", "list", "--state", "approved", "--dir", folder).out
    assert kinds(cli, folder)[-2:] == ["approval.voted", "approval.decided"]


def test_an_approval_is_shown_whole_before_one_votes(waiting: str, folder: Path, cli: Run) -> None:
    shown = cli("approvals", "show", waiting[:8], "--dir", folder).out
    for fact in ("to (steers it)  press@example.com", "because           mail needs a second look", "1 of finance"):
        assert fact in shown
    value = cli("approvals", "show", waiting, "--dir", folder, "-o", "json").json()
    assert value["action"]["action"]["properties"]["input"]["subject"] == "News"


def test_once_approved_the_same_request_is_decided_again_and_another_is_not(
    waiting: str, folder: Path, cli: Run, asking: Callable[..., Path]
) -> None:
    cli("approvals", "approve", waiting, "--as", "bob", "--dir", folder)
    assert cli("decide", asking("send_email"), "--dir", folder).code == 0
    assert cli("decide", asking("send_email", user="erin"), "--dir", folder).code == 4


def test_a_denial_ends_it(waiting: str, folder: Path, cli: Run) -> None:
    ran = cli("approvals", "deny", waiting, "--as", "carol", "--reason", "not now", "--dir", folder, "-o", "json")
    assert (ran.code, ran.json()["state"], ran.json()["missing"]) == (0, "denied", ["1 of finance"])
    assert cli("activity", "--dir", folder, "-o", "json").json()[0]["status"] == "denied"
    assert "denied (not now)" in cli("approvals", "show", waiting, "--dir", folder).out


def test_an_edit_is_asked_about_anew(waiting: str, folder: Path, cli: Run, asking: Callable[..., Path]) -> None:
    ran = cli("approvals", "edit", waiting, "--as", "bob", "--set", "to=one@example.com", "--dir", folder, "-o", "json")
    after = ran.json()
    assert (ran.code, after["edits"], after["edited_by"]) == (0, waiting, ["bob"])
    assert after["action"]["action"]["properties"]["input"]["to"] == "one@example.com"
    shown = cli("approvals", "show", after["id"], "--dir", folder).out
    assert "one@example.com (was press@example.com)" in shown
    assert cli("approvals", "approve", after["id"], "--as", "bob", "--dir", folder).code == 1
    assert cli("approvals", "approve", after["id"], "--as", "carol", "--dir", folder).code == 0
    assert cli("decide", asking("send_email"), "--dir", folder).code == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "to"], "`to` sets nothing"),
        (["--unset", "cc"], "there is no argument `cc`"),
        (["--set", "to=press@example.com"], "the edit changes nothing"),
        (["--unset", "to"], "the argument `to` is missing"),
        (["--set", "cc=1"], "the argument `cc` is not declared"),
        (["--input", "/nowhere.json"], "`/nowhere.json`: no such file"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(
    options: list[str], words: str, waiting: str, folder: Path, cli: Run
) -> None:
    ran = cli("approvals", "edit", waiting, "--as", "bob", *options, "--dir", folder)
    assert (ran.code in (1, 2), ran.out) == (True, "")
    assert words in ran.err
    assert cli("approvals", "show", waiting, "--dir", folder, "-o", "json").json()["state"] == "pending"


def test_a_vote_on_what_one_did_not_see_is_refused(waiting: str, folder: Path, cli: Run) -> None:
    seen = cli("approvals", "show", waiting, "--dir", folder, "-o", "json").json()["action_hash"]
    ran = cli("approvals", "approve", waiting, "--as", "bob", "--hash", "0" * 64, "--dir", folder)
    assert (ran.code, "another version of this action" in ran.err) == (1, True)
    assert cli("approvals", "approve", waiting, "--as", "bob", "--hash", seen[:4], "--dir", folder).code == 1
    assert cli("approvals", "approve", waiting, "--as", "bob", "--hash", seen[:12], "--dir", folder).code == 0


@pytest.mark.parametrize(
    ("person", "code", "words"),
    [
        ("dave", 1, "`dave` holds none of the roles that are asked for: finance"),
        ("erin", 1, "`erin` asked for this action and cannot vote on it"),
        ("mallory", 2, "`mallory` is not among the people of this deployment"),
    ],
)
def test_who_may_not_vote_is_told_why(
    person: str, code: int, words: str, folder: Path, cli: Run, asking: Callable[..., Path]
) -> None:
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + '\n[people.dave]\nroles = ["staff"]\n[people.erin]\nroles = ["finance"]\n')
    id = cli("decide", asking("send_email", user="erin"), "--dir", folder).json()["context"]["access_request"]["id"]
    ran = cli("approvals", "approve", id, "--as", person, "--dir", folder)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith(f"error: {words}\nhint: ")
    assert cli("approvals", "show", id, "--dir", folder, "-o", "json").json()["state"] == "pending"
    assert ("approval.vote_refused" in kinds(cli, folder)) is (code == 1)


def test_one_person_counts_once(folder: Path, cli: Run, asking: Callable[..., Path]) -> None:
    policies = folder / "policies/main.cedar"
    policies.write_text(policies.read_text().replace("1 of finance", "2 of finance"))
    id = cli("decide", asking("send_email"), "--dir", folder).json()["context"]["access_request"]["id"]
    first = cli("approvals", "approve", id, "--as", "bob", "--dir", folder)
    assert "has your vote; still needed: 1 of finance" in first.err
    again = cli("approvals", "approve", id, "--as", "bob", "--dir", folder)
    assert (again.code, again.err) == (1, "error: `bob` has voted already\nhint: one person, one vote\n")
    assert cli("approvals", "approve", id, "--as", "carol", "--dir", folder).code == 0
    late = cli("approvals", "deny", id, "--as", "bob", "--dir", folder)
    assert late.code == 1
    assert f"error: approval `{id}` is approved, no longer pending" in late.err


def test_who_goes_away_gives_their_vote_to_somebody_and_takes_it_back(waiting: str, folder: Path, cli: Run) -> None:
    config = folder / "checkrein.toml"
    config.write_text(config.read_text() + "\n[people.dave]\n")
    assert "nobody stands in" in cli("approvals", "delegate", "--dir", folder).err
    given = cli("approvals", "delegate", "dave", "--as", "bob", "--until", "2999-12-31", "--dir", folder)
    assert "longer than 366 days" in given.err
    until = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)).date().isoformat()
    assert cli("approvals", "delegate", "dave", "--as", "bob", "--until", until, "--dir", folder).code == 0
    (row,) = cli("approvals", "delegate", "--dir", folder, "-o", "json").json()
    assert (row["person"], row["delegate"], row["by"]) == ("bob", "dave", "bob")
    assert "bob, carol, dave for bob" in cli("approvals", "show", waiting, "--dir", folder).out
    assert cli("approvals", "delegate", "--as", "bob", "--end", "--dir", folder).code == 0
    ran = cli("approvals", "approve", waiting, "--as", "dave", "--for", "bob", "--dir", folder)
    assert (ran.code, "`dave` does not stand in for `bob`" in ran.err) == (1, True)


def test_an_absence_is_listed_and_its_delegate_votes(waiting: str, folder: Path, cli: Run) -> None:
    config = folder / "checkrein.toml"
    away = 'roles = ["finance"]\ndelegate = "dave"\naway = ["2020-01-01..2999-12-31"]\n[people.dave]'
    config.write_text(config.read_text().replace('roles = ["finance"]', away, 1))
    (row,) = cli("approvals", "delegate", "--dir", folder, "-o", "json").json()
    assert (row["person"], row["delegate"], row["by"]) == ("bob", "dave", "checkrein.toml")
    ran = cli("approvals", "approve", waiting, "--as", "dave", "--dir", folder)
    assert "is approved" in ran.err
    assert "vote of dave for bob" in cli("approvals", "show", waiting, "--dir", folder).out


def test_a_grant_is_given_listed_used_and_revoked(folder: Path, cli: Run, asking: Callable[..., Path]) -> None:
    policies = folder / "policies/main.cedar"
    text = policies.read_text().replace('@expires("1h")', '@expires("1h") @grant("max 1h, 5 uses, same to, even red")')
    policies.write_text(text)
    mail = asking("send_email")
    id = cli("decide", mail, "--dir", folder).json()["context"]["access_request"]["id"]
    assert "max 1h, 5 uses, same to, even red" in cli("approvals", "show", id, "--dir", folder).out
    wide = cli("approvals", "approve", id, "--as", "bob", "--grant-uses", "6", "--dir", folder)
    assert (wide.code, "no more than `max 1h, 5 uses" in wide.err) == (1, True)
    ran = cli("approvals", "approve", id, "--as", "bob", "--grant", "--grant-for", "30m", "--dir", folder, "-o", "json")
    grant = ran.json()["grant"]
    assert f"{grant} lets the like run again: max 30m, 5 uses" in ran.err
    assert [cli("decide", mail, "--dir", folder).code for _ in range(2)] == [0, 0]
    (row,) = cli("approvals", "grants", "--dir", folder, "-o", "json").json()
    assert (row["id"], row["left"], row["same"]) == (grant, 4, {"to": "press@example.com"})
    assert "to=press@example.com" in cli("approvals", "grants", "--dir", folder).out
    revoked = cli("approvals", "revoke", grant[:8], "--as", "carol", "--dir", folder)
    assert (revoked.code, "used 1 of 5 times" in revoked.err) == (0, True)
    assert "no grant lives" in cli("approvals", "grants", "--dir", folder).err
    assert "revoked" in cli("approvals", "grants", "--all", "--dir", folder).out
    assert cli("decide", mail, "--dir", folder).code == 4


def test_where_policy_lets_nobody_grant_a_grant_is_refused(waiting: str, folder: Path, cli: Run) -> None:
    ran = cli("approvals", "approve", waiting, "--as", "bob", "--grant", "--dir", folder)
    assert (ran.code, "policy lets nobody grant this" in ran.err) == (1, True)
    assert kinds(cli, folder)[-1] == "approval.vote_refused"


def test_a_broken_glass_is_listed_until_somebody_else_signs(waiting: str, folder: Path, cli: Run) -> None:
    config = folder / "checkrein.toml"
    text = 'approvals.break_glass = "commander"\n' + config.read_text()
    config.write_text(text + '\n[people.dora]\nroles = ["commander"]\n')
    assert "no review is open" in cli("approvals", "reviews", "--dir", folder).err
    bare = cli("approvals", "break-glass", waiting, "--as", "dora", "--dir", folder)
    assert (bare.code, "needs a reason" in bare.err) == (1, True)
    ran = cli("approvals", "break-glass", waiting, "--as", "dora", "--reason", "plant 3", "--dir", folder)
    assert (ran.code, "somebody else must sign" in ran.err) == (0, True)
    assert "by dora: plant 3" in cli("approvals", "show", waiting, "--dir", folder).out
    assert "1 broken glass to review" in cli("approvals", "list", "--dir", folder).err
    (row,) = cli("approvals", "reviews", "--dir", folder, "-o", "json").json()
    assert (row["approval"], row["broken_by"], row["reason"]) == (waiting, "dora", "plant 3")
    assert cli("approvals", "sign", waiting, "--as", "dora", "--reason", "ok", "--dir", folder).code == 1
    assert cli("approvals", "sign", waiting, "--as", "carol", "--reason", "was right", "--dir", folder).code == 0
    assert "broken glass" not in cli("approvals", "list", "--dir", folder).err
    assert "was right" in cli("approvals", "reviews", "--all", "--dir", folder).out
    assert "dora (broke the glass)" in cli("activity", "--dir", folder, "-o", "json").out


def test_requests_of_one_shape_are_a_line_of_a_group(folder: Path, cli: Run, asking: Callable[..., Path]) -> None:
    ids = {
        str(cli("decide", asking("send_email", user=user), "--dir", folder).json()["context"]["access_request"]["id"])
        for user in ("alice", "erin")
    }
    (group,) = cli("approvals", "list", "--group", "--dir", folder, "-o", "json").json()
    assert (group["count"], group["action"], group["policies"], set(group["ids"])) == (
        2,
        "send_email",
        ["mail-review"],
        ids,
    )
    shown = cli("approvals", "list", "--group", "--dir", folder).out
    assert "alice, erin" in shown
    assert all(id in shown for id in ids)


def test_what_asks_and_what_it_rests_on_is_shown(waiting: str, folder: Path, cli: Run) -> None:
    shown = cli("approvals", "show", waiting, "--dir", folder).out
    assert "mail-review (policies/main.cedar:" in shown
    assert "of comms)" in shown
    assert "tool:send_email" in shown
    policies = folder / "policies/main.cedar"
    policies.write_text(policies.read_text().replace("agents move no money", "no"))
    assert "(not the ones that decide now)" in cli("approvals", "show", waiting, "--dir", folder).out


def test_who_watches_one_learns_how_it_ended(waiting: str, folder: Path, cli: Run) -> None:
    still = cli("approvals", "watch", waiting, "--for", "1s", "--dir", folder)
    assert (still.code, "is pending; still needed: 1 of finance" in still.err) == (4, True)
    cli("approvals", "approve", waiting, "--as", "bob", "--dir", folder)
    ended = cli("approvals", "watch", waiting, "--dir", folder, "-o", "json")
    assert (ended.code, ended.json()["state"]) == (0, "approved")


def test_who_watches_one_that_is_denied_or_edited_learns_that(waiting: str, folder: Path, cli: Run) -> None:
    edited = cli("approvals", "edit", waiting, "--as", "bob", "--set", "to=a", "--dir", folder, "-o", "json").json()
    cli("approvals", "deny", edited["id"], "--as", "carol", "--dir", folder)
    ended = cli("approvals", "watch", waiting, "--dir", folder)
    assert (ended.code, f"{edited['id']} is denied" in ended.err) == (3, True)


def test_who_watches_all_sees_each_event_of_any_process_until_ctrl_c(waiting: str, folder: Path, cli: Run) -> None:
    command = [sys.executable, "-m", "checkrein", "approvals", "watch", "--dir", str(folder), "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen: list[dict[str, Any]] = []
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            reader = iter(process.stdout.readline, "")
            voter = "bob"
            while not seen:  # it listens from some moment on: refused votes until it has heard one
                cli("approvals", "approve", waiting, "--as", voter, "--hash", "0" * 64, "--dir", folder)
                if select.select([process.stdout], [], [], 0.5)[0]:
                    seen.append(json.loads(next(reader)))
            cli("approvals", "approve", waiting, "--as", voter, "--dir", folder)
            while seen[-1]["kind"] != "approval.decided":
                seen.append(json.loads(next(reader)))
        finally:
            watchdog.cancel()
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert [event["kind"] for event in seen[-2:]] == ["approval.voted", "approval.decided"]
    assert {event["approval"]["id"] for event in seen} == {waiting}
