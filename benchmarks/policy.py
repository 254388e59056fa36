"""Evaluation of 10 to 10,000 policies, ours beside `cedarpy`, the official engine, on the same workload in one run.

Of the policies 70 % speak of one tool, 20 % of a group, 10 % of every action; 40 % ask for a role; each has one to
three conditions (thresholds, equality, labels). Both get a Python dict as context and entities parsed beforehand, and
give the outcome with the ids that made it. Ours must say ALLOW exactly where cedarpy says Allow: to cedarpy, which
knows no duties, every duty is a forbid.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import cedarpy

from checkrein.model import Outcome
from checkrein.policy.engine import PolicySet
from checkrein.policy.entities import Entities

_Policies = TypeVar("_Policies")
#: policies -> requests measured of ours, and of cedarpy
SIZES = {10: (2000, 1000), 100: (2000, 500), 1000: (2000, 100), 10_000: (500, 10)}
USER = {"type": "User", "id": "u"}
TARGET = {"type": "Tool", "id": "x"}
KINDS = (
    ("permit", "", 0.5),
    ("forbid", "", 0.2),
    ("forbid", '@outcome("require_review") @approvers("1 of a") ', 0.15),
    ("forbid", '@outcome("redact") @redact("pii") ', 0.15),
)


def main() -> None:
    print(f"{'policies':>9}{'load s':>8}{'ours p50':>10}{'p99 us':>8}{'cedarpy p50':>13}{'p99 us':>9}{'ratio':>7}")
    for count, (ours_rounds, theirs_rounds) in SIZES.items():
        rng = random.Random(count)
        tools = [f"tool{n}" for n in range(max(2, count // 5))]
        text = "\n".join(_policy(rng, tools, n) for n in range(count))
        begun = time.perf_counter()
        ours = PolicySet.from_cedar(text)
        load = time.perf_counter() - begun
        theirs = cedarpy.PolicySet.from_str(text)
        asked = [_asked(rng, tools) for _ in range(max(ours_rounds, theirs_rounds))]
        mine = [_time(_ours, ours, ask) for ask in asked[:ours_rounds]]
        other = [_time(_theirs, theirs, ask) for ask in asked[:theirs_rounds]]
        for ask in asked[: min(theirs_rounds, 50)]:
            allowed = _ours(ours, ask) is Outcome.ALLOW
            if allowed is not _theirs(theirs, ask):
                raise RuntimeError("the two engines disagree")
        a, b, c, d = statistics.median(mine), _p99(mine), statistics.median(other), _p99(other)
        print(f"{count:>9}{load:>8.2f}{a:>10.1f}{b:>8.1f}{c:>13.1f}{d:>9.1f}{c / a:>7.0f}")


def _policy(rng: random.Random, tools: list[str], number: int) -> str:
    which = rng.random()
    action = f'action == Action::"{rng.choice(tools)}"' if which < 0.7 else "action"
    action = 'action in Action::"external"' if 0.7 <= which < 0.9 else action
    principal = f'principal in Role::"r{rng.randrange(10)}"' if rng.random() < 0.4 else "principal"
    conditions = rng.sample(
        [
            f"context.amount > {rng.randrange(10_000)}",
            f'context.env == "{rng.choice(("prod", "dev"))}"',
            f'context.labels.contains("l{rng.randrange(6)}")',
            f"context.score >= {rng.randrange(100)}",
        ],
        rng.randint(1, 3),
    )
    effect, duty, _ = rng.choices(KINDS, [share for _, _, share in KINDS])[0]
    return f'@id("p{number}") {duty}{effect} ({principal}, {action}, resource) when {{ {" && ".join(conditions)} }};'


class Ask:
    """One request in both engines' forms, its entities parsed beforehand."""

    def __init__(self, tool: str, role: str, context: dict[str, object]) -> None:
        self.action = {"type": "Action", "id": tool}
        self.context = context
        listed = [
            {"uid": USER, "attrs": {}, "parents": [{"type": "Role", "id": role}]},
            {"uid": self.action, "attrs": {}, "parents": [{"type": "Action", "id": "external"}]},
        ]
        self.ours = Entities.from_json(listed)
        self.theirs = cedarpy.Entities.from_json_str(str(listed).replace("'", '"'))
        self.request = {"principal": USER, "action": self.action, "resource": TARGET, "context": context}


def _asked(rng: random.Random, tools: list[str]) -> Ask:
    labels = rng.sample([f"l{n}" for n in range(6)], 2)
    context = {"amount": rng.randrange(10_000), "env": "prod", "labels": labels, "score": rng.randrange(100)}
    return Ask(rng.choice(tools), f"r{rng.randrange(10)}", context)


def _ours(policies: PolicySet, ask: Ask) -> Outcome:
    return policies.evaluate(USER, ask.action, TARGET, ask.context, ask.ours).outcome


def _theirs(policies: cedarpy.PolicySet, ask: Ask) -> bool:
    return bool(cedarpy.is_authorized(ask.request, policies, ask.theirs).decision is cedarpy.Decision.Allow)


def _time(act: Callable[[_Policies, Ask], object], policies: _Policies, ask: Ask) -> float:
    begun = time.perf_counter_ns()
    act(policies, ask)
    return (time.perf_counter_ns() - begun) / 1000


def _p99(taken: list[float]) -> float:
    return sorted(taken)[int(len(taken) * 0.99)]
