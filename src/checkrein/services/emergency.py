"""Break-glass in the store: one durable unit with its records, and the reviews that stay open until somebody signs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from checkrein.flow.approval import Approval, Breach, IllegalEvent, VoteRefused
from checkrein.flow.emergency import Review, ReviewState, break_glass, sign
from checkrein.model import NotFound, StoreConflict
from checkrein.ports import Clock, Row, Save, Store, Unit
from checkrein.services import records
from checkrein.services.approvals import ATTEMPTS, Approvals, save

ROOM = "review"


def _save(review: Review) -> Save:
    row = Row(ROOM, review.approval, review.version, review.state.value, review.broken_by, msgspec.json.encode(review))
    return Save(row, review.version - 1)


def reviews(store: Store, *, every: bool = False) -> list[Review]:
    """Those that nobody has signed yet, or every one, the oldest first."""
    found: list[Review] = []
    after = ""
    while rows := store.rows(ROOM, state="" if every else ReviewState.OPEN.value, after=after, limit=500):
        after = rows[-1].id
        found += [row.read(Review) for row in rows]
    return sorted(found, key=lambda review: review.at_us)


class Emergencies:
    """`role` may break the glass, nobody if it is empty; what was broken may run for `life_s` seconds.

    `owners` names whom an approval concerns: they are told by the record.
    """

    def __init__(
        self,
        store: Store,
        approvals: Approvals,
        clock: Clock,
        *,
        key: bytes,
        role: str,
        life_s: int,
        owners: Callable[[Approval], tuple[str, ...]],
    ) -> None:
        self._store = store
        self._approvals = approvals
        self._clock = clock
        self._key = key
        self._role = role
        self._life_s = life_s
        self._owners = owners

    def break_glass(
        self, id: str, *, by: str, roles: tuple[str, ...] | None = None, reason: str, auth: str
    ) -> Approval:
        """Let it run although people have not agreed. Who may not is refused, and recorded."""
        id = self._approvals.get(id).id
        for _ in range(ATTEMPTS):
            approval, now_us = self._approvals.current(id), self._clock.now_us()
            breach = Breach(by=by, auth=auth, reason=reason, at_us=now_us)
            held = self._approvals.electorate.held(by, roles)
            try:
                also = self._approvals.electorate.also(by)
                after, review = break_glass(
                    approval, breach, role=self._role, roles=held, life_s=self._life_s, also=also
                )
            except (VoteRefused, IllegalEvent) as error:
                self._refuse("approval.break_glass_refused", approval, by, error, auth, now_us)
                raise
            drafts = (
                records.break_glass(after, breach, role=self._role, owners=self._owners(after), key=self._key),
                records.approval("approval.decided", after, key=self._key),
            )
            try:
                self._store.commit(Unit(drafts, (save(after), _save(review)))).result()
            except StoreConflict:
                continue
            return after
        raise StoreConflict(f"approval `{id}` keeps changing", hint="look at it and try again")

    def reviews(self, *, every: bool = False) -> list[Review]:
        """See `reviews`."""
        return reviews(self._store, every=every)

    def review(self, approval: str) -> Review | None:
        """The review of this approval, if its glass was broken."""
        row = self._store.row(ROOM, approval)
        return row.read(Review) if row else None

    def sign(self, id: str, *, by: str, roles: tuple[str, ...] | None = None, note: str, auth: str) -> Review:
        """Close a review: somebody else than who broke the glass has looked at it."""
        approval = self._approvals.get(id)
        for _ in range(ATTEMPTS):
            review, now_us = self.review(approval.id), self._clock.now_us()
            if review is None:
                raise NotFound(
                    f"the glass of `{approval.id}` was not broken", hint="`checkrein approvals reviews` lists them"
                )
            held = self._approvals.electorate.held(by, roles)
            try:
                also = self._approvals.electorate.also(by)
                signed = sign(review, approval, by, role=self._role, roles=held, note=note, now_us=now_us, also=also)
            except (VoteRefused, IllegalEvent) as error:
                self._refuse("approval.review_refused", approval, by, error, auth, now_us)
                raise
            draft = records.reviewed(approval, signed, auth=auth, key=self._key)
            try:
                self._store.commit(Unit((draft,), (_save(signed),))).result()
            except StoreConflict:
                continue
            return signed
        raise StoreConflict(f"the review of `{approval.id}` keeps changing", hint="try again")

    def warnings(self) -> tuple[str, ...]:
        """What an operator should know: glasses that were broken and at which nobody has looked."""
        return tuple(
            f"approvals: the glass of `{review.approval}` was broken and nobody has reviewed it"
            for review in self.reviews()
        )

    def _refuse(
        self, kind: str, approval: Approval, who: str, error: VoteRefused | IllegalEvent, auth: str, now_us: int
    ) -> None:
        code = error.code if isinstance(error, VoteRefused) else "ended"
        draft = records.vote_refused(approval, who, code=code, auth=auth, now_us=now_us, kind=kind)
        self._store.commit(Unit(drafts=(draft,))).result()
