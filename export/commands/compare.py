"""The command `compare`: one run held to another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .program import Pictures, Report, app, example, fail, spare, wrong_call


@app.command("compare", epilog=example("compare scores/float scores/quantised --tolerance loss=0.05"))
def compare_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", exists=True, help="Two folders, A and B, or more pairs.", show_default=False
        ),
    ],
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--output", metavar="OUTPUT", help="An output to compare. May be repeated. Default: all."
        ),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[OUTPUT=]NUMBER",
            help="By how much a total may move, such as loss=0.05. May be repeated, once per output.",
        ),
    ] = None,
    item_tolerance: Annotated[
        list[str] | None,
        typer.Option(metavar="[OUTPUT=]NUMBER", help="By how much each item may move."),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Accept items that only one run has scored.")
    ] = False,
    confidence: Annotated[float, typer.Option(help="The confidence of the intervals.")] = 0.95,
    worst: Annotated[int, typer.Option(min=0, help="How many of the items that moved most to show.")] = 20,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write JSON to this file.")
    ] = None,
    report: Report = None,
    pictures: Pictures = None,
) -> None:
    """Compare two scored runs item by item, as B - A.

    A run is a folder that `score --out` wrote. With several pairs, of several losses for example, an option
    that names an output applies to the pairs that have it.

    A total is within its tolerance if the whole confidence interval of its change is. A corpus too small to
    tell does not pass.

    The exit code is 1 if a total or an item is outside its tolerance or that cannot be told, if only one run
    has an infinity or NaN, or if one run lacks items of the other.

    Given files of `validate --json` or of `serve`, it prints one table of rows by runtimes instead. The exit
    code is 1 if an output is off or a runtime lacks a row.
    """
    if all(path.is_file() for path in runs):
        of_folders = {
            "--output": outputs,
            "--tolerance": tolerance,
            "--item-tolerance": item_tolerance,
            "--json": json_file,
            "--report": report,
            "--pictures": pictures,
        }
        unfit = [name for name, value in of_folders.items() if value]
        if unfit:
            fail(f"{', '.join(unfit)}: got files of `validate --json`, expected folders that `score` wrote.")
        _runtimes(runs, allow_missing)
        return
    from exportable_losses.runtime.corpus.runs import files_of, read_run
    from exportable_losses.runtime.files import whole_file

    from . import comparison

    for option, written in (("--json", json_file), ("--report", report)):
        spare(option, written, *(file for run in runs for file in files_of(run)))
    with wrong_call("--tolerance"):
        total = comparison.parse_tolerances(tolerance or ())
    with wrong_call("--item-tolerance"):
        item = comparison.parse_tolerances(item_tolerance or ())
    if len(runs) % 2:
        fail(f"RUN: got {len(runs)}, expected pairs: A and B.")
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
    console = Console()
    console.print(*runtimes.tables(recorded, console.width), sep="\n")
    for name, version in recorded["runtimes"].items():
        typer.echo(f"{name}: {version}")
    wrong = []
    for row, cells in recorded["rows"].items():
        for name in recorded["runtimes"]:
            if name not in cells and not allow_missing:
                wrong.append(f"{row} ({name}): missing")
            elif "problem" in cells.get(name, ()):
                wrong.append(f"{row} ({name}) {cells[name]['problem']}")
    for line in wrong:
        typer.echo(line)
    raise typer.Exit(bool(wrong))
