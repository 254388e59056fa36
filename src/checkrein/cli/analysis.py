"""`checkrein diff`, and what `checkrein check` says when z3 is there to look deeper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from checkrein.cli.common import Format, Output, emit, examples, print_json, say
from checkrein.cli.tables import print_table
from checkrein.model import CheckreinError, PolicyInvalid

if TYPE_CHECKING:
    from checkrein.analysis.diff import Difference, Row
    from checkrein.analysis.invariants import Checked, Invariant
    from checkrein.analysis.witness import Witness
    from checkrein.policy.bundle import Bundle
    from checkrein.policy.junit import Ran


def register(app: typer.Typer) -> None:
    app.command(
        short_help="Which requests two versions of the policies decide otherwise.",
        epilog=examples(
            "checkrein diff governance candidate",
            "checkrein diff released.tar governance --forbid-loosening      in a build: exits 5",
            "checkrein diff governance candidate -o json | jq '.rows[].witness'",
        ),
    )(diff)


def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A governance folder or a bundle.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another.")],
    forbid_loosening: Annotated[
        bool, typer.Option("--forbid-loosening", help="Exit 5 if anything may get laxer.")
    ] = False,
    output: Format = Output.TABLE,
) -> None:
    """List every class of request whose outcome or duty changes, each with a request that the evaluator confirms.

    No rows is a proof that both decide every request alike. What could not be told is said, and counts as laxer.
    Needs `pip install 'checkrein[analysis]'`.
    """
    from checkrein.analysis.diff import compare

    difference = compare(_load(before)[0], _load(after)[0])
    if output is Output.JSON:
        print_json(difference.to_json())
    else:
        _show(difference)
    if forbid_loosening and difference.may_loosen:
        say(f"{after} may be laxer than {before}")
        raise typer.Exit(PolicyInvalid.exit_code)


def _show(difference: Difference) -> None:
    if difference.equivalent:
        emit("every request is decided alike: proved")
    else:
        print_table(
            ("", "before", "after", "decided by", "then by", "for example"),
            [_cells(row) for row in difference.rows],
            empty="no request is decided otherwise by the policies",
            prose=("decided by", "then by", "for example"),
        )
    for change in difference.truncated:
        say(f"there are more of {change} than are shown")
    for text in difference.unknown:
        say(f"not told: {text}")
    for text in difference.manifests:
        say(f"{text}: what a request's risk and labels are may change too, which is not compared")
    for note in difference.notes:
        say(f"warning: {note}")


def _cells(row: Row) -> tuple[str, ...]:
    mark = "looser" if row.loosening else "stricter"
    example = "none could be made"
    if row.witness is not None:
        example = _sentence(row.witness) if row.confirmed else f"unconfirmed: {_sentence(row.witness)}"
    decided, then = (", ".join(ids) or "no policy" for ids in (row.policies_before, row.policies_after))
    if not row.confirmed:
        decided = then = ""
    return mark, row.before.wire, row.after.wire, decided, f"{then}: {row.duty}" if row.duty else then, example


def _sentence(witness: Witness) -> str:
    """`pay amount=1001 by user alice (treasury), labels pii`"""
    request = witness.request
    input = "".join(f" {name}={json.dumps(value)}" for name, value in request.action.input.items())
    roles = f" ({', '.join(request.subject.roles)})" if request.subject.roles else ""
    labels = f", labels {' '.join(witness.labels)}" if witness.labels else ""
    return f"{request.action.name}{input} by {request.subject.type} {request.subject.id}{roles}{labels}"


class Analysis(NamedTuple):
    """What a deeper look at a folder found, one line each. A problem fails the check, a warning does not."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def analyze(folder: Path) -> Analysis:
    """Dead, shadowed and contradictory policies of a folder or bundle, and its invariants.

    Without z3 the policies are a warning, and every invariant a problem: nobody knows whether it holds. Raises
    `PolicyInvalid` if the folder does not load.
    """
    from checkrein.analysis import logic
    from checkrein.analysis.findings import What, analyse
    from checkrein.analysis.invariants import check
    from checkrein.policy.source import problem

    bundle, files = _load(folder)
    invariants, problems = _invariants(bundle, files)
    try:
        logic.load()
    except CheckreinError as error:
        unproved = (
            problem(each.place, f"the invariant `{each.name[:80]}` is {_unproved(error)}") for each in invariants
        )
        return Analysis((*problems, *unproved), (f"not analysed: {error} ({error.hint})",))
    findings = analyse(bundle)
    checked = check(bundle, invariants)
    told = [finding for finding in findings.found if finding.what is not What.UNKNOWN]
    untold = [finding for finding in findings.found if finding.what is What.UNKNOWN]
    return Analysis(
        (*map(str, told), *problems, *(str(result) for result in checked if not result.holds)),
        (*map(str, untold), *findings.notes, *(note for result in checked[:1] for note in result.notes)),
    )


def prove(folder: Path) -> tuple[Ran, ...]:
    """The invariants of a folder or bundle; one that is not proved has failed. Raises `PolicyInvalid`."""
    from checkrein.analysis.invariants import check
    from checkrein.policy.junit import Ran

    bundle, files = _load(folder)
    invariants, problems = _invariants(bundle, files)
    if problems:
        raise PolicyInvalid(f"{folder} has invariants that cannot be read", problems=problems, hint="mend the lines")
    try:
        checked = check(bundle, invariants)
    except CheckreinError as error:  # z3 is not installed
        return tuple(Ran(each.name, each.place, (_unproved(error),)) for each in invariants)
    return tuple(Ran(each.invariant.name, each.invariant.place, _against(each)) for each in checked)


def _unproved(error: CheckreinError) -> str:
    return f"not proved: {error} ({error.hint})"


def _against(checked: Checked) -> tuple[str, ...]:
    if checked.holds:
        return ()
    told = str(checked).removeprefix(f"{checked.invariant.place}: ")
    return (told, f"for example: {_sentence(checked.witness)}") if checked.witness and checked.confirmed else (told,)


def _invariants(bundle: Bundle, files: dict[str, bytes]) -> tuple[tuple[Invariant, ...], tuple[str, ...]]:
    from checkrein.analysis.invariants import read_invariants
    from checkrein.policy.source import read_yaml

    invariants: list[Invariant] = []
    problems: list[str] = []
    for name, data in files.items():
        if name.startswith("tests/") and name.endswith(".yaml"):
            read, wrong = read_invariants(read_yaml(data, name), bundle.schema)
            invariants += read
            problems += wrong
    return tuple(invariants), tuple(problems)


def _load(path: Path) -> tuple[Bundle, dict[str, bytes]]:
    """The policies of a folder or of a bundle, whoever signed it: they are compared, not run."""
    from checkrein.policy.archive import read_unverified
    from checkrein.policy.bundle import Bundle
    from checkrein.storage.bundles import read_archive
    from checkrein.storage.folder import read_folder

    files = dict(read_unverified(read_archive(path)).files) if path.is_file() else read_folder(path)
    return Bundle.from_files(files), files
