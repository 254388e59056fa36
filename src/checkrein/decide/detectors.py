"""The built-in detectors of personal data, and all detectors together (`RULES`).

To add a class, add a `Rule`; a secret belongs in `secrets`, the number of a person's document in `identity`.
"""

from __future__ import annotations

import ipaddress
import re
from itertools import accumulate

import phonenumbers
import stdnum.iban
import stdnum.us.ssn

from checkrein.decide.identity import IDENTITY
from checkrein.decide.patterns import latin
from checkrein.decide.rule import CONTEXT_AFTER, Found, Rule, alone, groups, near
from checkrein.decide.secrets import SECRETS

# words that say what the digits near them are; a placeholder such as `<PHONE_1>` is none of them
_PHONE = rb"(?i)\b(?:[a-z_]*phone|tel|telefon|mobile|handy|cell|call|fax|sms|whatsapp)(?:_?(?:no|num|number))?\b"
_PHONE_WORD = latin(_PHONE)
#: words that make a phone number of digits written in groups, in prose: as the name of a field they say too little
_REACHED_WORD = latin(
    rb"(?i)\b(?:office|desk|messages?|text(?:ed|ing)?|answer(?:s|ed|ing)?|reach|contact|dial|ring|pager)\b"
)
_CARD = rb"(?i)(?:\b|_)(?:cards?|cc|visa|mastercard|maestro|amex|jcb|discover|diners)(?:\b|_)"
_CARD_WORD = latin(_CARD)
_SSN = rb"(?i)(?:\b|_)(?:ssn|social.?security|tax.?id|itin)(?:_?(?:no|num|number))?\b"
_SSN_WORD = latin(_SSN)
_DATE = re.compile(rb"(?:19|20)[0-9][0-9][-./ ](?:0?[1-9]|1[0-2])[-./ ](?:0?[1-9]|[12][0-9]|3[01])")


_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))


def _issued(size: int, head: int) -> bool:
    """Whether some issuer uses this length with these first four digits; those who only once did need a word."""
    return (
        (head // 1000 == 4 and size in (16, 19))
        or (size == 16 and (5100 <= head <= 5599 or 2221 <= head <= 2720 or 3528 <= head <= 3589))
        or (size == 15 and head // 100 in (34, 37))
        or (size in (14, 16, 19) and (3000 <= head <= 3059 or head // 100 in (36, 38, 39)))
        or (size in (16, 19) and (head == 6011 or 6440 <= head <= 6599 or head // 100 in (62, 81)))
        or (size in (16, 19) and head // 100 in (50, 56, 57, 58, 63, 67, 69))
    )


def _checked(digits: bytes) -> bool:
    """Whether the last digit is the right one (Luhn)."""
    total = sum(digits[-1::-2]) - 48 * len(digits[-1::-2]) + sum(digits[-2::-2].translate(_DOUBLED))
    return total % 10 == 0


_USUAL = b"0123456789 .-"


def _grouped(data: bytes, start: int, end: int) -> bool:
    """Whether digits are written as those of a card: between other signs than usual, in its groups or one by one."""
    if not data[start:end].translate(None, _USUAL):
        return True
    sizes = [last - first for first, last in groups(data, start, end)]
    return sizes in ([4, 4, 4, 4], [4, 6, 5]) or set(sizes) == {1}


def _card(data: bytes, start: int, end: int, field: bytes) -> Found:
    """Runs of whole digit groups, longest first, so that a security code or a date after the card is left.

    With a word nearby it may be a card of any issuer, also of those with numbers of another length.
    """
    found = groups(data, start, end)
    digits = b"".join([data[first:last] for first, last in found])
    ends = dict(zip(accumulate(last - first for first, last in found), (last for _, last in found), strict=True))
    any_issuer: bool | None = None
    taken = count = 0
    for first, last in found:
        for size in range(19, 11, -1) if count >= taken else ():
            place = ends.get(count + size)
            if place is None or not _checked(digits[count : count + size]):
                continue
            if not _issued(size, int(digits[count : count + 4])):
                if any_issuer is None:
                    any_issuer = near(_CARD_WORD, data, start, end, field)
                if not any_issuer:
                    continue
            if _grouped(data, first, place):
                yield first, place
                taken = count + size
                break
        count += last - first


#: letters that pass for digits
_AS_DIGITS = bytes.maketrans(b"OoIl", b"0011")


def _lettered_card(data: bytes, start: int, end: int, _field: bytes) -> Found:
    """A card in which letters stand for some of the digits."""
    value = data[start:end]
    digits = value.translate(_AS_DIGITS, b" .-")
    enough = sum(48 <= byte <= 57 for byte in value) >= 8
    if enough and alone(data, start, end) and _issued(len(digits), int(digits[:4])) and _checked(digits):
        yield start, end


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
        if not text[last : last + 1].isalnum() and stdnum.iban.is_valid(
            "".join(text[place] for place in places[:size]), check_country=False
        ):
            yield start, start + last


def _ssn(data: bytes, start: int, end: int, field: bytes) -> Found:
    text = data[start:end].decode("ascii")
    dashed = len(text) == 11 and text[3] == text[6] and text[3] in "-/."
    if alone(data, start, end) and (dashed or near(_SSN_WORD, data, start, end, field)):
        digits = "".join(filter(str.isdigit, text))
        if stdnum.us.ssn.is_valid(digits):
            yield start, end


def _ip(data: bytes, start: int, end: int, _field: bytes) -> Found:
    before, after = data[max(0, start - 1) : start], data[end : end + 2]
    if not alone(data, start, end) or before in (b".", b":") or (after[:1] in (b".", b":") and after[1:].isalnum()):
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
    found = groups(data, start, end)
    index = 0
    while index < len(found):
        last = _phone_end(data, found[index : index + _PHONE_GROUPS], field)
        if last is None:
            index += 1
            continue
        first = found[index][0]
        while first > start and data[first - 1 : first] in (b"+", b"("):
            first -= 1
        yield first, last
        while index < len(found) and found[index][0] < last:
            index += 1


_PHONE_GROUPS = 6
#: an extension, and the words after it
_PHONE_AFTER = CONTEXT_AFTER + 16
_EXTENSION = re.compile(rb"(?i) ?(?:x|ext\.?) ?[0-9]{1,6}")


def _phone_end(data: bytes, found: list[tuple[int, int]], field: bytes) -> int | None:
    """Where the longest phone number ends that starts with the first group, if one does."""
    first = found[0][0]
    before = data[max(0, first - 2) : first]
    if before[-1:].isalnum():
        return None
    ends: list[int] = []
    digits = b""
    shape: list[int] = []
    for start, end in found:
        if shape and start - ends[-1] > 3:
            break
        digits += data[start:end]
        shape.append(end - start)
        ends.append(end)
        if len(digits) >= 15:
            break
    sizes = list(accumulate(shape))
    extended = _EXTENSION.match(data, ends[-1])
    longest = extended.end() if extended is not None else ends[-1]
    fitting = [end for end, size in zip(ends, sizes, strict=True) if 6 <= size <= 15]
    fitting = [
        end for end in fitting if not data[end : end + 1].isalnum() or (extended is not None and end == ends[-1])
    ]
    if not fitting:
        return None

    def whole(end: int) -> int:
        return longest if end == ends[-1] else end

    if before.rstrip(b"( ").endswith(b"+"):
        return whole(fitting[-1]) if _country(digits) and sizes[ends.index(fitting[-1])] >= 7 else None
    if before[-1:] in (b".", b"-", b"$", b"/") or (before[-1:] == b"," and before[:1].isdigit()):
        return None
    for north_american in ([3, 3, 4], [1, 3, 3, 4]):
        size = len(north_american)
        if shape[:size] == north_american and ends[size - 1] in fitting and digits[size - 3] > ord("1"):
            return whole(ends[size - 1])
    last = fitting[-1]
    grouped, size = ends.index(last) > 0, sizes[ends.index(last)]
    if _DATE.match(data[first:last]) or (size < 7 and not grouped):
        return None
    if near(_PHONE_WORD, data, first, last, field) or (
        size >= 7 and grouped and near(_REACHED_WORD, data, first, last)
    ):
        return whole(last)
    return None


def _country(digits: bytes) -> bool:
    """Whether the digits start with a country's calling code."""
    return any(int(digits[:size]) in phonenumbers.COUNTRY_CODE_TO_REGION_CODE for size in (1, 2, 3))


PERSONAL = (
    Rule(
        "pii.email",  # an apostrophe may stand in the name; one at its beginning is a quote
        rb"[A-Za-z0-9\xe9._%+\-][A-Za-z0-9\xe9._%+'\-]*@[A-Za-z0-9\xe9\-]+(?:\.[A-Za-z0-9\xe9\-]+)*\.[A-Za-z\xe9]{2,}",
    ),
    Rule("pii.card", rb"\d(?:[^A-Za-z0-9<>]{0,3}\d){11,}", _card, 3, least=12, after=CONTEXT_AFTER),
    Rule("pii.card", rb"[\dOoIl]{4}(?:[ .\-]?[\dOoIl]{4}){3}", _lettered_card, 3, short=True, least=16, after=1),
    Rule("pii.iban", rb"(?i)\b[a-z]{2}\d\d(?:[ \-._/]?[a-z0-9]){11,29}", _iban, 3, short=True, least=15, after=1),
    Rule("pii.ssn", rb"\d{3}[ .\-/_]?\d{2}[ .\-/_]?\d{4}", _ssn, 3, short=True, least=9, after=CONTEXT_AFTER),
    Rule("pii.ip", rb"(?:\d{1,3}\.){3}\d{1,3}", _ip, least=7, after=2),
    Rule(
        "pii.ip", rb"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:(?:\d{1,3}\.){3}\d{1,3})?", _ip, short=True, after=2
    ),
    Rule("pii.phone", rb"[+(]{0,2}\d[\d ().\-/]{5,}\d", _phone, 1, least=7, after=_PHONE_AFTER),
)
#: addresses on the network: no personal data by themselves, so that a policy must name them to have them taken out
NETWORK = (
    Rule("net.url", rb"(?i)\b(?:https?://|www\.)[^\s\"'<>()]{3,}"),
    Rule(
        "net.domain",
        rb"(?i)\b(?:[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?\.){1,4}(?:com|org|net|edu|gov|info|biz|io|dev|app|ai|[a-z]{2})\b",
    ),
)
RULES = (*PERSONAL, *NETWORK, *IDENTITY, *SECRETS)

#: what a member of a JSON object is called, in lower case without separators -> the class of its whole value
FIELDS = {
    **dict.fromkeys(
        ("firstname", "lastname", "middlename", "fullname", "surname", "givenname", "familyname", "maidenname",
         "customername", "patientname", "employeename", "cardholder", "cardholdername", "accountholder"),
        "pii.person_name",
    ),
    **dict.fromkeys(
        ("street", "streetaddress", "streetname", "address1", "address2", "addressline1", "addressline2", "homeaddress",
         "postaladdress", "mailingaddress", "billingaddress", "shippingaddress", "deliveryaddress", "zip", "zipcode",
         "postalcode", "postcode"),
        "pii.address",
    ),
    **dict.fromkeys(("birthdate", "dateofbirth", "dob", "birthday"), "pii.birth_date"),
    **dict.fromkeys(("ssn", "socialsecuritynumber"), "pii.ssn"),
    **dict.fromkeys(
        ("password", "passwd", "passphrase", "apikey", "accesstoken", "refreshtoken", "authtoken", "clientsecret",
         "secretkey", "secretaccesskey", "privatekey", "accountkey", "bearertoken"),
        "secret.password",
    ),
}  # fmt: skip

#: a number of so few digits and nothing else is none of these, unless the name of its field has one of these words
BARE_DIGITS = 12
BARE_WORD = latin(
    b"|".join(
        b"(?i:%s)" % word.removeprefix(b"(?i)")
        for word in dict.fromkeys((_PHONE, _SSN, _CARD, *(rule.word for rule in RULES if rule.word)))
    )
)
#: names of placeholders that stand for no class: for what is withheld, and for text that looks like a placeholder
WITHHELD, ESCAPED = "withheld", "placeholder"
_CLASSES = {*(rule.cls for rule in RULES), *FIELDS.values(), WITHHELD, ESCAPED}
_NAMES = sorted({cls.rpartition(".")[2].upper() for cls in _CLASSES})
#: a placeholder; its few digits can be no personal data
TOKEN = Rule("", rf"<(?:{'|'.join(_NAMES)})_[1-9]\d{{0,5}}>".encode(), None, 9)
