"""Latency of policy evaluation at 10, 100, 1,000 and 10,000 policies: Python dict in, outcome and policy ids out.

One generated `workload` for every engine. Beside ours, in the same run: `cedarpy`, the official engine, with its
policies and entities parsed beforehand; and `agent-governance-toolkit-core` in an environment of its own (`toolkit`),
with what it can say of the same rules. Every engine's answers are first held against a naive reading of the rules.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import cedarpy

from benchmarks import toolkit
from benchmarks.workload import Asked, Workload, naive, naive_cedar
from checkrein.policy.engine import PolicyResult, PolicySet
from checkrein.policy.entities import Entities

SIZES = (10, 100, 1_000, 10_000)
#: requests that are timed; a linear engine needs 70 ms for one at 10,000 policies
OURS = 4_000
CEDARPY = {10: 1_000, 100: 1_000, 1_000: 400, 10_000: 60}
TOOLKIT = {10: 400, 100: 200, 1_000: 60, 10_000: 20}
CHECKED = 100

#: p50 and p99 in microseconds
Figures = tuple[float, float]


def main() -> None:
    print("microseconds a request; `x` is how many times ours with a list of entities\n")
    print(f"{'policies':>8}  {'engine':<54}{'requests':>8}{'p50':>10}{'p99':>10}{'x p50':>8}{'x p99':>8}")
    share = 0.0
    for size in SIZES:
        workload = Workload(size, OURS)
        yardstick = _ours(size, workload)
        _cedarpy(size, workload, yardstick)
        share = _toolkit(size, workload, yardstick)
    print(
        "\nours and cedarpy: outcome and ids of 100 requests a size equal a naive reading of the rules (cedarpy reads a"
        "\nreview or a redaction as a forbid). list: the user, the action and the tool come with each request; handle:"
        "\nall entities of the deployment, parsed once."
    )
    if share:
        print(
            f"toolkit: agent-governance-toolkit-core 5 has no text patterns, so it was asked only {share:.0%} of the"
            "\nconditions, and no redaction, which was said as a deny; `scopes alone`: one condition a rule, its scope."
            "\nEvery answer (allow, deny, review) equals a naive reading of what was asked; it names one rule, not all."
        )


def _ours(size: int, workload: Workload) -> Figures:
    begun = time.perf_counter()
    policies = PolicySet.from_cedar("\n".join(rule.cedar() for rule in workload.rules))
    took = time.perf_counter() - begun
    assert not policies.not_compiled
    handle = Entities.from_json(workload.entities())
    for asked in workload.asked[:CHECKED]:
        listed = policies.evaluate(**asked.arguments, entities=asked.entities)
        assert (listed.outcome, list(listed.determining)) == naive(workload.rules, asked)
        assert listed == policies.evaluate(**asked.arguments, entities=handle)

    def calls(entities: Callable[[Asked], Any]) -> list[Callable[[], PolicyResult]]:
        return [_call(policies, asked.arguments, entities(asked)) for asked in workload.asked]

    yardstick = _row(size, f"ours, list of 3 entities (load {took:.1f} s)", calls(lambda asked: asked.entities))
    _row(size, "ours, Entities handle", calls(lambda asked: handle), yardstick)
    return yardstick


def _call(policies: PolicySet, arguments: dict[str, Any], entities: Any) -> Callable[[], PolicyResult]:
    principal, action, resource, context = arguments.values()
    evaluate = policies.evaluate
    return lambda: evaluate(principal, action, resource, context, entities)


def _cedarpy(size: int, workload: Workload, yardstick: Figures) -> None:
    policies = cedarpy.PolicySet.from_str("\n".join(rule.cedar() for rule in workload.rules))
    handle = cedarpy.Entities.from_json_str(json.dumps(workload.entities()))
    asked = workload.asked[: CEDARPY[size]]
    for one in asked[:CHECKED]:
        result = cedarpy.is_authorized(one.arguments, policies, handle)
        ids = sorted(result.diagnostics.id_annotations_by_reason[reason] for reason in result.diagnostics.reasons)
        assert (result.decision is cedarpy.Decision.Allow, ids) == naive_cedar(workload.rules, one)
    calls = [_official(one.arguments, policies, handle) for one in asked]
    _row(size, f"cedarpy {_version()}, PolicySet and Entities handles", calls, yardstick)


def _official(arguments: dict[str, Any], policies: Any, entities: Any) -> Callable[[], object]:
    return lambda: cedarpy.is_authorized(arguments, policies, entities)


def _version() -> str:
    from importlib.metadata import version

    return version("cedarpy")


def _toolkit(size: int, workload: Workload, yardstick: Figures) -> float:
    """Returns the share of the conditions that it was asked."""
    if not toolkit.PYTHON.exists():
        print(f"{size:>8,}  agent-governance-toolkit-core is not installed; `make bench` does that")
        return 0.0
    taken, share = toolkit.run(workload.rules, workload.asked[: TOOLKIT[size]])
    for name, each in taken.items():
        _print(size, f"toolkit 5, {name}", each, yardstick)
    return share


def _row(size: int, name: str, calls: Sequence[Callable[[], object]], yardstick: Figures | None = None) -> Figures:
    """Time every call once, after some to warm up."""
    for call in calls[:50]:
        call()
    gc.collect()
    taken = []
    for call in calls:
        begun = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - begun) / 1_000)
    return _print(size, name, taken, yardstick)


def _print(size: int, name: str, taken: list[float], yardstick: Figures | None) -> Figures:
    taken.sort()
    p50, p99 = statistics.median(taken), taken[int(len(taken) * 0.99)]
    ratios = f"{p50 / yardstick[0]:>8.1f}{p99 / yardstick[1]:>8.1f}" if yardstick else ""
    print(f"{size:>8,}  {name:<54}{len(taken):>8,}{p50:>10,.1f}{p99:>10,.1f}{ratios}", flush=True)
    return p50, p99


if __name__ == "__main__":
    main()
