"""The built-in detectors: patterns for personal data and secrets, and the checks behind them.

A pattern runs over the image of a text (`fold.image`: one byte a character). What it cannot know, a check
decides. To add a class, add a `Rule` at the end.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from itertools import accumulate

import msgspec
import phonenumbers
import re2
import stdnum.iban
import stdnum.us.ssn

from checkrein.decide.patterns import latin

Found = Iterable[tuple[int, int]]
Check = Callable[[bytes, int, int, bytes], Found]


class Rule(msgspec.Struct, frozen=True):
    """A pattern, and a check that turns a candidate of it into spans.

    `strength` decides between overlaps. A candidate is the whole match, or group 1. `short` candidates have a
    bounded length: what a check leaves of one is looked at again. The check looks at no more than `after` bytes
    behind a candidate, and only at those of its line.
    """

    cls: str
    pattern: bytes
    check: Check | None = None
    strength: int = 2
    short: bool = False
    after: int = 0


#: how far before a candidate a word may stand that gives it its meaning, and how far after it
CONTEXT = 40
CONTEXT_AFTER = 20


# words that say what the digits near them are; a placeholder such as `<PHONE_1>` is none of them
_PHONE_WORD = latin(
    rb"(?i)\b(?:[a-z_]*phone|tel|telefon|mobile|handy|cell|call|fax|sms|whatsapp)(?:_?(?:no|num|number))?\b"
)
_SSN_WORD = latin(rb"(?i)(?:\b|_)(?:ssn|social.?security|tax.?id|itin)(?:_?(?:no|num|number))?\b")
_DATE = latin(rb"(?:19|20)\d\d[-./ ](?:0?[1-9]|1[0-2])[-./ ](?:0?[1-9]|[12]\d|3[01])")
_DIGITS = latin(rb"\d+")


# Checks. Each gets the image, a candidate's place in it and the field's name, and yields what it confirms.
# Each is linear in the candidate, with a small factor: the text may be made to cost as much as it can.


def _near(word: re2._Regexp, data: bytes, start: int, end: int, field: bytes) -> bool:
    """Whether the word stands shortly before or after the candidate, or in the field's name."""
    before = data[max(0, start - CONTEXT) : start]
    after = data[end : end + CONTEXT_AFTER].split(b"\n")[0]
    return any(word.search(part) is not None for part in (before, after, field))


def _alone(data: bytes, start: int, end: int) -> bool:
    """Whether the candidate is not a piece of a longer word or number."""
    before = data[start - 1 : start] if start else b""
    return not (before.isalnum() or data[end : end + 1].isalnum())


def _groups(data: bytes, start: int, end: int) -> list[tuple[int, int]]:
    return [(start + match.start(), start + match.end()) for match in _DIGITS.finditer(data[start:end])]


_CARD_STARTS = b"234568"
_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))


def _card_number(digits: bytes) -> bool:
    """A length and first digits that some issuer uses, and a right check digit (Luhn)."""
    size, head = len(digits), int(digits[:4])
    issued = (
        (head // 1000 == 4 and size in (13, 16, 19))
        or (size == 16 and (5100 <= head <= 5599 or 2221 <= head <= 2720 or 3528 <= head <= 3589))
        or (size == 15 and head // 100 in (34, 37))
        or (size in (14, 16, 19) and (3000 <= head <= 3059 or head // 100 in (36, 38, 39)))
        or (size >= 16 and (head == 6011 or 6440 <= head <= 6599 or head // 100 in (62, 81)))
        or head // 100 in (50, 56, 57, 58, 63, 67, 69)
    )
    if not issued:
        return False
    total = sum(digits[-1::-2]) - 48 * len(digits[-1::-2]) + sum(digits[-2::-2].translate(_DOUBLED))
    return total % 10 == 0


def _card(data: bytes, start: int, end: int, _field: bytes) -> Found:
    """Runs of whole digit groups, longest first, so that a security code or a date after the card is left."""
    groups = _groups(data, start, end)
    digits = b"".join(data[first:last] for first, last in groups)
    ends: dict[int, int] = {}
    count = 0
    for first, last in groups:
        count += last - first
        ends[count] = last
    taken = count = 0
    for first, last in groups:
        sizes = range(19, 12, -1) if count >= taken and data[first] in _CARD_STARTS else ()
        for size in sizes:
            place = ends.get(count + size)
            if place is not None and _card_number(digits[count : count + size]):
                yield first, place
                taken = count + size
                break
        count += last - first


#: length of an IBAN -> countries that use it (SWIFT's IBAN registry)
_IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_IBAN_LENGTHS = {code: size for size, codes in _IBAN_COUNTRIES.items() for code in codes.split()}


def _iban(data: bytes, start: int, end: int, _field: bytes) -> Found:
    text = data[start:end].decode("ascii").upper()
    places = [place for place, char in enumerate(text) if char.isalnum()]
    size = _IBAN_LENGTHS.get(text[:2], 0)
    if 0 < size <= len(places):
        last = places[size - 1] + 1
        if not text[last : last + 1].isalnum() and stdnum.iban.is_valid(text[:last], check_country=False):
            yield start, start + last


def _ssn(data: bytes, start: int, end: int, field: bytes) -> Found:
    text = data[start:end].decode("ascii")
    dashed = text.count("-") == 2
    if _alone(data, start, end) and (dashed or _near(_SSN_WORD, data, start, end, field)):
        digits = text.replace("-", "").replace(" ", "")
        if stdnum.us.ssn.is_valid(digits):
            yield start, end


def _ip(data: bytes, start: int, end: int, _field: bytes) -> Found:
    before, after = data[max(0, start - 1) : start], data[end : end + 2]
    if not _alone(data, start, end) or before in (b".", b":") or (after[:1] in (b".", b":") and after[1:].isalnum()):
        return
    try:
        address = ipaddress.ip_address(data[start:end].decode("ascii"))
    except ValueError:
        return
    # `a::b` is an address and also how some languages write a member: ask for one long group
    named = address.version == 4 or any(len(group) > 2 for group in str(address).split(":"))
    if named and not (address.is_loopback or address.is_unspecified):
        yield start, end


def _phone(data: bytes, start: int, end: int, field: bytes) -> Found:
    """Runs of whole digit groups: international or North American numbers, others with a word nearby."""
    groups = _groups(data, start, end)
    index = 0
    while index < len(groups):
        last = _phone_end(data, groups[index : index + _PHONE_GROUPS], field)
        if last is None:
            index += 1
            continue
        first = groups[index][0]
        while first > start and data[first - 1 : first] in (b"+", b"("):
            first -= 1
        yield first, last
        while index < len(groups) and groups[index][0] < last:
            index += 1


_PHONE_GROUPS = 6


def _phone_end(data: bytes, groups: list[tuple[int, int]], field: bytes) -> int | None:
    """Where the longest phone number ends that starts with the first group, if one does."""
    first = groups[0][0]
    before = data[max(0, first - 2) : first]
    if before[-1:].isalnum():
        return None
    ends: list[int] = []
    digits = b""
    shape: list[int] = []
    for start, end in groups:
        if shape and start - ends[-1] > 3:
            break
        digits += data[start:end]
        shape.append(end - start)
        ends.append(end)
        if len(digits) >= 15:
            break
    sizes = list(accumulate(shape))
    fitting = [end for end, size in zip(ends, sizes, strict=True) if 7 <= size <= 15]
    fitting = [end for end in fitting if not data[end : end + 1].isalnum()]
    if not fitting:
        return None
    if before.rstrip(b"( ").endswith(b"+"):
        return fitting[-1] if _country(digits) else None
    if before[-1:] in (b".", b",", b"-", b"$", b"/"):
        return None
    for north_american in ([3, 3, 4], [1, 3, 3, 4]):
        size = len(north_american)
        if shape[:size] == north_american and ends[size - 1] in fitting and digits[size - 3] > ord("1"):
            return ends[size - 1]
    if not _DATE.match(data[first : fitting[-1]]) and _near(_PHONE_WORD, data, first, fitting[-1], field):
        return fitting[-1]
    return None


def _country(digits: bytes) -> bool:
    """Whether the digits start with a country's calling code."""
    return any(int(digits[:size]) in phonenumbers.COUNTRY_CODE_TO_REGION_CODE for size in (1, 2, 3))


def _mixed(data: bytes, start: int, end: int, _field: bytes) -> Found:
    """A secret is not a word: it has a digit and a letter, and does not repeat itself."""
    value = data[start:end]
    if any(48 <= byte <= 57 for byte in value) and any(byte > 57 for byte in value) and len(set(value)) > 4:
        yield start, end


RULES = (
    Rule("pii.email", rb"[A-Za-z0-9\xe9._%+'\-]+@[A-Za-z0-9\xe9\-]+(?:\.[A-Za-z0-9\xe9\-]+)*\.[A-Za-z\xe9]{2,}"),
    Rule("pii.card", rb"\d[\d .\-]{10,}\d", _card, 3),
    Rule("pii.iban", rb"(?i)\b[a-z]{2}\d\d(?:[ \-]?[a-z0-9]){11,29}", _iban, 3, short=True, after=1),
    Rule("pii.ssn", rb"\d{3}[ \-]?\d{2}[ \-]?\d{4}", _ssn, 3, short=True, after=CONTEXT_AFTER),
    Rule("pii.ip", rb"(?:\d{1,3}\.){3}\d{1,3}", _ip, after=2),
    Rule(
        "pii.ip", rb"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:(?:\d{1,3}\.){3}\d{1,3})?", _ip, short=True, after=2
    ),
    Rule("pii.phone", rb"[+(]{0,2}\d[\d ().\-/]{5,}\d", _phone, 1, after=CONTEXT_AFTER),
    Rule("secret.aws_key", rb"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b", None, 4),
    Rule(
        "secret.aws_key",
        rb"(?i)aws[a-z0-9_\- ]{0,20}(?:secret|key)[a-z_\- ]{0,20}[\"']?\s*[:=]\s*[\"']?([a-z0-9/+]{40})",
        None,
        4,
    ),
    Rule(
        "secret.github_token",
        rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})",
        None,
        4,
    ),
    Rule("secret.gitlab_token", rb"\bgl(?:pat|ptt|dt|rt|cbt|ft)-[A-Za-z0-9_\-]{20,}", None, 4),
    Rule("secret.anthropic_key", rb"\bsk-ant-[A-Za-z0-9_\-]{20,}", None, 5),
    Rule("secret.openai_key", rb"\bsk-[A-Za-z0-9_\-]{20,}", _mixed, 4),
    Rule("secret.google_key", rb"\bAIza[A-Za-z0-9_\-]{35}", None, 4),
    Rule("secret.stripe_key", rb"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}", None, 4),
    Rule("secret.slack_token", rb"\bxox[abeoprs]-[A-Za-z0-9\-]{10,}", None, 4),
    Rule(
        "secret.slack_token",
        rb"\bhttps://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9+/]{20,}",
        None,
        4,
    ),
    Rule("secret.npm_token", rb"\bnpm_[A-Za-z0-9]{36}", None, 4),
    Rule("secret.pypi_token", rb"\bpypi-AgE[A-Za-z0-9_\-]{50,}", None, 4),
    Rule("secret.huggingface_token", rb"\bhf_[A-Za-z0-9]{30,}", None, 4),
    Rule("secret.sendgrid_key", rb"\bSG\.[A-Za-z0-9_\-]{20,24}\.[A-Za-z0-9_\-]{40,46}", None, 4),
    Rule("secret.jwt", rb"\beyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*", None, 4),
    Rule(
        "secret.private_key",
        rb"-----BEGIN[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:[^\-]|-[^\-])*"
        rb"(?:-----END[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----)?",
        None,
        6,
    ),
    Rule(
        "secret.connection_string",
        rb"(?i)\b[a-z][a-z0-9+.\-]{1,30}://[^\s:/@\"'<>]*:[^\s/\"'<>]+@[^\s\"'<>,]+",
        None,
        5,
    ),
    Rule("secret.bearer_token", rb"(?i)\bbearer\s+([a-z0-9._~+/\-]{20,}=*)", _mixed, 3),
    Rule(
        "secret.password",
        rb"(?i)(?:password|passwd|pwd|api[_\- ]?key|accountkey|sharedaccesskey|client[_\- ]?secret|"
        rb"secret[_\- ]?key|(?:access|auth|bearer)[_\- ]?token)[\"']?\s*(?:[:=]|\bis\b)\s*"
        rb"[\"']?([^\s\"',;<>]{8,})",
        _mixed,
        3,
    ),
)

#: names of placeholders that stand for no class: for what is withheld, and for text that looks like a placeholder
WITHHELD, ESCAPED = "withheld", "placeholder"
_NAMES = sorted({rule.cls.rpartition(".")[2].upper() for rule in RULES} | {WITHHELD.upper(), ESCAPED.upper()})
#: a placeholder; its few digits can be no personal data
TOKEN = Rule("", rf"<(?:{'|'.join(_NAMES)})_[1-9]\d{{0,5}}>".encode(), None, 9)
