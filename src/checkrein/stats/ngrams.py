"""Texts as hashed n-grams: rows of numbers that `shift.profiles` compares, from which no text can be read again."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from checkrein.stats.shift import Floats

#: columns; two n-grams in one column only hide a little of a shift
WIDTH = 512
#: of a longer text only its beginning counts
MAX_CHARS = 20_000
#: plain character classes: linear on every text
_WORD = re.compile(r"[^\W\d_]+|\d")


def rows(texts: Iterable[str]) -> Floats:
    """One row a text: the roots of the shares of its words and pairs of words, so that each row has length 1 (or 0).

    Digits count as digits, whichever they are: another order number is not another language.
    """
    import numpy as np

    found = [_row(text[:MAX_CHARS]) for text in texts]
    return np.sqrt(np.array(found, dtype=np.float64).reshape(len(found), WIDTH))


def _row(text: str) -> list[float]:
    words = ["0" if word.isdigit() else word for word in _WORD.findall(text.casefold())]
    grams = [*words, *(" ".join(pair) for pair in pairwise(words))]
    row = [0.0] * WIDTH
    for gram in grams:
        row[zlib.crc32(gram.encode("utf-8", "replace")) % WIDTH] += 1 / len(grams)
    return row
