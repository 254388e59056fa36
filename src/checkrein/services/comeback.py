"""Values that were taken out of a prompt, on their way back into its answer.

Back comes what the model might have said itself: a value in which nothing is found that policy would not let an answer
hold. It counts as found in the answer then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from checkrein.decide.detect import BUILT_IN, covers
from checkrein.decide.detectors import ESCAPED, WITHHELD
from checkrein.decide.disguise import OPAQUE
from checkrein.decide.redact import Placeholders, detect_json
from checkrein.decide.restore import Restore, restorable, restore_json
from checkrein.model import Decision

#: every class that is found in answers
CLASSES = tuple(sorted((*BUILT_IN.classes, OPAQUE)))
#: decides about an answer of which so much was said and in which this was found, by class
Consider = Callable[[int, Mapping[str, int]], Decision]


class Comeback:
    """The values of one prompt that its answer may hold; false if there are none."""

    def __init__(self, consider: Consider, values: Placeholders) -> None:
        self._consider = consider
        self._refused = tuple(cls for cls in CLASSES if not self._lets((cls,)))
        #: what is found in the values of each class: one may be of several
        self._found: dict[str, frozenset[str]] = {}
        self._values = values.copy(self._may)
        self._classes = tuple(sorted(self._found))
        #: how many were put back, by class
        self.counts: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._classes)

    def count(self, value: object) -> Counter[str]:
        """How many of each class `restored` puts into a JSON value."""
        return restorable(value, self._values, self._classes)

    def restored(self, value: object) -> object:
        return restore_json(value, self._values, self._classes)

    def stream(self) -> Restore:
        """Puts them into a text that comes in pieces."""
        return Restore(self._values, self._classes)

    def told(self, counts: Mapping[str, int]) -> dict[str, int]:
        """So many are put back: what is found in the answer with them."""
        self.counts.update(counts)
        return {**{also: 1 for cls in counts for also in self._found[cls]}, **counts}

    def _may(self, cls: str, value: str) -> bool:
        """Whether the answer may hold this value, beside those that it may hold already."""
        if cls in (ESCAPED, WITHHELD):  # what only looked like a placeholder; what stands for no value
            return cls == ESCAPED
        if detect_json([value], self._refused):  # also within what is found in it
            return False
        found = frozenset((cls, *detect_json([value])))
        if not self._lets(found.union(*self._found.values())):
            return False
        self._found[cls] = self._found.get(cls, frozenset()) | found
        return True

    def _lets(self, classes: Collection[str]) -> bool:
        made = self._consider(0, dict.fromkeys(classes, 1))
        return made.outcome.runs and not any(covers(made.redact, cls) for cls in classes)
