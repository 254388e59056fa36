"""What a model says, decided while it says it.

Policies decide about an answer as about its prompt, with what was found in the text as labels. They never see the text:
the request is of the action `prompt` in the direction `answer`, and holds how much was said and what was found. A text
in which nothing is found is released unchanged. With the first finding it is settled for every class whether policy
would take it out; what policy denies is never released.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from checkrein.decide.detect import EVERYTHING, covers, texts
from checkrein.decide.disguise import OPAQUE
from checkrein.decide.redact import Placeholders, detect_json, redact_json
from checkrein.decide.spoken import Spoken
from checkrein.model import Denied, Outcome
from checkrein.services.comeback import CLASSES, Comeback, Consider

_NOTHING: Mapping[str, int] = {}
#: so much of what was released is kept: its words give what follows them a meaning
_PAST = 16 * 1024
#: texts of an answer of which that is known
_VOICES = 64


class Withheld(Denied):
    """Policy lets nobody hear the rest of an answer."""


class Speech:
    """The texts of one answer. `consider` decides; nothing is recorded here.

    `values` were taken out of the prompt: those that the model might have said itself are put back.
    Every method raises `Withheld` when policy denies the answer as far as it is known.
    """

    def __init__(self, consider: Consider, placeholders: Placeholders, values: Placeholders | None = None) -> None:
        self._consider = consider
        self.placeholders = placeholders
        self.chars = 0
        self.found: Counter[str] = Counter()
        #: what is taken out of texts that come in pieces; None while nothing was found
        self.taken: tuple[str, ...] | None = None
        self.decision = consider(0, self.found)
        #: what is looked for: what policy wants out by name too
        self.watched = (*EVERYTHING, *(cls for cls in self.decision.redact if not covers(EVERYTHING, cls)))
        #: None where nothing is put back
        self.comeback: Comeback | None = None
        if values is not None and len(values):
            self.comeback = Comeback(consider, values) or None
        self._minds: bool | None = None
        #: the latest texts that come in pieces, and whether there were more
        self._voices: deque[Voice] = deque(maxlen=_VOICES)
        self._forgot = False

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
            self.chars += sum(map(len, texts(value)))
        clean = value
        if found or (again and self.found):
            self.note(found)
            clean = redact_json(value, self.decision.redact, self.placeholders)
        return self.put_back(clean, again=again)

    def put_back(self, value: object, *, again: bool = False) -> object:
        """A JSON value with the values of the prompt in it, where policy lets them be heard."""
        if self.comeback is None:
            return value
        back = self.comeback.count(value)
        self.note_back({cls: count for cls, count in back.items() if not (again and cls in self.found)})
        return self.comeback.restored(value) if back else value

    def note_back(self, counts: Mapping[str, int]) -> None:
        """So many values of each class are put back, and so are heard."""
        if self.comeback is not None and counts:
            self.note(self.comeback.told(counts))

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
            if late and (self._forgot or any(voice.may_have_said(late) for voice in self._voices)):
                raise self._too_late()
        return self.taken

    def joined(self, voice: Voice) -> None:
        """One more text that comes in pieces."""
        self._forgot = self._forgot or len(self._voices) == _VOICES
        self._voices.append(voice)

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
        self._back = speech.comeback.stream() if speech.comeback else None
        self._heard = False
        speech.joined(self)

    def feed(self, text: str) -> str:
        out = self.calmly(text)
        if out is not None:
            return out
        self._speech.chars += len(text)
        return self._told(self._next(text, over=False), over=False)

    def calmly(self, text: str) -> str | None:
        """`feed`, where one look tells that nothing is found; else None, and the text was not taken."""
        if self._back is not None or (self._looks and self._speech.taken is not None):
            return None
        out = self._text.calmly(text)
        if out is None:
            return None
        self._speech.chars += len(text)
        if self._looks:
            self._held += text
            self._released(out)
        return out

    def finish(self) -> str:
        return self._told(self._next("", over=True), over=True)

    def _told(self, out: str, *, over: bool) -> str:
        """What comes out, with the values of the prompt put back; where it comes out at once, it may be JSON."""
        if self._back is None:
            return out
        if over and not self._heard:
            return str(self._speech.put_back(out))
        self._heard = self._heard or bool(out)
        before = Counter(self._back.counts)
        out = self._back.feed(out) + (self._back.finish() if over else "")
        self._speech.note_back(self._back.counts - before)
        return out

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
                self._released(out)
                return out
            self._speech.settle(found)
        else:  # settled by another text of the answer
            found = Counter()
        self._looks, self._text = False, self._redacting()
        return self._redacted(self._held, over=over, known=found)

    def _released(self, out: str) -> None:
        """This goes out, and nothing was found in it."""
        self._held = self._held[len(out) :]
        past = self._past + out
        self._past, self._forgot = past[-_PAST:], self._forgot or len(past) > _PAST
        self._speech.placeholders.reserve(out)

    def _holds(self) -> bool:
        """Whether a text that is JSON is held: it is read, or written anew, as a whole."""
        return self._back is not None or self._speech.minds()

    def _looking(self) -> Spoken:
        return Spoken(self._speech.watched, self._seen, field=self._field, passes=1, as_json=self._holds)

    def _redacting(self) -> Spoken:
        speech = self._speech
        return Spoken(speech.taken or (), speech.placeholders, field=self._field, past=self._past, as_json=self._holds)

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
