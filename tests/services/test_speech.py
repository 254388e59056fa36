"""Words of an answer in pieces: nothing gets out that would be hidden in the whole answer."""

from __future__ import annotations

from collections.abc import Iterable

from checkrein.services.speech import Speech, Voice
from fakes import speech


def told(pieces: Iterable[str], given: Speech) -> str:
    voice = Voice(given)
    return "".join([*map(voice.feed, pieces), voice.finish()])


def test_a_word_that_was_released_gives_what_follows_it_a_meaning():
    pieces = ["her phone number is ", "4155552671 and she", " says so"]
    assert told(pieces, speech(redact=("pii.phone",))) == "her phone number is <PHONE_1> and she says so"
