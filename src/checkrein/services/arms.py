"""Which version decides or answers: the stable one, what was promoted in its place, or a canary under way.

The store holds a row for each version that another was promoted over; `sync` reads it and puts the result in memory,
where requests meet it. Every process that serves does so every second, and before its first request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import msgspec

from checkrein.flow import rollout as flow
from checkrein.flow.rollout import Kind, Rollout, State, on_canary
from checkrein.model import Request
from checkrein.policy.bundle import Bundle
from checkrein.ports import Row, Save, Store
from checkrein.services.pdp import CANARY, STABLE, Part, Pdp, Trial, Version, unit

ROOM = "rollout"
#: which version was promoted over which
PROMOTED = "promoted"


class Shelf(Protocol):
    """Where the files of canaries lie, so that every process and every restart finds them."""

    def put(self, files: Mapping[str, bytes]) -> str:
        """Keep them; their bundle digest. Raises `PolicyInvalid` for what cannot stand in a bundle."""

    def get(self, digest: str) -> Bundle:
        """The bundle with this digest; raises `NotFound`, or `PolicyInvalid` if it was changed."""


class Arms:
    """`offered` is the policy version of the source: the folder, or the bundle file."""

    def __init__(self, store: Store, pdp: Pdp, shelf: Shelf, *, key: bytes, offered: Bundle) -> None:
        self._store = store
        self._pdp = pdp
        self._shelf = shelf
        self._key = key
        self._offered = offered
        self._live: Rollout | None = None
        self._redirects: dict[str, str] = {}

    def replace(self, bundle: Bundle) -> None:
        """The source offers another version: it decides now; what was promoted over its last one has had its day."""
        self._offered = bundle
        self._pdp.trial(None)
        self._pdp.replace(bundle)

    def route(self, upstream: str, request: Request) -> tuple[str, Part | None]:
        """The upstream that answers in the place of this one, and the part the request takes in a rollout."""
        live = self._live
        upstream = self._redirects.get(upstream, upstream)
        if live is None or live.stable != upstream:
            return upstream, None
        if on_canary(live, unit(request), self._key):
            return live.canary, Part(live.id, CANARY)
        return upstream, Part(live.id, STABLE)

    def stable(self, kind: Kind, name: str = "") -> str:
        """What runs now in the place of this upstream; for policies, of what the source offers."""
        return _followed(self._promotions(kind), name or self._offered.digest)

    def current(self) -> Rollout | None:
        """The rollout that is under way."""
        for state in flow.ACTIVE:
            for row in self._store.rows(ROOM, state=state.value, limit=1):
                return row.read(Rollout)
        return None

    def sync(self) -> None:
        """Renew what requests meet. Raises `CheckreinError` if a version that is to decide cannot be loaded."""
        rollout = self.current()
        stable = self.stable(Kind.POLICY)
        if self._pdp.bundle.digest != stable:
            self._pdp.replace(self._bundle(stable))
        tried = rollout if rollout and rollout.kind is Kind.POLICY and rollout.stable == stable else None
        self._pdp.trial(self._trial(tried) if tried else None)
        promotions = self._promotions(Kind.UPSTREAM)
        self._live = rollout if rollout and rollout.kind is Kind.UPSTREAM else None
        self._redirects = {name: _followed(promotions, name) for name in promotions}

    def promoted(self, rollout: Rollout) -> Save:
        """The row that puts the canary in the place of the stable version, or takes it out again."""
        id = f"{rollout.kind.value}:{rollout.stable}"
        row = self._store.row(PROMOTED, id)
        version = row.version if row else 0
        state = rollout.kind.value if rollout.state is State.PROMOTED else "none"
        return Save(Row(PROMOTED, id, version + 1, state, rollout.stable, rollout.canary.encode()), version)

    def outdated(self) -> Iterator[Save]:
        """What takes out the promotions of policies over something that the source no longer offers."""
        known = _chain(self._promotions(Kind.POLICY), self._offered.digest)
        for row in self._store.rows(PROMOTED, state=Kind.POLICY.value, limit=1000):
            if row.lookup not in known:
                yield Save(msgspec.structs.replace(row, version=row.version + 1, state="none"), row.version)

    def _trial(self, rollout: Rollout) -> Trial | None:
        shadows = rollout.state is State.SHADOW
        if not shadows and not rollout.percent:
            return None
        bundle = self._bundle(rollout.canary)
        known = self._pdp.trying()
        version = known.version if known and known.version.bundle is bundle else Version.of(bundle)
        agreed = frozenset(rollout.agreed)
        return Trial(rollout.id, version, lambda name: on_canary(rollout, name, self._key), shadows, agreed)

    def _bundle(self, digest: str) -> Bundle:
        trying = self._pdp.trying()
        held = (self._offered, self._pdp.bundle, *((trying.version.bundle,) if trying else ()))
        return next((bundle for bundle in held if bundle.digest == digest), None) or self._shelf.get(digest)

    def _promotions(self, kind: Kind) -> dict[str, str]:
        rows = self._store.rows(PROMOTED, state=kind.value, limit=1000)
        return {row.lookup: row.body.decode() for row in rows}


def _chain(promotions: Mapping[str, str], name: str) -> list[str]:
    """The name and all that was promoted over it, in turn; a circle ends where it began."""
    found = [name]
    while (after := promotions.get(found[-1])) is not None and after not in found:
        found.append(after)
    return found


def _followed(promotions: Mapping[str, str], name: str) -> str:
    return _chain(promotions, name)[-1]
