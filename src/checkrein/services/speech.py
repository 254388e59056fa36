"""What a model says, decided while it says it.

Policies decide about an answer as about its prompt, with what was found in the text as labels. They never see the text:
the request is of the action `prompt` in the direction `answer`, and holds how much was said and what was found. A text
in which nothing is found is released unchanged. With the first finding it is settled for every class whether policy
would take it out; what policy denies is never released.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from checkrein.decide.detect import BUILT_IN, EVERYTHING, covers, texts
from checkrein.decide.disguise import OPAQUE
from checkrein.decide.redact import Placeholders, detect_json, redact_json
from checkrein.decide.spoken import Spoken
from checkrein.model import Decision, Denied, Outcome

#: every class that is found
CLASSES = tuple(sorted((*BUILT_IN.classes, OPAQUE)))
_NOTHING: Mapping[str, int] = {}
#: so much of what was released is kept: its words give what follows them a meaning
_PAST = 16 * 1024
#: decides about an answer of which so much was said and in which this was found, by class
Consider = Callable[[int, Mapping[str, int]], Decision]


class Withheld(Denied):
    """Policy lets nobody hear the rest of an answer."""


class Speech:
    """The texts of one answer. `consider` decides; nothing is recorded here.

    Every method raises `Withheld` when policy denies the answer as far as it is known.
    """

    def __init__(self, consider: Consider, placeholders: Placeholders) -> None:
        self._consider = consider
        self.placeholders = placeholders
        self.chars = 0
        self.found: Counter[str] = Counter()
        #: what is taken out of texts that come in pieces; None while nothing was found
        self.taken: tuple[str, ...] | None = None
        self.decision = consider(0, self.found)
        #: what is looked for: what policy wants out by name too
        self.watched = (*EVERYTHING, *(cls for cls in self.decision.redact if not covers(EVERYTHING, cls)))
        self._minds: bool | None = None
        #: the texts that come in pieces
        self.voices: list[Voice] = []

    @property
    def redactions(self) -> dict[str, int]:
        """How many spans were taken out, by class."""
        return {cls: count for cls, count in sorted(self.found.items()) if covers(self.decision.redact, cls)}

    def minds(self) -> bool:
        """Whether policy would mind anything that an answer can hold; what cannot be read bears every label."""
        if self._minds is None:
            self._minds = self._consider(self.chars, {OPAQUE: 1}).outcome is not Outcome.ALLOW
        return self._minds

    def begin(self) -> None:
        """Before the first word: whether there may be an answer at all."""
        self._check()

    def whole(self, value: object, *, again: bool = False) -> object:
        """A JSON value as it may be heard; the very same value when nothing is taken out.

        What may have been said before (`again`) is not counted twice.
        """
        found = detect_json(value, self.watched)
        if again:
            found = Counter({cls: count for cls, count in found.items() if cls not in self.found})
        else:
            self.chars += sum(len(text) for text, _ in texts(value))
        if not found and not (again and self.found):
            return value
        self.note(found)
        return redact_json(value, self.decision.redact, self.placeholders)

    def note(self, found: Mapping[str, int]) -> None:
        """This was found too."""
        self.found.update(found)
        self.decision = self._consider(self.chars, self.found)
        self._check()
        if self.taken is not None and not all(self._is_taken(cls) for cls in self.found):
            raise self._too_late()

    def settle(self, found: Mapping[str, int]) -> tuple[str, ...]:
        """The classes to take out of texts under way, now that something was found in one of them."""
        self.note(found)
        if self.taken is None:
            self.taken = tuple(cls for cls in CLASSES if self._takes(cls))
            late = tuple(cls for cls in self.decision.redact if not covers(self.watched, cls))
            if late and any(voice.may_have_said(late) for voice in self.voices):
                raise self._too_late()
        return self.taken

    def _too_late(self) -> Withheld:
        return Withheld("the answer was withheld: it cannot be redacted any more", decision=self.decision)

    def _check(self) -> None:
        made = self.decision
        if not made.outcome.runs:
            reasons = "; ".join(made.reasons) or "policy does not allow it"
            hints = [advice.text for advice in made.advice]
            raise Withheld(f"the answer was withheld: {reasons}", decision=made, hint="; ".join(hints))

    def _is_taken(self, cls: str) -> bool:
        """Whether texts under way were rid of this class, if policy wants that now."""
        return not covers(self.decision.redact, cls) or cls in (self.taken or ())

    def _takes(self, cls: str) -> bool:
        made = self._consider(self.chars, {**self.found, cls: 1})
        return not made.outcome.runs or covers(made.redact, cls)


class Voice:
    """One text of an answer, in pieces: what goes in comes out as it may be heard, a little later.

    `field` is the name it stands under. A text that is JSON comes out when it is over, if policy minds anything at all.
    """

    def __init__(self, speech: Speech, field: str = "") -> None:
        self._speech = speech
        self._field = field
        #: while nothing was found in the answer: what is not released yet, the end of what is, and what is found
        self._held = ""
        self._past, self._forgot = "", False
        self._seen = Placeholders()
        self._looks = speech.taken is None
        self._text = self._looking() if self._looks else self._redacting()
        speech.voices.append(self)

    def feed(self, text: str) -> str:
        self._speech.chars += len(text)
        return self._next(text, over=False)

    def finish(self) -> str:
        return self._next("", over=True)

    def may_have_said(self, classes: tuple[str, ...]) -> bool:
        """Whether something of these classes, which nobody looked for, may have been released already."""
        return self._forgot or bool(detect_json([self._past], classes))

    def _next(self, text: str, *, over: bool) -> str:
        if not self._looks:
            return self._redacted(text, over=over)
        self._held += text
        if self._speech.taken is None:
            out = self._text.feed(text) + (self._text.finish() if over else "")
            found = _known(self._seen.counts) if self._seen.counts else Counter()
            if not found:
                self._held = self._held[len(out) :]
                past = self._past + out
                self._past, self._forgot = past[-_PAST:], self._forgot or len(past) > _PAST
                self._speech.placeholders.reserve(out)
                return out
            self._speech.settle(found)
        else:  # settled by another text of the answer
            found = Counter()
        self._looks, self._text = False, self._redacting()
        return self._redacted(self._held, over=over, known=found)

    def _looking(self) -> Spoken:
        return Spoken(self._speech.watched, self._seen, field=self._field, passes=1, as_json=self._speech.minds)

    def _redacting(self) -> Spoken:
        speech = self._speech
        return Spoken(speech.taken or (), speech.placeholders, field=self._field, past=self._past, as_json=speech.minds)

    def _redacted(self, text: str, *, over: bool, known: Mapping[str, int] = _NOTHING) -> str:
        """`known` was found in this text before, and is not counted again."""
        counts = self._speech.placeholders.counts
        before = Counter(counts)
        out = self._text.feed(text) + (self._text.finish() if over else "")
        found = _known(counts - before) - Counter(known)
        if found:
            self._speech.note(found)
        return out


def _known(counts: Mapping[str, int]) -> Counter[str]:
    return Counter({cls: count for cls, count in counts.items() if cls in CLASSES and count > 0})
