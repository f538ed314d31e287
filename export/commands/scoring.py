"""Commands about data of users': score, compare, report, plot."""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .program import app, example, fail, pairs, steps, wrong_call

Pictures = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        metavar="DIR",
        help="Pictures of items for the page: ID.svg or ID.png, the id as in a URL.",
    ),
]
Report = Annotated[
    Path | None, typer.Option(metavar="PAGE.html", dir_okay=False, help="Write a page to look at.")
]


@app.command("score", epilog=example("score ctc_loss.onnx --data dev/ --out scores"))
def score_command(
    graph: Annotated[Path, typer.Argument(metavar="GRAPH.onnx", exists=True, dir_okay=False)],
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True, dir_okay=False, help="One batch, its arrays by name, as .npz; may be repeated."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="A corpus: .parquet, .arrow, .npz or .tar files, folders, patterns, URLs; may be repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="For --inputs an .npz to write, for --data a folder.")
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

    With --data the folder gets items.parquet, set_aside.parquet and totals.json. A run that was broken
    off goes on where it was when the same command is given again. The exit code is 1 where it cannot go on.
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
    if bool(inputs) == bool(data):
        fail("give either --inputs or --data.")
    if inputs:
        unfit = [name for name, given in of_corpus.items() if given]
        if unfit:
            fail(f"{', '.join(unfit)}: of --data, not of --inputs.")
        _score_batches(graph, inputs, out)
        return
    if out is None:
        fail("--data needs --out, the folder to write to.")
    names = None if feeds is None else pairs("--feed", feeds)
    from exportable_losses.runtime.corpus.reading import shards

    from .. import score

    with wrong_call(str(graph), (OSError, RuntimeError, TypeError, ValueError)):
        scorer = score.scorer(graph, model, names, batch_bytes)
    with wrong_call("--data"):
        paths = shards(data or [])
    if report is None and (lattices or tokens):
        fail("--lattice, --tokens: of --report.")
    with wrong_call("--report"):  # before hours of work
        write = _page(report, scorer, paths, lattices or (), tokens, worst) if report else None
    _score_corpus(scorer, paths, out, workers=workers, ray=ray, strict=strict)
    if write is not None:
        with wrong_call("--report"):
            write(out)


def _score_batches(graph: Path, inputs: Sequence[Path], out: Path | None) -> None:
    from .. import score

    with wrong_call(str(graph)):
        session = score.load(graph)
    results = {}
    for path in steps(inputs, "Scoring"):
        with wrong_call(str(path)):
            results[str(path)] = score.score(session, path)
    table = Table("file", "output", "value")
    for path, outputs in results.items():
        for name, array in outputs.items():
            table.add_row(path, name, score.summary(array))
    Console().print(table)
    if out is not None:
        with wrong_call("--out"):
            score.write_results(results, out)


def _score_corpus(scorer: Any, paths: Sequence[str], out: Path, **how: Any) -> None:
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


def _page(
    path: Path, scorer: Any, data: Sequence[str], graphs: Sequence[Path], tokens: Path | None, worst: int
) -> Callable[[Path], None]:
    """What writes the page about a run once there is one; all that it needs is there."""
    from exportable_losses.runtime.corpus.report import write_report
    from exportable_losses.runtime.corpus.runs import read_run

    from ..lattices import lattices

    picture, why = lattices(scorer, data, graphs, tokens)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(run: Path) -> None:
        write_report(read_run(run), path, worst=worst, picture=picture)
        typer.echo(f"Wrote {path}{f', without lattices: {why}' if why else ''}.")

    return write


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

    from .. import comparison

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
            json_file.write_text(comparison.as_json(found, worst), encoding="utf-8")
    if report is not None:
        from exportable_losses.runtime.corpus.report import pictures_in, write_comparison

        with wrong_call("--report"):
            picture = pictures_in(pictures) if pictures else None
            write_comparison(found, report, worst=worst, picture=picture)
    for each in found:
        comparison.show(each, worst)
    raise typer.Exit(not all(each.ok for each in found))


def _runtimes(paths: Sequence[Path], allow_missing: bool) -> None:
    from .. import runtimes

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


@app.command("report", epilog=example("report scores/float --out float.html"))
def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(metavar="PAGE.html", dir_okay=False, help="The file to write.")],
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", help="An output to draw; may be repeated. The first without it."),
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst items to list.")] = 20,
    pictures: Pictures = None,
) -> None:
    """Write a page about a scored corpus: totals, plots, the worst items, what was set aside.

    A run is a folder that `score --out` wrote. The page is one file and needs no network.
    """
    from exportable_losses.runtime.corpus.report import pictures_in, write_report
    from exportable_losses.runtime.corpus.runs import read_run

    with wrong_call("report"):
        picture = pictures_in(pictures) if pictures else None
        write_report(read_run(run), out, outputs=outputs or (), worst=worst, picture=picture)
    typer.echo(f"Wrote {out}.")


@app.command("plot", epilog=example("plot posterior.onnx align.onnx --inputs batch.npz --out lattice.png"))
def plot_command(
    graphs: Annotated[list[Path], typer.Argument(metavar="GRAPH.onnx...", exists=True, dir_okay=False)],
    inputs: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Inputs by name.")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="The picture to write: .png, .svg or .pdf.")],
    item: Annotated[int, typer.Option(help="Which item of the batch, from 0.")] = 0,
    tokens: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The names of the item's labels, a line each."),
    ] = None,
) -> None:
    """Draw the posterior of a lattice: time across, tokens up, the best path over it.

    Takes CTCPosterior or TransducerPosterior as exported, and CTCAlign or TransducerAlign for the path;
    or one graph that gives both. All run on the same inputs.
    """
    from exportable_losses.runtime import plot
    from exportable_losses.runtime.plot import SUFFIXES

    from .. import score

    if out.suffix not in SUFFIXES:
        fail(f"--out: got {out.name}, expected a name that ends in {', '.join(SUFFIXES)}.")
    with wrong_call("--tokens"):
        names = None if tokens is None else tokens.read_text(encoding="utf-8").splitlines()
    sessions = []
    for graph in graphs:
        with wrong_call(str(graph)):
            sessions.append(score.load(graph))
    with wrong_call(str(inputs)):
        outputs = score.together(sessions, score.read(inputs))
    with wrong_call("plot", (ModuleNotFoundError, ValueError)):
        figure = plot(outputs, item=item, tokens=names)
    with wrong_call("--out", (OSError,)):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
    typer.echo(f"Wrote {out}.")
