"""Policy test results as JUnit XML, the form that CI systems read."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

import msgspec


class Ran(msgspec.Struct, frozen=True):
    """A policy test that was run or an invariant that was tried; `place` is `tests/x.yaml:12`."""

    name: str
    place: str
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures


def junit(results: Sequence[Ran], unfired: Sequence[str] = ()) -> bytes:
    """One testcase a result, its file as class name; with `unfired`, one more for each policy that never fired."""
    failures = sum(not result.passed for result in results) + len(unfired)
    suite = Element("testsuite", name="checkrein", tests=str(len(results) + len(unfired)), failures=str(failures))
    for result in results:
        file, _, line = result.place.rpartition(":")
        case = SubElement(suite, "testcase", classname=file, name=_text(result.name), file=file, line=line)
        if not result.passed:
            failure = SubElement(case, "failure", message=_text(result.failures[0]))
            failure.text = _text("\n".join(result.failures))
    for id in unfired:
        case = SubElement(suite, "testcase", classname="coverage", name=_text(id))
        SubElement(case, "failure", message="no policy test makes it fire")
    suites = Element("testsuites")
    suites.append(suite)
    return bytes(tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def _text(text: str) -> str:
    """Text without the control characters that XML has no way to write."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
