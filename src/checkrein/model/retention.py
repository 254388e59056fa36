"""What is kept beside the ledger, and how long: one default, and classes named after labels of the decision."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

#: six months, the least that the EU AI Act (Art. 19 and 26) asks for logs
FLOOR_DAYS = 184
#: the class of answers that are kept for an idempotency key; no label is called so
IDEMPOTENCY = "checkrein:idempotency"
_DAY_US = 86_400_000_000
_HOUR_US = 3_600_000_000


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`days` for everything that is in no class; `classes` maps a label, such as `pii.card`, to its own days.

    Only the name of the class is kept with a payload, so a change of the days holds for old payloads too. `results`
    says whether answers are kept as requests are; `idempotency_hours` how long an `Idempotency-Key` is remembered.
    """

    days: int = 400
    classes: dict[str, int] = {}
    results: bool = True
    idempotency_hours: int = 24

    @property
    def idempotency_us(self) -> int:
        """How long a key and its answer are kept, in microseconds."""
        return self.idempotency_hours * _HOUR_US

    def of(self, labels: Iterable[str]) -> str:
        """The class of a decision with these labels, empty for the default; of several the one kept longest."""
        if not self.classes:
            return ""
        found = [(self.classes[label], label) for label in labels if label in self.classes]
        return max(found)[1] if found else ""

    def kept_us(self, name: str) -> int:
        """How long a payload of this class is kept, in microseconds; a class that is gone counts as the default."""
        return self.idempotency_us if name == IDEMPOTENCY else self.classes.get(name, self.days) * _DAY_US
