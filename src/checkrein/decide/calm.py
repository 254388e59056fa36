"""Whether nothing can be found in what came of a text, told by one look instead of all passes.

Most pieces of most texts hold nothing. Of those only the end is held back that may still become a match. Where one look
cannot tell, it says so, and the passes read the text.
"""

from __future__ import annotations

from checkrein.decide.disguise import IN_WORDS, LONG, RUN, says
from checkrein.decide.escapes import escapes
from checkrein.decide.forms import viable_forms
from checkrein.decide.passes import TOKENS
from checkrein.decide.patterns import PatternSet, latin
from checkrein.decide.scan import BARRIER, Ruleset

#: a longer end of a text is left to the passes, which bound what they hold
HELD = 512
#: what a text needs to say something in another form, or to hold a placeholder
_SIGNS = PatternSet((LONG, IN_WORDS, rb"[%&\\<]"), latin=True)
_RUN, _WORDED = latin(RUN), latin(IN_WORDS)


def held(rules: Ruleset, data: bytes, start: int) -> int | None:
    """Where in an image, from `start` on, begins what is held back; None if something may be found in it."""
    place: int = viable_forms(rules).search(data, start).start()  # the empty end always fits
    if len(data) - place > HELD or not rules.quiet(data) or (_SIGNS.match(data) and not _plain(data, place)):
        return None
    return place


def _plain(data: bytes, place: int) -> bool:
    """Whether an image with such signs says nothing in another form, and holds no placeholder."""
    if BARRIER in data and not (TOKENS.quiet(data) and TOKENS.viable.search(data).start() == len(data)):
        return False
    cut = any(run.start() < place < run.end() for run in _RUN.finditer(data))  # a run is read whole
    return not (cut or escapes(data) or says(data) or _WORDED.search(data))
