"""How long a drift report takes on 100,000 recorded decisions, and how often it is wrong or notices.

Timed: a real store, from its records to the report, beside the same five comparisons with scipy one by one on arrays
that are there already. Simulated: golden sets drawn from 40 tools (Zipf) beside 10,000 actions of production, of one
world and of one with five points more of the rarest tool. `ours` is the one question about tools, `report` all seven,
corrected.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from checkrein.compose import SystemClock
from checkrein.flow.drift import Acted, Seen, judge
from checkrein.flow.limits import DriftLimits
from checkrein.ledger import Draft
from checkrein.ports import Unit
from checkrein.services import seen
from checkrein.services.ids import noise
from checkrein.stats import shift
from checkrein.storage.sqlite import SqliteStore

RECORDS, GOLDEN, BATCH = 100_000, 2_000, 1_000
SIZES, REPEATS, PRODUCTION, ALPHA = (100, 200, 500, 1000, 2000), 200, 10_000, 0.01
TOOLS = [f"tool{at}" for at in range(40)]
ZIPF = 1 / np.arange(1, 41) / (1 / np.arange(1, 41)).sum()
SHIFTED = np.append(ZIPF[:-1] * 0.95, ZIPF[-1] * 0.95 + 0.05)


def main() -> None:
    print(f"{RECORDS:,} decisions of production beside {GOLDEN:,} golden cases\n")
    draw = random.Random(1)
    production, golden = ([_acted(draw) for _ in range(count)] for count in (RECORDS, GOLDEN))
    with tempfile.TemporaryDirectory() as folder:
        store = _store(Path(folder), production)
        try:
            _time(store, golden, production)
        finally:
            store.close()
    _simulate()


def _acted(draw: random.Random) -> Acted:
    tool = draw.choices(TOOLS, ZIPF.tolist())[0]
    outcome = draw.choices(["allow", "require_review", "deny"], [90, 5, 5])[0]
    target = f"tool/{int(draw.paretovariate(0.7)) % 3000}"
    return Acted(tool, target, draw.choice(["green", "amber", "red"]), outcome, 40 + int(draw.expovariate(1 / 200)))


def _store(folder: Path, actions: Sequence[Acted]) -> SqliteStore:
    store = SqliteStore(folder, SystemClock(), randomness=noise)
    drafts = [_draft(number, acted) for number, acted in enumerate(actions)]
    for written in [store.commit(Unit(tuple(drafts[at : at + BATCH]))) for at in range(0, len(drafts), BATCH)]:
        written.result()
    return store


def _draft(number: int, acted: Acted) -> Draft:
    """A decision as the gateway records it."""
    kind, _, target = acted.target.partition("/")
    body: dict[str, object] = {
        "actor": {"type": "user", "id": f"user{number % 97}", "agent": f"bot{number % 7}"},
        "action": {"name": acted.action, "resource": {"type": kind, "id": target}},
        "input_hmac": f"{number:064x}",
        "input_bytes": acted.size,
        "caller": "key_1",
        "mode": "run",
        "decision": {
            "evaluation_id": f"evl_{number:032x}",
            "outcome": acted.outcome,
            "reasons": ["staff may use the tools of their team"],
            "policies": ["use-tools"],
            "errors": [],
            "risk": {"level": acted.risk, "score": 12, "factors": ["external"]},
            "labels": ["tool:send_email", "effect:external"],
            "bundle": f"sha256:{'cd' * 32}",
            "arm": "stable",
            "latency_us": 41,
        },
        "redactions": {},
        "approval": {"id": ""},
        "payload": {"id": f"evl_{number:032x}.request", "alg": "A256GCM", "hmac": "ab" * 32},
    }
    return Draft("decision", f"{number:032x}", body)


def _counted(actions: Sequence[Acted]) -> Seen:
    found = Seen()
    for acted in actions:
        found.add(acted)
    return found


def _time(store: SqliteStore, golden: Sequence[Acted], production: Sequence[Acted]) -> None:
    known = _counted(golden)
    read = _best(lambda: seen.counted(seen.production(store)))
    counted = seen.counted(seen.production(store))
    judged = _best(lambda: judge(known, counted, DriftLimits(), named="", since_us=0, until_us=0))
    alone = _best(lambda: _one_by_one(golden, production))
    print(f"{'read and count the records':<46} {read:8.1f} ms")
    print(f"{'compare and correct (7 questions)':<46} {judged:8.1f} ms")
    print(f"{'together':<46} {read + judged:8.1f} ms")
    print(f"{'scipy one by one, without reading (5 of them)':<46} {alone:8.1f} ms\n")


def _one_by_one(golden: Sequence[Acted], production: Sequence[Acted]) -> None:
    for name in ("action", "target", "risk", "outcome"):
        one, other = (np.array([getattr(acted, name) for acted in side]) for side in (golden, production))
        values = np.unique(np.concatenate([one, other]))
        table = [np.bincount(np.searchsorted(values, side), minlength=len(values)) for side in (one, other)]
        stats.chi2_contingency(np.array(table), correction=False)
    stats.ks_2samp([acted.size for acted in golden], [acted.size for acted in production], method="asymp")


def _best(run: Callable[[], object]) -> float:
    took = []
    for _ in range(3):
        begun = time.perf_counter()
        run()
        took.append((time.perf_counter() - begun) * 1000)
    return min(took)


def _simulate() -> None:
    print(f"{REPEATS} golden sets a row: how often each rule alarms where nothing has changed, and where one rare tool")
    print("has five points more (what a rule that always cries notices is nothing)\n")
    rules = ("PSI > 0.1", "PSI > 0.25", "chi-square", "ours", "report")
    heads = " ".join(f"{rule:>10}" for rule in rules)
    print(f"{'':>7} {'false alarms':<{len(heads)}}   noticed\n{'golden':>7} {heads}   {heads}")
    for size in SIZES:
        generator = np.random.default_rng(size)
        cells = []
        for shares in (ZIPF, SHIFTED):
            hits = np.mean([_alarms(generator, size, shares, at) for at in range(REPEATS)], axis=0)
            cells.append(" ".join(f"{share:>10.2f}" for share in hits))
        print(f"{size:>7} " + "   ".join(cells), flush=True)


def _alarms(generator: np.random.Generator, size: int, shares: np.ndarray, seed: int) -> list[bool]:
    """Whether each rule alarms: fixed limits on PSI, chi-square alone, the question about tools, the whole report."""
    golden, production = (
        dict(zip(TOOLS, generator.multinomial(count, p).tolist(), strict=True))
        for count, p in ((size, ZIPF), (PRODUCTION, shares))
    )
    found = shift.categories(golden, production, alpha=ALPHA, seed=seed)
    raw = shift.psi([(golden[tool], production[tool]) for tool in TOOLS])
    chi = shift.chi_square(shift.merged(golden, production))[1] <= ALPHA
    one, other = (_world(generator, actions) for actions in (golden, production))
    report = judge(one, other, DriftLimits(), named="", since_us=0, until_us=0)
    ours = found.shift.p <= ALPHA and found.shift.beyond >= DriftLimits().floor
    return [raw > 0.1, raw > 0.25, chi, ours, bool(report.shifted)]


def _world(generator: np.random.Generator, actions: dict[str, int]) -> Seen:
    """These actions, with all else drawn from one and the same world."""
    count = sum(actions.values())
    targets = np.unique(generator.zipf(1.7, count), return_counts=True)
    sizes = np.unique(40 + generator.exponential(200, count).astype(int), return_counts=True)
    levels, outcomes = generator.multinomial(count, [0.7, 0.2, 0.1]), generator.multinomial(count, [0.95, 0.05])
    return Seen(
        actions=Counter({name: many for name, many in actions.items() if many}),
        targets=Counter({f"tool/{name}": int(many) for name, many in zip(*targets, strict=True)}),
        risks=Counter(dict(zip(("green", "amber", "red"), levels.tolist(), strict=True))),
        outcomes=Counter(dict(zip(("allow", "deny"), outcomes.tolist(), strict=True))),
        sizes=Counter({int(size): int(many) for size, many in zip(*sizes, strict=True)}),
    )
