"""Numbers of people's documents: national ids, driving licences, passports.

The rules of each country come from `python-stdnum`. A number that is written in a way of its own (`850709-9805`) is
found by itself; bare digits need a word nearby that says what they are.
"""

from __future__ import annotations

from types import ModuleType

import stdnum.be.nn
import stdnum.br.cpf
import stdnum.ca.sin
import stdnum.ch.ssn
import stdnum.cl.rut
import stdnum.cn.ric
import stdnum.de.idnr
import stdnum.dk.cpr
import stdnum.es.dni
import stdnum.es.nie
import stdnum.fi.hetu
import stdnum.fr.nir
import stdnum.gb.nhs
import stdnum.hr.oib
import stdnum.ie.pps
import stdnum.il.idnr
import stdnum.in_.aadhaar
import stdnum.in_.pan
import stdnum.it.codicefiscale
import stdnum.kr.rrn
import stdnum.mx.curp
import stdnum.nl.bsn
import stdnum.no.fodselsnummer
import stdnum.pl.pesel
import stdnum.pt.nif
import stdnum.ro.cnp
import stdnum.se.personnummer
import stdnum.tr.tckimlik
import stdnum.us.itin
import stdnum.za.idnr

from checkrein.decide.patterns import latin
from checkrein.decide.rule import CONTEXT_AFTER, Check, Found, Rule, alone, groups, near

_WORD = (
    rb"(?i)(?:\b|_)(?:national.{0,2}id|identity|id.?(?:card|number|no)|insurance.{0,2}(?:number|no)|nino|social|"
    rb"personal.{0,2}(?:number|id|code)|tax.{0,2}(?:id|number|payer)|pesel|bsn|cpf|cnp|oib|dni|nie|nif|nir|curp|rut|rrn|sin|"
    rb"itin|pps|nhs|aadhaa?r|pan|personnummer|f.dselsnummer|hetu|cpr|ahv|avs|steuer.{0,6}|codice.fiscale|"
    rb"s.curit..sociale|resident)(?:\b|_)"
)
_LICENCE = rb"(?i)\bdriv(?:er|ing)['s]{0,2}[ _\-]{0,2}licen[cs]e|\bdriver.?id\b|\bdl.?(?:no|number)\b"
_PASSPORT = rb"(?i)\bpassport|\breisepass|\bpasaporte"

#: how many letters and digits an id has that only a word nearby makes one -> countries with ids of this length
_BY_LENGTH: dict[int, tuple[ModuleType, ...]] = {
    8: (stdnum.ie.pps, stdnum.cl.rut),
    9: (
        stdnum.es.dni,
        stdnum.es.nie,
        stdnum.nl.bsn,
        stdnum.ca.sin,
        stdnum.pt.nif,
        stdnum.il.idnr,
        stdnum.us.itin,
        stdnum.ie.pps,
        stdnum.cl.rut,
    ),
    10: (stdnum.gb.nhs, stdnum.dk.cpr, stdnum.se.personnummer, stdnum.in_.pan),
    11: (
        stdnum.be.nn,
        stdnum.br.cpf,
        stdnum.de.idnr,
        stdnum.hr.oib,
        stdnum.no.fodselsnummer,
        stdnum.pl.pesel,
        stdnum.tr.tckimlik,
    ),
    12: (stdnum.in_.aadhaar, stdnum.se.personnummer),
    13: (stdnum.ch.ssn, stdnum.ro.cnp, stdnum.za.idnr, stdnum.fr.nir),
    15: (stdnum.fr.nir,),
}


def _valid(module: ModuleType, text: str) -> bool:
    """Whether a country's rules admit it. Where its tables have a gap and the module fails, it counts as an id."""
    try:
        return bool(module.is_valid(text))
    except Exception:  # noqa: BLE001 - the modules promise none, and a text must not be able to stop a decision
        return True


def _written(*modules: ModuleType) -> Check:
    """The check of an id that is told by how it is written."""

    def check(data: bytes, start: int, end: int, _field: bytes) -> Found:
        text = data[start:end].decode("ascii")
        if alone(data, start, end) and any(_valid(module, text) for module in modules):
            yield start, end

    return check


_ID_WORD = latin(_WORD)


def _called(data: bytes, start: int, end: int, field: bytes) -> Found:
    """An id of some country, with a word nearby; what stands before or after its digits may belong to it."""
    if not alone(data, start, end) or not near(_ID_WORD, data, start, end, field):
        return
    runs = groups(data, start, end)
    first, last = runs[0][0], runs[-1][1]
    for begin, stop in dict.fromkeys(((start, end), (first, end), (start, last), (first, last))):
        text = data[begin:stop].decode("ascii")
        modules = _BY_LENGTH.get(sum(map(str.isalnum, text)), ())
        if any(_valid(module, text) for module in modules):
            yield begin, stop
            return


def _named(cls: str, pattern: bytes, word: bytes) -> Rule:
    """A number that a word nearby names; its form says little."""
    named = latin(word)

    def check(data: bytes, start: int, end: int, field: bytes) -> Found:
        digits = sum(48 <= byte <= 57 for byte in data[start:end])
        if digits >= 5 and alone(data, start, end) and near(named, data, start, end, field):
            yield start, end

    return Rule(cls, pattern, check, 2, after=CONTEXT_AFTER, word=word)


def _id(least: int, pattern: bytes, *modules: ModuleType) -> Rule:
    return Rule("pii.national_id", pattern, _written(*modules), 3, least=least, after=1)


IDENTITY = (
    _id(16, rb"[A-Za-z]{6}\d{2}[A-Za-z]\d{2}[A-Za-z]\d{3}[A-Za-z]", stdnum.it.codicefiscale),
    _id(18, rb"[A-Za-z]{4}\d{6}[HMhm][A-Za-z]{5}[A-Za-z0-9]\d", stdnum.mx.curp),
    _id(16, rb"756\.\d{4}\.\d{4}\.\d{2}", stdnum.ch.ssn),
    _id(11, rb"\d{6}[\-+Aa]\d{3}[\dA-Ya-y]", stdnum.fi.hetu, stdnum.se.personnummer, stdnum.dk.cpr),
    _id(14, rb"\d{3}\.\d{3}\.\d{3}-\d{2}", stdnum.br.cpf),
    _id(18, rb"\d{17}[\dXx]", stdnum.cn.ric),
    _id(14, rb"\d{6}-\d{7}", stdnum.kr.rrn),
    _id(15, rb"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", stdnum.be.nn),
    _id(11, rb"\d{1,2}\.\d{3}\.\d{3}-[\dKk]", stdnum.cl.rut),
    Rule(
        "pii.national_id",
        rb"(?:[A-Za-z]{5}|[A-Za-z]-?)?\d(?:[ .\-/]?\d){3,14}(?:[ \-]?[A-Za-z]{1,2})?",
        _called,
        3,
        after=CONTEXT_AFTER,
        word=_WORD,
    ),
    _named("pii.national_id", rb"[A-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]", _WORD),
    _named("pii.driver_license", rb"[A-Za-z]{0,2}\d(?:-?[A-Za-z0-9]){4,18}", _LICENCE),
    _named("pii.passport", rb"[A-Za-z]{0,2}\d{5,9}", _PASSPORT),
)
