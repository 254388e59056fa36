"""`checkrein metrics`: measures beside targets, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_nothing_is_met_before_anything_happened(cli: Run, folder: Path):
    found = cli("metrics", "--dir", folder, "-o", "json").json()
    assert {each["standing"] for each in found["measures"]} == {"no data"}
    assert {each["value"] for each in found["measures"]} == {None}


def test_each_measure_stands_beside_its_target_with_how_it_was_counted(
    cli: Run, folder: Path, asking: Callable[..., Path]
):
    (folder / "golden").mkdir()
    case = asking().read_text().replace("\n", "")
    (folder / "golden/cases.jsonl").write_text(f'{{"request": {case}, "expect": "ALLOW"}}\n')
    for action in ("read_file", "read_file", "send_email", "transfer_funds"):
        cli("decide", asking(action), "--dir", folder)
    ran = cli("metrics", "--dir", folder)
    assert ran.code == 0
    lines = {line.split("  ")[0]: line for line in ran.out.splitlines()}
    assert lines["denial rate"].split()[2:9] == ["<", "0.1", "%", "0", "%", "met", "0"]
    assert lines["review load"].split()[2:5] == ["50", "no", "target"]
    assert lines["gate pass rate"].split()[3:8] == [">", "95", "%", "no", "data"]
    assert "decision            deny            red    1" in ran.out


def test_a_target_that_is_missed_says_so(cli: Run, folder: Path, asking: Callable[..., Path]):
    with (folder / "checkrein.toml").open("a") as file:
        file.write("\n[targets]\nreview_load = 1\ndecision_ms = 0.000001\n")
    cli("decide", asking("send_email"), "--dir", folder)
    found = {each["name"]: each for each in cli("metrics", "--dir", folder, "-o", "json").json()["measures"]}
    assert (found["review_load"]["value"], found["review_load"]["standing"]) == (100, "missed")
    assert found["decision_latency_p99"]["standing"] == "missed"


def test_only_what_happened_since_then_counts(cli: Run, folder: Path, asking: Callable[..., Path]):
    cli("decide", asking(), "--dir", folder)
    assert cli("metrics", "--dir", folder, "--since", "1h", "-o", "json").json()["counts"]
    assert cli("metrics", "--dir", folder, "--since", "2999-01-01", "-o", "json").json()["counts"] == []
    assert cli("metrics", "--dir", folder, "--since", "soon").code == 2


def test_a_target_that_is_none_is_refused(cli: Run, folder: Path):
    for line, told in (("denial_rate = 2.0", "is not from 0 to 1"), ('window = "soon"', "is not a length of time")):
        toml = folder / "checkrein.toml"
        before = toml.read_text()
        toml.write_text(f"{before}\n[targets]\n{line}\n")
        ran = cli("metrics", "--dir", folder)
        assert (ran.code, told in ran.err) == (2, True)
        toml.write_text(before)
