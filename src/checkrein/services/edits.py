"""Edited arguments: checked against the tool's schema, decided afresh, and asked about anew.

An edit ends one approval and opens another in the same durable unit. What the caller sends again is the action as it
was; what runs is the one that people agreed to (`services.gateway`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from checkrein.flow.approval import Approval, IllegalEvent, Vote, VoteRefused, best
from checkrein.flow.approval import edited as flow_edited
from checkrein.model import Decision, Outcome, Request, StoreConflict
from checkrein.ports import Clock, Store, Unit
from checkrein.services import records
from checkrein.services.approvals import ATTEMPTS, ROOM, Approvals, save, seen, shown_hash
from checkrein.services.pdp import Asked, Pdp


class Edits:
    def __init__(self, store: Store, approvals: Approvals, pdp: Pdp, clock: Clock, key: bytes) -> None:
        self._store = store
        self._approvals = approvals
        self._pdp = pdp
        self._clock = clock
        self._key = key

    def edit(
        self,
        id: str,
        arguments: Mapping[str, object],
        *,
        editor: str,
        roles: tuple[str, ...] | None = None,
        reason: str = "",
        auth: str,
        action_hash: str = "",
        shown: str = "",
    ) -> Approval:
        """Ask for the same action with these arguments instead; the new approval, which nobody has voted on.

        The editor must be somebody who may vote. An edit that does not stand is refused with its reason, and recorded;
        the approval then stays as it was. `shown` is the hash of what they looked at, if that is to be what is edited.
        """
        id = self._approvals.get(id).id
        for _ in range(ATTEMPTS):
            approval = self._approvals.current(id)
            now_us = self._clock.now_us()
            own = Vote(
                voter=editor,
                roles=self._approvals.electorate.held(editor, roles),
                approve=False,
                reason=reason,
                auth=auth,
                action_hash=seen(approval, action_hash),
                shown=shown_hash(approval),
                at_us=now_us,
            )
            try:
                if shown and shown != own.shown:
                    raise VoteRefused("stale_view", "what was shown is not what stands there now", hint="look again")
                blank = msgspec.structs.replace(approval, votes=())
                _, by = best(blank, self._approvals.electorate.casts(blank, own, ""))
                request, decision = self._decided(approval, arguments)
                ended, fresh = flow_edited(approval, self._fresh(approval, request, decision, now_us), by)
            except (VoteRefused, IllegalEvent) as error:
                code = error.code if isinstance(error, VoteRefused) else "ended"
                draft = records.vote_refused(
                    approval, editor, code=code, auth=auth, now_us=now_us, kind="approval.edit_refused"
                )
                self._store.commit(Unit(drafts=(draft,))).result()
                raise
            changed = _changed(approval.request(), request)
            drafts = (
                records.edited(approval, fresh, by, changed=changed, outcome=decision.outcome.wire, key=self._key),
                records.approval("approval.cancelled", ended, key=self._key),
                records.approval("approval.requested", fresh, key=self._key),
            )
            try:
                self._store.commit(Unit(drafts, (save(ended), save(fresh)))).result()
            except StoreConflict:
                continue
            return fresh
        raise StoreConflict(f"approval `{id}` keeps changing", hint="look at it and edit again")

    def _decided(self, approval: Approval, arguments: Mapping[str, object]) -> tuple[Request, Decision]:
        """The edited action and what policy says of it; raises `VoteRefused` where it cannot be asked about."""
        before = approval.request()
        manifests, name = self._pdp.bundle.manifests, before.action.name
        if manifests.get(name) is None:
            raise VoteRefused(
                "no_schema", f"`{name}` has no schema to check an edit against", hint="deny it, and say what to change"
            )
        if problems := manifests.check_input(name, arguments):
            raise VoteRefused("invalid_arguments", "; ".join(problems), hint="`tools.yaml` declares the arguments")
        action = msgspec.structs.replace(
            before.action, properties={**before.action.properties, "input": dict(arguments)}
        )
        request = msgspec.structs.replace(before, action=action)
        decision = self._pdp.decide(Asked(request), trace_id=approval.trace_id)
        if decision.outcome is Outcome.DENY:
            raise VoteRefused(
                "policy_denies", f"policy denies it so: {'; '.join(decision.reasons)}", hint="choose other arguments"
            )
        return request, decision

    def _fresh(self, approval: Approval, request: Request, decision: Decision, now_us: int) -> Approval:
        """The new approval. Where policy would ask nobody now, it is asked for what it was asked for before."""
        requirement = decision.requirement or approval.requirement
        asked = msgspec.structs.replace(decision, requirement=requirement)
        fresh = self._approvals.fresh(request, asked, now_us)
        if self._store.row(ROOM, fresh.id) is not None and fresh.action_hash != approval.action_hash:
            raise VoteRefused("asked_already", f"approval `{fresh.id}` asks for exactly that", hint="vote on that one")
        return fresh


def _changed(before: Request, after: Request) -> list[str]:
    """The names of the arguments that differ."""
    one, other = before.action.input, after.action.input
    return sorted(
        name for name in {*one, *other} if one.get(name) != other.get(name) or (name in one) != (name in other)
    )
