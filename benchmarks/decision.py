"""Latency of one decision in process: normalise, classify, evaluate the default policies, explain.

Beside it, in the same run, what `cedarpy` (the official engine) needs only to evaluate those policies, with its
policies and entities parsed beforehand. Ours does more: risk, detectors, duties and reasons.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import cedarpy

from checkrein.compose import SystemClock
from checkrein.decide.classify import Classifier
from checkrein.decide.context import Situation
from checkrein.decide.evaluate import evaluate
from checkrein.defaults import contents
from checkrein.model import Action, Request, Resource, Subject
from checkrein.policy.bundle import Bundle

ROUNDS = 2000
PROMPT = "Draft an email to finance asking for confirmation of the Q1 cloud budget."
STAFF = Subject("user", "demo", {"roles": ["staff"]})
REQUESTS = {
    "tool call, read": Request(
        STAFF, Action("read_file", {"input": {"path": "q3.csv"}}), Resource("tool", "read_file")
    ),
    "tool call, transfer": Request(
        Subject("user", "t", {"roles": ["treasury"]}),
        Action("transfer_funds", {"input": {"to": "ACME", "amount": 500}}),
        Resource("tool", "transfer_funds"),
    ),
    "prompt, 73 characters": Request(
        STAFF,
        Action("prompt", {"input": {"messages": [{"role": "user", "content": PROMPT}]}}),
        Resource("model", "m"),
    ),
    "prompt, 4 KB": Request(
        STAFF,
        Action("prompt", {"input": {"messages": [{"role": "user", "content": PROMPT * 56}]}}),
        Resource("model", "m"),
    ),
}


def main() -> None:
    files = contents()
    bundle = Bundle.from_files(files)
    classifier = Classifier(bundle.manifests)
    situation = Situation(now_us=SystemClock().now_us(), environment="production")
    print(f"{len(bundle.policies)} policies; microseconds, {ROUNDS} rounds\n")
    print(f"{'':<24}{'p50':>9}{'p99':>9}")
    for name, request in REQUESTS.items():
        show(name, lambda r=request: evaluate(r, bundle, situation, classifier=classifier))  # type: ignore[misc]
    text = "\n".join(data.decode() for path, data in files.items() if path.endswith(".cedar"))
    policies = cedarpy.PolicySet.from_str(text)
    entities = cedarpy.Entities.from_json_str('[{"uid":{"type":"User","id":"demo"},"attrs":{},"parents":[]}]')
    asked = {
        "principal": {"type": "User", "id": "demo"},
        "action": {"type": "Action", "id": "read_file"},
        "resource": {"type": "Tool", "id": "read_file"},
        "context": {"labels": ["effect:read"], "risk": {"level": "green", "score": 5}, "input": {"path": "q3.csv"}},
    }
    ours = show("ours, policies only", _policies_only(bundle))
    theirs = show("cedarpy, policies only", lambda: cedarpy.is_authorized(asked, policies, entities))
    print(f"\nratio cedarpy / ours, policies only, p50: {theirs / ours:.1f}")


def _policies_only(bundle: Bundle) -> Callable[[], object]:
    context = {"labels": ["effect:read"], "risk": {"level": "green", "score": 5}, "input": {"path": "q3.csv"}}
    entities = [{"uid": {"type": "User", "id": "demo"}, "attrs": {}, "parents": []}]
    return lambda: bundle.policies.evaluate(
        {"type": "User", "id": "demo"},
        {"type": "Action", "id": "read_file"},
        {"type": "Tool", "id": "read_file"},
        context,
        entities,
    )


def show(name: str, act: Callable[[], object]) -> float:
    """Print p50 and p99 in microseconds; returns p50."""
    for _ in range(50):
        act()
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter_ns()
        act()
        taken.append((time.perf_counter_ns() - begun) / 1000)
    taken.sort()
    p50, p99 = statistics.median(taken), taken[int(len(taken) * 0.99)]
    print(f"{name:<24}{p50:>9.1f}{p99:>9.1f}")
    return p50
