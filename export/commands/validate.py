"""The command `validate`: exported files on their test data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .program import app, example, fail, narrow_table, spare, wrong_call


@app.command("validate", epilog=example("validate losses --on all --json runtimes.json"))
def validate_command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            exists=True,
            help="A folder, or one file: .onnx, .pt, .pt2 or .pte.",
            show_default=False,
        ),
    ],
    on: Annotated[
        str | None,
        typer.Option(
            metavar="RUNTIME,...|all",
            help="The runtimes to run the files on. Default: onnxruntime, torchscript, pt2 and executorch, "
            "each for its kind of file.",
        ),
    ] = None,
    rtol: Annotated[
        float, typer.Option(min=0.0, help="Allowed difference, relative to an output's largest value.")
    ] = 2e-5,
    atol: Annotated[float, typer.Option(min=0.0, help="Allowed difference, absolute.")] = 2e-5,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write the results as JUnit XML.")
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", dir_okay=False, help="Write the results as JSON, for `compare`."
        ),
    ] = None,
) -> None:
    """Run exported files on the test data beside them.

    With --on the table has a line for each row and a column for each runtime: the largest difference, in
    units in the last place. A missing runtime is listed with what to install.

    A file without test data is named and counted apart.

    The exit code is 1 if a file is off or does not run, if nothing could be checked, for want of test data
    say, or if a runtime that is needed or named is missing.
    """
    from exportable_losses.runtime.testdata import SUFFIXES, exported

    from ..checking import runtimes
    from ..checking.runners import DEFAULT, RUNNERS
    from ..checking.validate import validate, write_junit

    files = [file for suffix in SUFFIXES for _, file in exported(path, suffix)]
    for option, written in (("--junit", junit), ("--json", json_file)):
        spare(option, written, *files)
    names = list(RUNNERS) if on == "all" else on.split(",") if on else None
    with wrong_call("validate"), Console(stderr=True).status("Running the files"):
        found = validate(path, names, rtol=rtol, atol=atol)
    if junit is not None:
        with wrong_call("--junit"):
            write_junit(found, junit)
    if json_file is not None:
        with wrong_call("--json"):
            runtimes.write_json(found, path, json_file)
    for name, why in found.absent.items():
        typer.echo(f"{name} is not here: {why}")
    for file in found.untested:
        typer.echo(f"{file}: no test data beside it, not checked.")
    if not (found.checks or found.untested) and (found.versions or not found.absent):
        suffixes = ", ".join(dict.fromkeys(RUNNERS[name].suffix for name in names or DEFAULT))
        fail(f"got {path}, expected a file to run ({suffixes}) or a folder of them.", code=1)
    if found.checks:
        console = Console()
        beside = runtimes.tables(runtimes.to_json(found), console.width) if on else None
        console.print(*(beside or [parity_table(found.checks)]), sep="\n")
    wrong = [check for check in found.checks if not check.ok]
    for check in wrong:
        typer.echo(f"{check.row} ({check.runtime}) {check.output or 'file'}: {check.problem}")
    apart = f"; {_count(len(found.untested), 'file')} without test data" if found.untested else ""
    typer.echo(f"{_count(len(found.checks), 'output')} checked, {len(wrong) or 'none'} off{apart}.")
    nothing = bool(found.untested) and not found.checks
    raise typer.Exit(bool(wrong) or nothing or (on != "all" and bool(found.absent)))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def parity_table(checks: Sequence[Any]) -> Table:
    """The checks of `validate`, one per line."""
    caption = "the largest difference: absolute, relative, in units in the last place of the largest"
    table = narrow_table(("row", "runtime", "output"), ("abs", "rel", "ulp", ""), caption)
    for check in checks:
        numbers = ["-", "-", "-"]
        if check.difference is not None:
            numbers = [
                f"{x:.0e}" if x else "0" for x in (check.difference.absolute, check.difference.relative)
            ]
            numbers.append(f"{check.difference.ulp:.3g}")
        mark = "[green]ok[/]" if check.ok else "[bold red]off[/]"
        table.add_row(escape(check.row), check.runtime, escape(check.output) or "-", *numbers, mark)
    return table
