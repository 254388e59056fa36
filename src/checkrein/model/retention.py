"""How long payloads are kept: one default, and classes named after labels of the decision."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

#: six months, the least that the EU AI Act (Art. 19 and 26) asks for logs
FLOOR_DAYS = 184
_DAY_US = 86_400_000_000


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`days` for everything that is in no class; `classes` maps a label, such as `pii.card`, to its own days.

    Only the name of the class is kept with a payload, so a change of the days holds for old payloads too.
    """

    days: int = 400
    classes: dict[str, int] = {}

    def of(self, labels: Iterable[str]) -> str:
        """The class of a decision with these labels, empty for the default; of several the one kept longest."""
        if not self.classes:
            return ""
        found = [(self.classes[label], label) for label in labels if label in self.classes]
        return max(found)[1] if found else ""

    def kept_us(self, name: str) -> int:
        """How long a payload of this class is kept, in microseconds; a class that is gone counts as the default."""
        return self.classes.get(name, self.days) * _DAY_US
