"""What a text that comes in pieces says in other forms: what `disguise` reads in a whole text, found as it comes.

Each level of escapes is an image of its own, read by a scanner of its own, and made when the first escape is met. What
is certain is certain in all of them: the text is held where something may still become a match once it is unescaped. A
run of base64 is held until it is over; one that is longer than what may be held, and may be a text, is `opaque`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import re2

from checkrein.decide import scan
from checkrein.decide.disguise import DEPTH, IN_WORDS, RUN, Reading
from checkrein.decide.escapes import ESCAPE, Unescaper, Unit
from checkrein.decide.fold import image
from checkrein.decide.partial import viable
from checkrein.decide.scan import Decided, Found, Ruleset, Scanner

#: beyond every place: nothing is held
_NOTHING = 1 << 62


class Forms:
    """A pass over a text in pieces, like a `Scanner`, that finds what stands there in another form.

    With `plainly` it also finds what stands there plainly.
    """

    def __init__(self, reading: Reading, *, plainly: bool = False) -> None:
        self._reading = reading
        self._data = b""
        self._places: list[int] = []
        #: bytes of the image that were handed on
        self._begin = 0
        #: what is found from there on; the levels tell
        self._found: list[Found] = []
        self._plain = _Level(reading, 0, self._found, tells=plainly)

    @property
    def opaque(self) -> bool:
        return self._reading.opaque

    @property
    def pending(self) -> int | None:
        """Where in the original the first byte stands that is held back, if one is."""
        return self._places[0] if self._places else None

    def feed(self, data: bytes, places: Sequence[int]) -> Iterator[Decided]:
        begin = self._begin + len(self._data)
        self._data += data
        self._places.extend(places)
        if not self.opaque:
            self._reading.more(len(data))
            self._plain.feed(data, range(begin, begin + len(data)), range(begin + 1, begin + len(data) + 1))
        return self._decided()

    def finish(self) -> Iterator[Decided]:
        if not self.opaque:
            self._plain.finish()
        return self._decided()

    def _decided(self) -> Iterator[Decided]:
        """What is certain now. Once something cannot be read, the rest is not read either."""
        end = self._begin + len(self._data)
        certain = end if self.opaque else min(end, self._plain.pending())
        spans: tuple[Found, ...] = ()
        if self._found:
            certain, spans = self._found_before(certain)
        size = certain - self._begin
        if size <= 0:
            return
        decided = Decided(self._data[:size], self._places[:size], spans)
        self._data, self._begin = self._data[size:], certain
        del self._places[:size]
        yield decided

    def _found_before(self, certain: int) -> tuple[int, tuple[Found, ...]]:
        """What is found in what is certain, those that overlap as one; nothing is certain within a finding."""
        found = sorted(self._found)
        for start, stop, _ in reversed(found):
            if start < certain < stop:
                certain = start
        spans: list[Found] = []
        for start, stop, cls in found:
            if start >= certain:
                break
            if spans and start - self._begin < spans[-1].end:
                spans[-1] = Found(spans[-1].start, max(spans[-1].end, stop - self._begin), spans[-1].cls)
            else:
                spans.append(Found(start - self._begin, stop - self._begin, cls))
        self._found[:] = [span for span in found if span.start >= certain]
        return certain, tuple(spans)


class _Level:
    """The text with some levels of its escapes replaced by what they stand for; `depth` says how many."""

    def __init__(
        self, reading: Reading, depth: int, found: list[Found], past: bytes = b"", *, tells: bool = True
    ) -> None:
        self._reading = reading
        self._depth = depth
        self._found = found
        self._scanner = Scanner(_LevelRules(reading, tells), reading.context, past=past)
        self._unescaper = Unescaper()
        self._child: _Level | None = None
        #: where each byte begins and ends in the image of the text, from byte `_base` of this level on
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._base = 0
        #: bytes that were given to the scanner
        self._scanned = 0

    def pending(self) -> int:
        """The first byte of the text's image that is held back."""
        held = self._scanner.pending
        if held is None:
            held = self._scanned
        first = self._starts[held - self._base] if held - self._base < len(self._starts) else _NOTHING
        return first if self._child is None else min(first, self._child.pending())

    def feed(self, data: bytes, starts: Sequence[int], stops: Sequence[int]) -> None:
        """`starts` and `stops` say what each byte stands for in the image of the text."""
        if not self._reading.spend(len(data)):
            return
        self._starts.extend(starts)
        self._stops.extend(stops)
        for part, units in self._unescaper.feed(data):
            self._take(part, units)
        if self._unescaper.overlong:
            self._reading.opaque = True

    def finish(self) -> None:
        for part, units in self._unescaper.finish():
            self._take(part, units)
        for decided in self._scanner.finish():
            self._note(decided)
        if self._child is not None:
            self._child.finish()

    def _take(self, part: bytes, units: list[Unit] | None) -> None:
        if units is not None and self._child is None:
            self._child = self._descend()
        if self._child is not None:
            self._tell(self._child, part, units)
        place = self._scanned
        self._scanned += len(part)
        for decided in self._scanner.feed(part, range(place, self._scanned)):
            self._note(decided)
        if self._child is not None and self._child.over(self._scanner):
            self._child = None

    def _tell(self, child: _Level, part: bytes, units: list[Unit] | None) -> None:
        place = self._scanned - self._base
        starts, stops = self._starts[place : place + len(part)], self._stops[place : place + len(part)]
        if units is None:
            child.feed(part, starts, stops)
            return
        shown = [(image(char)[0], starts[begin], stops[stop - 1]) for char, begin, stop in units]
        child.feed(
            b"".join(said for said, _, _ in shown),
            [start for said, start, _ in shown for _ in said],
            [stop for said, _, stop in shown for _ in said],
        )

    def over(self, above: Scanner) -> bool:
        """Whether this level has become the same again as the one above it."""
        return self._child is None and not self._unescaper.held and self._scanner.alike(above)

    def _descend(self) -> _Level | None:
        """The next level: until now it was the same as this one."""
        if self._depth == DEPTH:
            self._reading.opaque = True
            return None
        past, data, places = self._scanner.state()
        child = _Level(self._reading, self._depth + 1, self._found, past)
        here = [place - self._base for place in places]
        child.feed(data, [self._starts[place] for place in here], [self._stops[place] for place in here])
        return child

    def _note(self, decided: Decided) -> None:
        for start, end, cls in decided.found:
            first, last = decided.places[start] - self._base, decided.places[end - 1] - self._base
            self._found.append(Found(self._starts[first], self._stops[last], cls))
        if decided.places:
            done = decided.places[-1] + 1 - self._base
            del self._starts[:done]
            del self._stops[:done]
            self._base += done


class _LevelRules:
    """What is looked for in a level. What stands there plainly only has to wait, unless the level `tells` of it."""

    def __init__(self, reading: Reading, tells: bool) -> None:
        self._reading = reading
        self._tells = tells
        self.viable = viable_forms(reading.rules)

    def scan(self, data: bytes, start: int, hold: int, context: bytes, *, final: bool) -> tuple[list[Found], int]:
        cut = hold
        while True:
            plain, certain = self._reading.rules.scan(data, start, cut, context, final=final)
            hidden = []
            goes_on = final and len(data) - start >= scan.LIMIT
            for span in self._reading.hidden(data, start=start, stop=certain, goes_on=goes_on):
                if span.end > certain:
                    certain = span.start
                elif span.cls:
                    hidden.append(span)
            if certain == cut:
                break
            cut = certain
        return [*(plain if self._tells else ()), *hidden], cut


@functools.lru_cache(maxsize=64)
def viable_forms(rules: Ruleset) -> re2._Regexp:
    """Fits the longest end of a text that a match of the rules, or another form, can begin with."""
    return viable((*rules.patterns, RUN, IN_WORDS, ESCAPE))
