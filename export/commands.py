"""The commands of `exportable-losses`. Each loads torch only when it runs."""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import exportable_losses

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Losses for speech models that compute the same number everywhere.",
)
console = Console()
progress = Console(stderr=True)  # tables and JSON go to stdout, alone


def example(line: str) -> str:
    """What stands under the help of a command."""
    return f"Example: exportable-losses {line}"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(exportable_losses.__version__)
        raise typer.Exit


@app.callback(epilog=example("export ctc_loss --out losses"))
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def rows_of(names: Sequence[str]) -> list[str]:
    """`names` if each is a row, all rows without any; else an error that names what is close."""
    from exportable_losses import catalog

    known = {name.lower(): name for name in catalog.names()}
    for name in names:
        if name not in known.values():
            close = difflib.get_close_matches(name.lower(), known)
            hint = f"Did you mean {' or '.join(known[c] for c in close)}? " if close else ""
            raise typer.BadParameter(f"There is no row {name!r}. {hint}`exportable-losses list` shows all.")
    return list(names) or catalog.names()


def _steps(items: Sequence[Any], what: str) -> Iterator[Any]:
    """`items` with a progress bar, where somebody watches."""
    yield from track(items, what, console=progress, transient=True, disable=not progress.is_terminal)


@app.command("bench", epilog=example("bench --rows ctc_loss,nll_loss --threads 1"))
def bench_command(
    rows: Annotated[str, typer.Option(help="Rows, with commas between; all without it.")] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of both; all cores without it.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to measure each case.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Time every row in onnxruntime against torch.

    Both run in turns on the same inputs. A ratio above 1 says that onnxruntime is slower. Other
    programs disturb the numbers; one thread is steadier than many.
    """
    names = rows_of([name for name in rows.split(",") if name])
    from . import bench

    timings = [
        bench.measure(case, threads=threads, seconds=seconds) for case in _steps(bench.cases(names), "Timing")
    ]
    if as_json:
        typer.echo(json.dumps([{**asdict(timing), "ratio": timing.ratio} for timing in timings], indent=2))
        return
    table = Table(title="Milliseconds, and onnxruntime against torch")
    for heading in ("row", "largest input", "torch"):
        table.add_column(heading, overflow="fold")
    for heading in ("ms", "onnxruntime", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for timing in timings:
        ratio = f"{timing.ratio:.2f}" if timing.ratio <= 1 else f"[bold red]{timing.ratio:.2f}[/]"
        times = f"{timing.baseline_ms:.3f}", f"{timing.onnxruntime_ms:.3f}"
        table.add_row(timing.row, timing.largest, timing.baseline, *times, ratio)
    console.print(table)
