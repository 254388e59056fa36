"""The plugin's rules, run by the Node that runs the gateway: `governor.test.mjs`."""

from __future__ import annotations

import os
import subprocess
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.openclaw


def test_the_rules_of_the_plugin_hold(runtime: Any) -> None:
    script = Path(__file__).with_name("governor.test.mjs")
    with as_file(files("checkrein") / "integrations" / "openclaw" / "plugin") as plugin:
        env = {"PATH": os.environ["PATH"], "PLUGIN": str(plugin)}
        command = [runtime.node, "--test", "--test-reporter=tap", script]
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert "# fail 0" in ran.stdout
    assert "# pass 0" not in ran.stdout
