"""How often a rollout is rolled back, and how soon: ours, and the rules that people write down first.

Simulated: 60 minutes at the first stage, a tenth of the traffic on the canary, errors of both arms drawn by chance. A
healthy canary should be left alone; a bad one should go back soon. `in a row` is the literal rule of five minutes
without a minimum count, `any window` the same rule on the sum of five minutes; ours is `flow.rollout.step`, with both
its literal rule (which counts only minutes with enough answers) and its sequential test.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

from checkrein.flow.rollout import MINUTE_US, Kind, Plan, Rollout, State, step
from checkrein.flow.window import Minute, Tally, Window

MINUTES, REPEATS, SHARE, LIMIT = 60, 100, 0.1, 0.01
#: requests a second, and the share of errors on the canary and on the stable arm
WORLDS = (
    (1, 0.005, 0.005),
    (1, 0.05, 0.005),
    (10, 0.005, 0.005),
    (10, 0.02, 0.005),
    (10, 0.05, 0.005),
    (100, 0.005, 0.005),
    (100, 0.01, 0.01),
    (100, 0.02, 0.005),
)
#: answers and errors of the canary, then of the stable arm, in one minute
Counted = tuple[int, int, int, int]


def main() -> None:
    print(
        f"{REPEATS} simulated rollouts a row: the share rolled back within {MINUTES} minutes, and the median minute\n"
    )
    print(f"{'req/s':>6} {'canary':>7} {'stable':>7}   {'any window':>16} {'in a row':>16} {'ours':>16}")
    for rate, canary, stable in WORLDS:
        drawn = [_draw(random.Random(seed), rate, canary, stable) for seed in range(REPEATS)]
        cells = [_told([rule(minutes) for minutes in drawn]) for rule in (_any_window, _in_a_row, _ours)]
        print(f"{rate:>6} {canary:>7.1%} {stable:>7.1%}   " + " ".join(f"{cell:>16}" for cell in cells), flush=True)
    print("\nwhere both are the same, every rollback is a false alarm; at 1.0 % both arms break the literal limit")


def _told(found: Sequence[int | None]) -> str:
    hits = [minute for minute in found if minute is not None]
    return f"{len(hits) / len(found):.2f}" + (f", {statistics.median(hits):.0f} min" if hits else "")


def _draw(draw: random.Random, rate: int, canary: float, stable: float) -> list[Counted]:
    minutes = []
    for _ in range(MINUTES):
        mine = _binomial(draw, rate * 60, SHARE)
        others = rate * 60 - mine
        minutes.append((mine, _binomial(draw, mine, canary), others, _binomial(draw, others, stable)))
    return minutes


def _binomial(draw: random.Random, count: int, share: float) -> int:
    """Exact for rare events by geometric gaps; else by the normal distribution, which is as good here."""
    if count * share > 200:
        return min(count, max(0, round(draw.gauss(count * share, math.sqrt(count * share * (1 - share))))))
    hits, at = 0, 0
    while share > 0:
        at += 1 + int(math.log(1 - draw.random()) / math.log1p(-share))
        if at > count:
            break
        hits += 1
    return hits


def _any_window(minutes: Sequence[Counted]) -> int | None:
    for end in range(5, len(minutes) + 1):
        window = minutes[end - 5 : end]
        answers = sum(minute[0] for minute in window)
        if answers and sum(minute[1] for minute in window) / answers > LIMIT:
            return end
    return None


def _in_a_row(minutes: Sequence[Counted]) -> int | None:
    row = 0
    for number, (answers, errors, *_) in enumerate(minutes, 1):
        row = row + 1 if answers and errors / answers > LIMIT else 0
        if row == 5:
            return number
    return None


def _ours(minutes: Sequence[Counted]) -> int | None:
    now = Rollout(
        id="rol_simulated",
        kind=Kind.UPSTREAM,
        stable="v1",
        canary="v2",
        plan=Plan(stage_count=10**9),  # it stays at its first stage
        state=State.LIVE,
        stage=1,
        verdict="gat_simulated",
        started_by="benchmark",
        created_us=0,
        stage_us=0,
    )
    for number, (mine, bad, others, worse) in enumerate(minutes, 1):
        canary = Tally(decided=mine, started=mine, ended=mine, errors=bad)
        stable = Tally(decided=others, started=others, ended=others, errors=worse)
        now, _ = step(now, Window((Minute(number, stable, canary),), number), number * MINUTE_US)
        if now.state is State.ROLLED_BACK:
            return number
    return None
