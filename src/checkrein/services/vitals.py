"""How a running system is right now: what waits, what was put aside, what does not answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from checkrein.ledger.checkpoint import Checkpoint
from checkrein.ports import Clock, Store
from checkrein.services.approvals import Approvals
from checkrein.services.arms import Arms
from checkrein.services.drift import Last, last
from checkrein.services.outbox import Deliveries
from checkrein.services.reconcile import Stand, stands


class Told(msgspec.Struct, frozen=True):
    """How far a webhook is. `waiting` counts records it was not told of yet, `put_aside` those it refused."""

    name: str
    waiting: int
    put_aside: int
    failing: bool


class Stage(msgspec.Struct, frozen=True):
    """The rollout that is under way."""

    id: str
    kind: str
    state: str
    percent: int


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """`unsigned` are records that no checkpoint covers yet; `failing` and `warnings` are those of `/readyz`."""

    records: int
    unsigned: int
    approvals_pending: int
    stage: Stage | None
    webhooks: tuple[Told, ...]
    failing: int
    warnings: int
    bundle: str
    drift: Last | None = None
    #: agent gateways, by name
    gateways: Mapping[str, Stand] = {}


def vitals(
    store: Store,
    clock: Clock,
    *,
    checkpoint: str,
    approvals: Approvals,
    arms: Arms,
    webhooks: Iterable[str],
    failing: int,
    warnings: int,
    bundle: str,
) -> Vitals:
    """Look at everything once. `checkpoint` is the signed one, empty if there is none."""
    signed = Checkpoint.parse(checkpoint).head.size if checkpoint else 0  # before the records, which only grow
    size = store.head().size
    rollout = arms.current()
    deliveries = Deliveries(store, clock)
    return Vitals(
        records=size,
        unsigned=size - signed,
        approvals_pending=approvals.waiting(),
        stage=Stage(rollout.id, rollout.kind.value, rollout.state.value, rollout.percent) if rollout else None,
        webhooks=tuple(_told(deliveries, name, size) for name in webhooks),
        failing=failing,
        warnings=warnings,
        bundle=bundle,
        drift=last(store),
        gateways=stands(store),
    )


def _told(deliveries: Deliveries, name: str, size: int) -> Told:
    found = deliveries.of(name)
    if found is None:
        return Told(name, 0, 0, failing=False)
    return Told(name, max(size - 1 - found.cursor, 0), len(found.refused), bool(found.failing_since_us))
