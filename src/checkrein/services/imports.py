"""Runs of other evaluation tools as gate runs: inspect_ai's JSON logs, promptfoo's results.

What they scored stays as they scored it; a case is known by the id it had there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from checkrein.flow.promotion import Answered
from checkrein.model import BadRequest
from checkrein.services.gates import CHALLENGER, Line

#: how inspect_ai writes correct, partly correct and incorrect
_GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}


def read_log(data: bytes) -> list[Line]:
    """The answers in a log; raises `BadRequest` for one that neither tool wrote."""
    try:
        value = msgspec.json.decode(data)
    except msgspec.MsgspecError as error:
        raise BadRequest(
            f"the log is not JSON: {error}",
            hint="write it with `inspect log convert --to json`, or `promptfoo eval -o`",
        ) from error
    if isinstance(value, dict) and isinstance(value.get("samples"), list):
        lines = list(_inspect(value["samples"]))
    elif isinstance(value, dict) and isinstance(value.get("results"), dict):
        lines = list(_promptfoo(value["results"].get("results", [])))
    else:
        raise BadRequest("neither inspect_ai nor promptfoo wrote this log", hint="give the JSON log of either")
    if not lines:
        raise BadRequest("the log holds no answers", hint="give the log of a run that finished")
    return lines


def _inspect(samples: list[object]) -> Iterator[Line]:
    for sample in samples:
        if not isinstance(sample, Mapping):
            continue
        output = _map(sample, "output")
        usage = _map(output, "usage")
        failed = sample.get("error")
        answered = Answered(
            case=f"{sample.get('id')}" + (f"/{epoch}" if (epoch := sample.get("epoch", 1)) != 1 else ""),
            ok=not failed,
            latency_ms=_number(sample.get("total_time") or output.get("time")) * 1000,
            score=_inspect_score(_map(sample, "scores")),
            tokens=int(_number(usage.get("total_tokens"))),
            error="the sample failed" if failed else "",
        )
        yield Line(arm=CHALLENGER, answered=answered, text=str(output.get("completion", "")))


def _inspect_score(scores: Mapping[str, object]) -> float | None:
    """The least of the sample's scores."""
    found = []
    for score in scores.values():
        value = score.get("value") if isinstance(score, Mapping) else None
        if isinstance(value, str) and value in _GRADES:
            found.append(_GRADES[value])
        elif isinstance(value, int | float):
            found.append(min(1.0, max(0.0, float(value))))
    return min(found, default=None)


def _promptfoo(results: object) -> Iterator[Line]:
    for number, result in enumerate(results if isinstance(results, list) else []):
        if not isinstance(result, Mapping):
            continue
        response = _map(result, "response")
        error = result.get("error") if not response.get("output") else None
        cost = result.get("cost", response.get("cost"))
        answered = Answered(
            case=str(_map(result, "testCase").get("description") or f"test-{result.get('testIdx', number)}"),
            ok=not error,
            latency_ms=_number(result.get("latencyMs")),
            score=float(bool(result.get("success"))),
            tokens=int(_number(_map(response, "tokenUsage").get("total"))),
            cost=_number(cost) if cost is not None else None,
            error="the test failed to run" if error else "",
        )
        yield Line(arm=CHALLENGER, answered=answered, text=str(response.get("output", "")))


def _map(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
