"""The command `report`: a page about a run."""

from pathlib import Path
from typing import Annotated

import typer

from .program import Pictures, app, example, spare, wrong_call


@app.command("report", epilog=example("report scores/float --out float.html"))
def report_command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            exists=True,
            file_okay=False,
            help="A folder that `score --out` wrote.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="PAGE.html", dir_okay=False, help="The file to write.", show_default=False)
    ],
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--output", metavar="OUTPUT", help="An output to draw. May be repeated. Default: the first."
        ),
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst items to list.")] = 20,
    pictures: Pictures = None,
) -> None:
    """Write a report of a scored corpus: totals, plots, the worst items, and what was set aside.

    The report is one HTML file that needs no network.
    """
    from exportable_losses.runtime.corpus.report import pictures_in, write_report
    from exportable_losses.runtime.corpus.runs import files_of, read_run

    spare("--out", out, *files_of(run))
    with wrong_call("report"):
        picture = pictures_in(pictures) if pictures else None
        write_report(read_run(run), out, outputs=outputs or (), worst=worst, picture=picture)
    typer.echo(f"Wrote {out}.")
