"""The command `validate`: exported files on their test data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .program import app, example, fail, wrong_call


@app.command("validate", epilog=example("validate losses --on all --json runtimes.json"))
def validate_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False)],
    on: Annotated[
        str | None,
        typer.Option(metavar="RUNTIME,...|all", help="Which; onnxruntime, torchscript and pt2 without it."),
    ] = None,
    rtol: Annotated[float, typer.Option(min=0.0, help="Allowed, in units of the largest value.")] = 2e-5,
    atol: Annotated[float, typer.Option(min=0.0, help="Allowed in any case.")] = 2e-5,
    junit: Annotated[Path | None, typer.Option(dir_okay=False, help="Write JUnit XML to this file.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write rows, runtimes, versions as JSON.")
    ] = None,
) -> None:
    """Run every exported file in a folder on the test data beside it.

    Reads the files only. With --on the table has a line for each row and a column for each runtime: the
    largest difference in units in the last place. A runtime that is not here is named with what to install.
    The exit code is 1 where a file is off, cannot run or has no test data, and where a runtime that was
    named is not here.
    """
    from ..checking import runtimes
    from ..checking.runners import DEFAULT, RUNNERS
    from ..checking.validate import validate, write_junit

    names = list(RUNNERS) if on == "all" else on.split(",") if on else DEFAULT
    with wrong_call("validate"), Console(stderr=True).status("Running the files"):
        found = validate(folder, names, rtol=rtol, atol=atol)
    if junit is not None:
        with wrong_call("--junit"):
            write_junit(found.checks, junit)
    if json_file is not None:
        with wrong_call("--json"):
            runtimes.write_json(found, folder, json_file)
    for name, why in found.absent.items():
        typer.echo(f"{name} is not here: {why}")
    if not found.checks and found.versions:
        suffixes = " or ".join(dict.fromkeys(RUNNERS[name].suffix for name in names))
        fail(f"there is no {suffixes} file in {folder}.", code=1)
    if found.checks:
        Console().print(runtimes.table(runtimes.to_json(found)) if on else parity_table(found.checks))
    wrong = [check for check in found.checks if not check.ok]
    for check in wrong:
        typer.echo(f"{check.row} ({check.runtime}) {check.output or 'file'}: {check.problem}")
    typer.echo(f"{len(found.checks)} outputs checked, {len(wrong) or 'none'} off.")
    raise typer.Exit(bool(wrong) or (on != "all" and bool(found.absent)))


def parity_table(checks: Sequence[Any]) -> Table:
    """The checks of `validate`, one per line."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.caption = "the largest difference: absolute, relative, in units in the last place of the largest"
    for heading in ("row", "runtime", "output"):
        table.add_column(heading, overflow="fold")
    for heading in ("abs", "rel", "ulp", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for check in checks:
        numbers = ["-", "-", "-"]
        if check.difference is not None:
            numbers = [
                f"{x:.0e}" if x else "0" for x in (check.difference.absolute, check.difference.relative)
            ]
            numbers.append(f"{check.difference.ulp:.3g}")
        mark = "[green]ok[/]" if check.ok else "[bold red]off[/]"
        table.add_row(check.row, check.runtime, check.output or "-", *numbers, mark)
    return table
