"""Small folders, and one set of tools for all of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from checkrein.policy.bundle import Bundle

TOOLS = """
tools:
  pay:
    effects: [irreversible, external]
    input:
      {to: string, amount: integer, fee: number?, memo: string?, tags: array, codes: array<integer>, fast: boolean?}
    control: [to]
  look:
    effects: [read]
    input: {path: string, limit: integer?}
    labels: [personal]
  mail:
    effects: [external]
    input: {to: string, amount: number}
"""

Make = Callable[..., Bundle]


def annotated(policies: str) -> str:
    return policies.replace("@id(", '@owner("x") @reason("x") @id(')


@pytest.fixture(scope="session")
def bundle() -> Make:
    """A bundle of policies, with the tools above unless others are given."""

    def make(policies: str, tools: str = TOOLS) -> Bundle:
        return Bundle.from_files({"tools.yaml": tools.encode(), "policies/all.cedar": annotated(policies).encode()})

    return make
