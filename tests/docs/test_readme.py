"""What the README and the examples say is executed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from checkrein.defaults import contents
from checkrein.policy.bundle import Bundle

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(kind: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The `$ checkrein ...` lines, without their comments, in order."""
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line[2:].split("  #")[0].strip() for line in lines if line.startswith("$ checkrein ")]


def checkrein(command: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    arguments = shlex.split(command)[1:]
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"NO_COLOR": "1", **more}
    return subprocess.run(
        [sys.executable, "-m", "checkrein", *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=60
    )


def test_the_readme_is_short():
    assert len(README.splitlines()) < 200


def test_the_readme_names_both_words():
    assert "$ make demo" in README
    assert "$ make test" in README
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{word}:", makefile, flags=re.MULTILINE) for word in ("demo", "test", "check", "bench"))


def test_every_command_of_the_readme_works_as_printed(tmp_path: Path):
    said = commands()
    assert len(said) >= 9
    for command in said:
        if command.startswith("checkrein serve"):
            serve(command, tmp_path)
        elif "apr_..." in command:
            approve(command, tmp_path)
        else:
            done = checkrein(command, tmp_path)
            if command.startswith("checkrein doctor"):
                # the credential that the README names is not here, and doctor must say so
                assert "`OPENAI_API_KEY` is not set" in " ".join(done.stdout.split())
                continue
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            assert "Traceback" not in done.stderr
        if command.startswith("checkrein keys create"):
            (upstream,) = blocks("toml")
            with (tmp_path / "governance/checkrein.toml").open("a") as file:
                file.write("\n" + upstream)


def serve(command: str, cwd: Path) -> None:
    env = {**os.environ, "OPENAI_API_KEY": "sk-not-used"}
    arguments = [*shlex.split(command)[1:], "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "checkrein", *arguments], cwd=cwd, env=env, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr:
        said = process.stderr.readline()
        assert said.startswith("upstream `default`: https://")
        assert "listening on http://127.0.0.1:" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def approve(command: str, cwd: Path) -> None:
    """The command with the id of a request that really waits."""
    (cwd / "request.json").write_text(
        '{"subject":{"type":"user","id":"alice","properties":{"roles":["staff"]}},'
        '"action":{"name":"query_customers","properties":{"input":{"query":"all"}}},'
        '"resource":{"type":"tool","id":"query_customers"}}'
    )
    waiting = checkrein("checkrein decide request.json --dir governance", cwd)
    assert waiting.returncode == 4, waiting.stderr
    (id,) = re.findall(r"apr_[0-9a-f]{16}", waiting.stdout)
    done = checkrein(command.replace("apr_...", id), cwd)
    assert done.returncode == 0, done.stderr
    assert checkrein("checkrein decide request.json --dir governance", cwd).returncode == 0


def test_the_python_of_the_readme_runs(tmp_path: Path):
    assert checkrein("checkrein init governance", tmp_path).returncode == 0
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "ALLOW green ('staff-reads',)" in done.stdout
    assert "ask 1 of communications about apr_" in done.stdout


@pytest.mark.parametrize("text", [README, (ROOT / "docs/policies.md").read_text()], ids=["README", "policies"])
def test_the_policies_and_manifests_shown_load_strictly(text: str):
    files = {"tools.yaml": contents()["tools.yaml"]}
    for index, block in enumerate(blocks("cedar", text)):
        files[f"policies/{index}.cedar"] = block.encode()
    for index, block in enumerate(blocks("yaml", text)):
        files["tools.yaml" if block.startswith("tools:") else f"tests/{index}.yaml"] = block.encode()
    if not blocks("cedar", text):
        files |= {name: data for name, data in contents().items() if name.startswith("policies/")}
    assert Bundle.from_files(files).warnings == ()


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_every_example_runs(example: Path, tmp_path: Path):
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not list(tmp_path.iterdir())


def test_every_relative_link_of_the_documents_leads_somewhere():
    documents = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for document in documents:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_setting_is_documented():
    from checkrein.config import SECTIONS

    told = (ROOT / "docs/operations.md").read_text()
    for section, kind in SECTIONS.items():
        for field in kind.__struct_fields__:
            assert f"`{section}.{field}`" in told
