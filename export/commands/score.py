"""The command `score`: an exported loss on data of the user's."""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .program import Report, Tokens, app, example, fail, pairs, spare, steps, wrong_call


@app.command("score", epilog=example("score ctc_loss.onnx dev/ --out scores"))
def score_command(
    graph: Annotated[
        Path,
        typer.Argument(
            metavar="GRAPH.onnx",
            exists=True,
            dir_okay=False,
            help="A loss that `export` or `attach` wrote.",
            show_default=False,
        ),
    ],
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA",
            help="A corpus: .parquet, .arrow, .npz or .tar files, folders, patterns or URLs.",
            show_default=False,
        ),
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="BATCH.npz",
            exists=True,
            dir_okay=False,
            help="A single batch, arrays by name, instead of DATA. May be repeated.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="The same as DATA. May be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write: a folder for DATA, an .npz file for --inputs."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL.onnx", exists=True, dir_okay=False, help="A model to run before the loss."
        ),
    ] = None,
    feeds: Annotated[
        list[str] | None,
        typer.Option(
            "--feed",
            metavar="INPUT=OUTPUT",
            help="An input of the loss and the model's output that feeds it. May be repeated.",
        ),
    ] = None,
    batch_bytes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The size of a batch in bytes. Default: 8 MiB.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="The number of processes.")] = 1,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|local", help="Run the workers as actors of a Ray cluster."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Stop at the first item that cannot be scored, instead of setting it aside."
        ),
    ] = False,
    report: Report = None,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst items the report lists.")] = 20,
    lattices: Annotated[
        list[Path] | None,
        typer.Option(
            "--lattice",
            metavar="GRAPH.onnx",
            exists=True,
            dir_okay=False,
            help="An exported posterior or alignment that draws the worst items in the report. May be "
            "repeated. Default: those of the row, exported on the fly.",
        ),
    ] = None,
    tokens: Tokens = None,
) -> None:
    """Score your data with an exported loss: a corpus, item by item, or single batches.

    For a corpus, --out becomes a folder with items.parquet, set_aside.parquet and totals.json. To resume an
    interrupted run, give the same command again.

    The exit code is 1 if the run could not finish, or if a damaged file may have more items than were found.
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
        fail("DATA, --inputs: got both, expected one." if given else "expected DATA or --inputs.")
    if inputs:
        unfit = [name for name, value in of_corpus.items() if value]
        if unfit:
            fail(f"{', '.join(unfit)}: got --inputs, expected DATA.")
        spare("--out", out, graph, *inputs)
        _score_batches(graph, inputs, out)
        return
    if out is None:
        fail("--out: got none, expected the folder to write to.")
    names = None if feeds is None else pairs("--feed", feeds)
    from exportable_losses.runtime.corpus.reading import shards

    from . import sessions

    with wrong_call(str(graph), (OSError, RuntimeError, TypeError, ValueError)):
        scorer = sessions.scorer(graph, model, names, batch_bytes)
    with wrong_call("DATA"):
        paths = shards(given)
    read = (graph, model, tokens, *(lattices or ()), *map(Path, paths))
    spare("--report", report, *(each for each in read if each is not None))
    if report is None and (lattices or tokens):
        fail("--lattice, --tokens: got no --report, expected one.")
    with wrong_call("--report"):  # before hours of work
        write = _page(report, scorer, paths, lattices or (), tokens, worst) if report else None
    damaged = _score_corpus(scorer, given, out, workers=workers, ray=ray, strict=strict)
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
    table = _table("file", "output", "value")
    for path, outputs in results.items():
        for name, array in outputs.items():
            table.add_row(escape(path), escape(name), sessions.summary(array))
    Console().print(table)
    if out is not None:
        with wrong_call("--out"):
            sessions.write_results(results, out)


def _table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _score_corpus(scorer: Any, paths: Sequence[str], out: Path, **how: Any) -> list[str]:
    """Which files are damaged, and how."""
    from exportable_losses.runtime import score_corpus
    from exportable_losses.runtime.corpus.names import as_text

    # Ray prints what befalls its workers
    with contextlib.redirect_stdout(sys.stderr), Console(stderr=True).status("Scoring") as status:

        def show(items: int, aside: int, rate: float, means: Mapping[str, float]) -> None:
            so_far = "".join(f", {name} {value:.5g}" for name, value in means.items())
            status.update(f"{items} items ({aside} set aside), {rate:.0f} per second{so_far}")

        try:
            found = score_corpus(scorer, paths, out, progress=show, **how)
        except (OSError, RuntimeError, ValueError) as error:
            fail(str(error), code=1)
    table = _table("output", "value", "numerator", "denominator")
    for name, each in found["totals"].items():
        numbers = (each.get(key) for key in ("value", "numerator", "denominator"))
        table.add_row(escape(name), *("" if number is None else f"{number:.9g}" for number in numbers))
    Console().print(table)
    for name, (came, taken) in found.get("rounded", {}).items():
        typer.echo(f"Note: {name} is {came} in the data and was rounded to {taken}, as the graph takes it.")
    if unused := found.get("unused"):
        typer.echo(f"Note: columns not used: {as_text(unused)}.")
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
