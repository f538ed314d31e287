"""The command `score`: an exported loss on data of the user's."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .corpora import BatchBytes, Feeds, Model, Ray, Strict, Workers, damaged, tell, watched
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
    model: Model = None,
    feeds: Feeds = None,
    batch_bytes: BatchBytes = None,
    workers: Workers = 1,
    ray: Ray = None,
    strict: Strict = False,
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
    priors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy",
            dir_okay=False,
            help="Also write how probable each class is, for align --priors. The graph must take log_probs.",
        ),
    ] = None,
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
        "--priors": priors,
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
    from exportable_losses.runtime import Scorer
    from exportable_losses.runtime.corpus.reading import shards

    from . import sessions

    with wrong_call(str(graph), (OSError, RuntimeError, TypeError, ValueError)):
        make = functools.partial(Scorer, priors=priors is not None)
        scorer = sessions.scorer(make, graph, model, names, batch_bytes)
    with wrong_call("DATA"):
        paths = shards(given)
    read = (graph, model, tokens, *(lattices or ()), *map(Path, paths))
    for option, written in (("--report", report), ("--priors", priors)):
        spare(option, written, *(each for each in read if each is not None))
    if report is None and (lattices or tokens):
        fail("--lattice, --tokens: got no --report, expected one.")
    with wrong_call("--report"):  # before hours of work
        write = _page(report, scorer, paths, lattices or (), tokens, worst) if report else None
    found = _score_corpus(scorer, given, out, workers=workers, ray=ray, strict=strict)
    broken = damaged(found)
    if priors is not None:
        with wrong_call("--priors"):
            _write_priors(found["priors"], priors)
    if write is not None:
        with wrong_call("--report"):
            write(out)
    if broken:
        fail("; ".join(broken), code=1)


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


def _score_corpus(scorer: Any, paths: Sequence[str], out: Path, **how: Any) -> dict[str, Any]:
    """The totals of the run, which are shown."""
    from exportable_losses.runtime import score_corpus

    found = watched("Scoring", lambda progress: score_corpus(scorer, paths, out, progress=progress, **how))
    table = _table("output", "value", "numerator", "denominator")
    for name, each in found["totals"].items():
        numbers = (each.get(key) for key in ("value", "numerator", "denominator"))
        table.add_row(escape(name), *("" if number is None else f"{number:.9g}" for number in numbers))
    Console().print(table)
    tell(found, out, f"{found['items']} items scored")
    return found


def _write_priors(found: Mapping[str, Any], path: Path) -> None:
    lost = f"exp of log_probs does not add up to 1 in {found['left_out']} items"
    if not found["log_priors"]:
        fail(f"--priors: {lost}, expected log-probabilities of all classes", code=1)
    if found["left_out"]:
        typer.echo(f"Note: {lost}, which the priors leave out.")
    import numpy as np

    from exportable_losses.runtime.files import whole_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        np.save(file, np.array(found["log_priors"]))
    typer.echo(f"Wrote {path}, of {found['frames']} frames.")


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
