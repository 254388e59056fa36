"""A gate's report in the forms that people and CI systems read: Markdown, JUnit, SARIF 2.1.0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

import msgspec

from checkrein import __version__
from checkrein.flow.promotion import Answered, Outcome, State
from checkrein.model.json import dumps
from checkrein.services.gates import CHALLENGER, Report

Answers = Mapping[str, Sequence[Answered]]
_LEVELS = {State.FAILED: "error", State.OPEN: "warning", State.PASSED: "note", State.SKIPPED: "note"}
_SAID = {
    Outcome.PROMOTE: "promote",
    Outcome.REFUSE: "refuse",
    Outcome.NOT_ENOUGH_EVIDENCE: "not enough evidence",
}


def told(report: Report) -> str:
    """The verdict in one line."""
    needed = report.verdict.needed
    more = f"; {needed:,} cases would settle it" if needed else ""
    return f"{_SAID[report.verdict.outcome]}{more}"


def as_json(report: Report, answers: Answers) -> bytes:
    value = {**msgspec.to_builtins(report), "answers": {arm: list(given) for arm, given in answers.items()}}
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def as_markdown(report: Report, answers: Answers) -> bytes:
    lines = [
        f"# Gate: {told(report)}",
        "",
        f"`{_cell(report.challenger)}` against `{_cell(report.champion)}`, {report.cases} golden cases",
        f"(`{report.golden[:19]}`), verdict `{report.id}`.",
        "",
        "| check | | what was found |",
        "|---|---|---|",
        *(f"| {check.name} | {check.state} | {_cell(check.told)} |" for check in report.verdict.checks),
        "",
    ]
    return "\n".join(lines).encode()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'").replace("\n", " ")


def as_junit(report: Report, answers: Answers) -> bytes:
    """One testcase a check, and one for each case that the challenger failed."""
    suite = Element("testsuite", name=f"checkrein gate {report.id}")
    cases = [(check.name, check.state in (State.FAILED, State.OPEN), check.told) for check in report.verdict.checks]
    for answered in answers.get(CHALLENGER, ()):
        bad = not answered.ok or (answered.score is not None and answered.score < 0.5)
        cases.append((answered.case, bad, answered.error or f"score {answered.score}"))
    for name, bad, why in cases:
        case = SubElement(suite, "testcase", classname="checkrein.gate", name=_text(name))
        if bad:
            SubElement(case, "failure", message=_text(why))
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(bad for _, bad, _ in cases)))
    suites = Element("testsuites")
    suites.append(suite)
    return bytes(tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def _text(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


def as_sarif(report: Report, answers: Answers) -> bytes:
    """SARIF 2.1.0 (OASIS): each check is a rule, and each that did not pass a result."""
    checks = report.verdict.checks
    results = [
        {"ruleId": check.name, "level": _LEVELS[check.state], "message": {"text": check.told}}
        for check in checks
        if check.state in (State.FAILED, State.OPEN)
    ]
    tool = {
        "driver": {
            "name": "checkrein gate",
            "version": __version__,
            "rules": [
                {"id": check.name, "shortDescription": {"text": f"{check.name} of the challenger"}} for check in checks
            ],
        }
    }
    run = {"tool": tool, "results": results, "properties": {"verdict": report.verdict.outcome.value, "id": report.id}}
    document = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    return msgspec.json.format(dumps(document), indent=2) + b"\n"


#: by the ending of the file
FORMS: dict[str, Callable[[Report, Answers], bytes]] = {
    ".json": as_json,
    ".md": as_markdown,
    ".xml": as_junit,
    ".sarif": as_sarif,
}
