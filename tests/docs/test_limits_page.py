"""What docs/limits.md shows is what works."""

from __future__ import annotations

import re
from pathlib import Path

from checkrein import config
from checkrein.compose import quotas, run_cases, tariff
from checkrein.flow.quota import Price, Quota
from checkrein.model.target import Target

PAGE = (Path(__file__).parents[2] / "docs/limits.md").read_text()
PERMIT = '@id("all") @owner("tests") @reason("anyone may") permit (principal, action, resource);\n'
TOOLS = "tools: {send_email: {effects: [external], input: {to: string}}}\n"


def block(language: str) -> str:
    (found,) = re.findall(rf"(?s)```{language}\n(.*?)```", PAGE)
    return found


def test_the_configuration_shown_is_read_as_the_page_says(tmp_path: Path):
    (tmp_path / "checkrein.toml").write_text(block("toml"))
    given = config.load(tmp_path, environ={}).config
    found = quotas(given)
    assert found[Target.parse("everything")] == Quota(spend_per_day=1_000 * 10**9)
    assert found[Target.parse("agent", "billing-*")].spend_per_day == 20 * 10**9
    prices = tariff(given.upstreams["openai"])
    assert prices.of("gpt-4o") == Price(2_500_000, 10_000_000)
    assert prices.of("gpt-4o-mini-2024") == Price(150_000, 600_000)


def test_the_policies_shown_load_and_their_test_passes(tmp_path: Path):
    for name, text in (
        ("checkrein.toml", ""),
        ("tools.yaml", TOOLS),
        ("policies/page.cedar", PERMIT + block("cedar")),
        ("tests/page.yaml", block("yaml")),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (result,) = run_cases(tmp_path)
    assert result.failures == ()
