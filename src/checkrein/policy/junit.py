"""Policy test results as JUnit XML, the form that CI systems read."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from checkrein.policy.cases import CaseResult


def junit(results: Sequence[CaseResult], unfired: Sequence[str] = ()) -> bytes:
    """One testcase a policy test, its file as class name; with `unfired`, one more for each policy that never fired."""
    failures = sum(not result.passed for result in results) + len(unfired)
    suite = Element("testsuite", name="checkrein", tests=str(len(results) + len(unfired)), failures=str(failures))
    for result in results:
        file, _, line = result.case.place.rpartition(":")
        case = SubElement(suite, "testcase", classname=file, name=_text(result.case.name), file=file, line=line)
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
