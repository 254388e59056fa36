"""Images, sounds and films, where the protocols of models have a member for them.

Nothing is read in them: a model gets a picture there, not these letters. Of letters that say nothing some look like
keys and numbers, and cutting these out would spoil the picture. What only calls itself an image is read as any text.
"""

from __future__ import annotations

import base64
import re

#: the members that hold them: as base64, or as a data URL (RFC 2397)
MEMBERS = frozenset({"url", "image_url", "data", "b64_json", "result"})
_DATA_URL = re.compile(r"data:(?:image|audio|video)/[a-z0-9.+\-]{1,40}(?:;[a-z0-9=.+\-]{1,40}){0,2};base64,")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")
#: how their files begin: PNG, JPEG, GIF, WebP, WAV, MP4 and its like, MP3, Ogg, FLAC
_BEGINS = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....(?:WEBP|WAVE)|....ftyp|ID3[\x02-\x04]|\xff[\xf2-\xfb]|OggS\0|fLaC",
    re.DOTALL,
)


def is_media(text: str, member: str) -> bool:
    """Whether the whole text of this member is the data of an image, a sound or a film."""
    if member not in MEMBERS:
        return False
    url = _DATA_URL.match(text)
    begin = url.end() if url else 0
    if not _BASE64.match(text, begin, begin + 24):
        return False
    begins = _BEGINS.match(base64.b64decode(text[begin : begin + 24]))
    return begins is not None and _BASE64.fullmatch(text, begin) is not None
