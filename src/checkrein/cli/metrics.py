"""`checkrein metrics`: how well a deployment governs, beside what it wants to reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from checkrein.cli.common import HERE, Data, Dir, Format, Output, emit, examples, print_json, system
from checkrein.cli.tables import print_table
from checkrein.model.stamp import moment, stamp

if TYPE_CHECKING:
    from checkrein.services.metrics import Measure


def register(app: typer.Typer) -> None:
    app.command(
        short_help="How well it governs, beside its targets.",
        epilog=examples("checkrein metrics --dir governance", "checkrein metrics --since 24h -o json"),
    )(metrics)


def metrics(
    since: Annotated[
        str, typer.Option(metavar="TIME", help="From then on, such as 24h.", show_default="targets.window")
    ] = "",
    dir: Dir = HERE,
    data: Data = None,
    output: Format = Output.TABLE,
) -> None:
    """Show how well this deployment governs: each measure with its target, and how it was counted.

    Targets stand under `[targets]` in checkrein.toml. Where there is nothing to count no target is met. A running
    server tells the same, and what it does now, at /metrics.
    """
    with system(dir, data) as opened:
        since_us = moment(since, opened.clock.now_us()) if since else 0
        found = opened.measured(since_us)
    if output is Output.JSON:
        measures = [{**msgspec.to_builtins(each), "standing": each.standing.value} for each in found.measures]
        told = {"since": stamp(found.since_us), "records": found.records, "measures": measures}
        counts = [{name: getattr(each, name) for name in ("kind", "outcome", "risk", "count")} for each in found.counts]
        print_json({**told, "counts": counts})
        return
    emit(f"since {stamp(found.since_us)[:16].replace('T', ' ')} UTC, {found.records:,} records")
    emit("")
    print_table(
        ("measure", "target", "value", "", "how it was counted"),
        [
            (_named(each), _target(each), _figure(each.value, each), each.standing.value, each.how)
            for each in found.measures
        ],
        empty="",
        prose=("how it was counted",),
    )
    if found.counts:
        emit("")
        print_table(
            ("records", "outcome", "risk", "count"),
            [(each.kind, each.outcome, each.risk, f"{each.count:,}") for each in found.counts],
            empty="",
        )


def _named(measure: Measure) -> str:
    return measure.name.replace("_", " ")


def _target(measure: Measure) -> str:
    if measure.target is None:
        return ""
    return f"{'>' if measure.at_least else '<'} {_figure(measure.target, measure)}"


def _figure(value: float | None, measure: Measure) -> str:
    if value is None:
        return ""
    match measure.unit.value:
        case "share":
            return f"{value * 100:.6g} %"
        case "ms":
            return f"{value:g} ms"
    return f"{value:.3g}"
