"""The command `compare`: one run held to another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .program import Pictures, Report, app, example, fail, wrong_call


@app.command("compare", epilog=example("compare scores/float scores/quantised --tolerance loss=0.05"))
def compare_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_A RUN_B...", exists=True, show_default=False)],
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", help="An output to compare; may be repeated. All without it."),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[OUTPUT=]NUMBER", help="By how much a total may move; may be repeated, once an output."
        ),
    ] = None,
    item_tolerance: Annotated[
        list[str] | None,
        typer.Option(metavar="[OUTPUT=]NUMBER", help="By how much each item may move; the same."),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Items that one run alone has scored are fine.")
    ] = False,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    worst: Annotated[int, typer.Option(min=0, help="How many of the items that moved most to show.")] = 20,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write JSON to this file.")
    ] = None,
    report: Report = None,
    pictures: Pictures = None,
) -> None:
    """Hold the scores of one run to those of another, item by item: B - A.

    A run is a folder that `score --out` wrote. There may be several pairs, of several losses say: an
    option that names an output is for the pairs that have it. A total is within its tolerance where the
    whole confidence interval of its move is, so that a corpus too small to tell does not pass. The exit
    code is 1 where a total or an item is outside, where that cannot be told, where an infinity or NaN is in
    one run alone, and where one run lacks items of the other.

    Files that `validate --json` or the page of `serve` wrote are put beside each other instead: rows by
    runtimes. The exit code is 1 where an output is off, and where a runtime lacks a row.
    """
    if all(path.is_file() for path in runs):
        _runtimes(runs, allow_missing)
        return
    from exportable_losses.runtime.corpus.runs import read_run
    from exportable_losses.runtime.files import whole_file

    from . import comparison

    with wrong_call("--tolerance"):
        total = comparison.parse_tolerances(tolerance or ())
    with wrong_call("--item-tolerance"):
        item = comparison.parse_tolerances(item_tolerance or ())
    if len(runs) % 2:
        fail(f"got {len(runs)} runs, expected pairs: A and B, and again.")
    with wrong_call("compare"), Console(stderr=True).status("Comparing"):
        read = [read_run(path) for path in runs]
        pairs = list(zip(read[::2], read[1::2], strict=True))
        settings = {"allow_missing": allow_missing, "confidence": confidence}
        found = comparison.compare_pairs(pairs, outputs or (), total, item, **settings)
    if json_file is not None:
        with wrong_call("--json"):
            json_file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(json_file) as file:
                file.write(comparison.as_json(found, worst).encode())
    if report is not None:
        from exportable_losses.runtime.corpus.report import pictures_in, write_comparison

        with wrong_call("--report"):
            picture = pictures_in(pictures) if pictures else None
            write_comparison(found, report, worst=worst, picture=picture)
    for each in found:
        comparison.show(each, worst)
    raise typer.Exit(not all(each.ok for each in found))


def _runtimes(paths: Sequence[Path], allow_missing: bool) -> None:
    from ..checking import runtimes

    with wrong_call("compare"):
        recorded = runtimes.beside(paths)
    Console().print(runtimes.table(recorded))
    for name, version in recorded["runtimes"].items():
        typer.echo(f"{name}: {version}")
    wrong = []
    for row, cells in recorded["rows"].items():
        for name in recorded["runtimes"]:
            if name not in cells and not allow_missing:
                wrong.append(f"{row} ({name}): not there")
            elif "problem" in cells.get(name, ()):
                wrong.append(f"{row} ({name}) {cells[name]['problem']}")
    for line in wrong:
        typer.echo(line)
    raise typer.Exit(bool(wrong))
