"""The ledger's key, changed for a new one: recorded under the old key, so that its holders can follow."""

from __future__ import annotations

from typing import Protocol

import msgspec

from checkrein.ledger.rotation import KIND
from checkrein.model import BadRequest
from checkrein.ports import Handover, Rotating, Store, Unit
from checkrein.services import records

#: nobody means to let two keys sign for longer
MAX_OVERLAP_S = 10 * 366 * 86_400
_US = 1_000_000


class Signing(Store, Rotating, Protocol):
    """What a rotation needs."""


def rotate(store: Signing, *, overlap_s: int, keep: bool, by: str) -> Handover:
    """From now on a new key signs, and the old one beside it for `overlap_s`; what the record says.

    Raises `StoreUnavailable` if the record could not be written; the old key then stays.
    """
    if not 0 <= overlap_s <= MAX_OVERLAP_S:
        raise BadRequest("the overlap is not from 0 seconds to 10 years", hint="give a time such as `30d`")
    with store.rotating(overlap_s * _US, keep=keep) as handover:
        draft = records.admin(KIND, by, msgspec.to_builtins(handover))
        store.commit(Unit(drafts=(draft,))).result()
    return handover
