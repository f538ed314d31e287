"""The command `score`: an exported loss on data of the user's."""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .program import Report, app, example, fail, pairs, steps, wrong_call


@app.command("score", epilog=example("score ctc_loss.onnx dev/ --out scores"))
def score_command(
    graph: Annotated[Path, typer.Argument(metavar="GRAPH.onnx", exists=True, dir_okay=False)],
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA",
            help="A corpus: .parquet, .arrow, .npz or .tar files, folders, patterns, URLs.",
            show_default=False,
        ),
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, dir_okay=False, help="One batch, its arrays by name, as .npz; may be repeated."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="The same as DATA; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="For --inputs an .npz to write, for DATA a folder.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="MODEL.onnx", exists=True, dir_okay=False, help="A model that runs first."),
    ] = None,
    feeds: Annotated[
        list[str] | None,
        typer.Option(
            "--feed",
            metavar="NAME=OUTPUT",
            help="An input of the loss, the model's output that goes there; may be repeated.",
        ),
    ] = None,
    batch_bytes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="What the arrays of a batch may take; 8 MiB.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the work.")] = 1,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|local", help="Let the workers be actors of a Ray cluster."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at an item that cannot be scored; else it is set aside.")
    ] = False,
    report: Report = None,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst items the page lists.")] = 20,
    lattices: Annotated[
        list[Path] | None,
        typer.Option(
            "--lattice",
            metavar="GRAPH.onnx",
            exists=True,
            dir_okay=False,
            help="A posterior or an alignment that draws the worst items; may be repeated. Without it, what "
            "the row has.",
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The names of the classes for the page, a line each."),
    ] = None,
) -> None:
    """Run an exported loss on data of yours: one batch, or a corpus item by item.

    Of DATA the folder gets items.parquet, set_aside.parquet and totals.json. A run that was broken
    off goes on where it was when the same command is given again. The exit code is 1 where it cannot go on,
    and where a file is damaged, so that items are missing that nobody can name.
    """
    of_corpus = {
        "--model": model,
        "--feed": feeds,
        "--batch-bytes": batch_bytes,
        "--workers": workers > 1,
        "--ray": ray,
        "--strict": strict,
        "--report": report,
        "--lattice": lattices,
        "--tokens": tokens,
    }
    given = [*(corpus or []), *(data or [])]
    if bool(inputs) == bool(given):
        fail("give either DATA or --inputs.")
    if inputs:
        unfit = [name for name, value in of_corpus.items() if value]
        if unfit:
            fail(f"{', '.join(unfit)}: of DATA, not of --inputs.")
        _score_batches(graph, inputs, out)
        return
    if out is None:
        fail("DATA needs --out, the folder to write to.")
    names = None if feeds is None else pairs("--feed", feeds)
    from exportable_losses.runtime.corpus.reading import shards

    from . import sessions

    with wrong_call(str(graph), (OSError, RuntimeError, TypeError, ValueError)):
        scorer = sessions.scorer(graph, model, names, batch_bytes)
    with wrong_call("DATA"):
        paths = shards(given)
    if report is None and (lattices or tokens):
        fail("--lattice, --tokens: of --report.")
    with wrong_call("--report"):  # before hours of work
        write = _page(report, scorer, paths, lattices or (), tokens, worst) if report else None
    damaged = _score_corpus(scorer, paths, out, workers=workers, ray=ray, strict=strict)
    if write is not None:
        with wrong_call("--report"):
            write(out)
    if damaged:
        fail("; ".join(damaged), code=1)


def _score_batches(graph: Path, inputs: Sequence[Path], out: Path | None) -> None:
    from . import sessions

    with wrong_call(str(graph)):
        session = sessions.load(graph)
    results = {}
    for path in steps(inputs, "Scoring"):
        with wrong_call(str(path)):
            results[str(path)] = sessions.score(session, path)
    table = Table("file", "output", "value")
    for path, outputs in results.items():
        for name, array in outputs.items():
            table.add_row(path, name, sessions.summary(array))
    Console().print(table)
    if out is not None:
        with wrong_call("--out"):
            sessions.write_results(results, out)


def _score_corpus(scorer: Any, paths: Sequence[str], out: Path, **how: Any) -> list[str]:
    """Which files are damaged, and how."""
    from exportable_losses.runtime import score_corpus

    # Ray prints what befalls its workers
    with contextlib.redirect_stdout(sys.stderr), Console(stderr=True).status("Scoring") as status:

        def show(items: int, aside: int, rate: float, means: Mapping[str, float]) -> None:
            so_far = "".join(f", {name} {value:.5g}" for name, value in means.items())
            status.update(f"{items} items ({aside} set aside), {rate:.0f} a second{so_far}")

        try:
            found = score_corpus(scorer, paths, out, progress=show, **how)
        except (OSError, RuntimeError, ValueError) as error:
            fail(str(error), code=1)
    table = Table("output", "value", "numerator", "denominator")
    for name, each in found["totals"].items():
        numbers = (each.get(key) for key in ("value", "numerator", "denominator"))
        table.add_row(name, *("" if number is None else f"{number:.9g}" for number in numbers))
    Console().print(table)
    lost = found["set_aside"]
    why = f"; {out / 'set_aside.parquet'} says why" if lost else ""
    typer.echo(f"{found['items']} items scored, {lost or 'none'} set aside{why}. Wrote {out}.")
    return [
        f"{each['path']} may have more items: {each['damaged']}"
        for each in found["data"]
        if "damaged" in each
    ]


def _page(
    path: Path, scorer: Any, data: Sequence[str], graphs: Sequence[Path], tokens: Path | None, worst: int
) -> Callable[[Path], None]:
    """What writes the page about a run once there is one; all that it needs is there."""
    from exportable_losses.runtime.corpus.report import write_report
    from exportable_losses.runtime.corpus.runs import read_run

    from .lattices import lattices

    picture, why = lattices(scorer, data, graphs, tokens)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(run: Path) -> None:
        write_report(read_run(run), path, worst=worst, picture=picture)
        typer.echo(f"Wrote {path}{f', without lattices: {why}' if why else ''}.")

    return write
