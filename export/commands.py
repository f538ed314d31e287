"""The commands of `exportable-losses`. Each loads what it needs only when it runs."""

import contextlib
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
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


def example(line: str) -> str:
    """What stands under the help of a command."""
    return f"Example: exportable-losses {line}"


def fail(message: str, code: int = 2) -> NoReturn:
    """Say what is wrong and stop: 2 for a wrong call, 1 for a file that is off."""
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def wrong_call(
    where: str, kinds: tuple[type[Exception], ...] = (OSError, TypeError, ValueError)
) -> Iterator[None]:
    """Let a library's complaint about what the user passed end the program without a traceback."""
    try:
        yield
    except kinds as error:
        fail(f"{where}: {str(error).strip().splitlines()[0]}")


def rows_of(names: Sequence[str]) -> list[str]:
    """`names`, without repetitions, if each is a row; else an error that names what is close."""
    from exportable_losses import catalog

    known = {name.lower(): name for name in catalog.names()}
    for name in names:
        if name not in known.values():
            close = [known[c] for c in difflib.get_close_matches(name.lower(), known)]
            hint = f"Close to it: {', '.join(close)}. " if close else ""
            fail(f"there is no row {name}. {hint}`exportable-losses list` shows all.")
    return list(dict.fromkeys(names))


def _steps(items: Sequence[Any], what: str) -> Iterator[Any]:
    """`items` with a progress bar, where somebody watches; stdout is for results alone."""
    watcher = Console(stderr=True)
    yield from track(items, what, console=watcher, transient=True, disable=not watcher.is_terminal)


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


Pictures = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        metavar="DIR",
        help="Pictures of items for the page: ID.svg or ID.png, the id as in a URL.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list", epilog=example("list --json"))
def list_command(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table.")] = False,
) -> None:
    """Show every loss and metric: what it takes, what it gives, how it reduces."""
    from exportable_losses import catalog

    from .listing import facts, markdown_table

    rows = [facts(name) for name in catalog.names()]
    if as_json or markdown:
        typer.echo(markdown_table(rows) if markdown else json.dumps(rows, indent=2))
        return
    table = Table(caption="∂ a gradient flows to it   ? optional   * any dimensions", show_lines=True)
    table.add_column("row, module")
    table.add_column("inputs → outputs", no_wrap=True)
    table.add_column("reductions")
    for row in rows:
        what = f"[bold]{row['row']}[/]\n{row['module']}\n[dim]{escape(row['summary'])}[/]"
        table.add_row(what, _signature(row), ", ".join(row["reductions"]) or "-")
    Console().print(table)


def _signature(row: dict[str, Any]) -> str:
    """The inputs with their dimensions and the outputs, a line each."""
    lines = [
        f"{'∂' if each['name'] in row['differentiable'] else ' '} {each['name']}{'?' * each['optional']} "
        f"\\[{each['dims']}]"
        for each in row["inputs"]
    ]
    return "\n".join([*lines, *(f"→ {name}" for name in row["outputs"])])


@app.command("export", epilog=example("export ctc_loss l1_loss --reduction none --out losses"))
def export_command(
    rows: Annotated[list[str] | None, typer.Argument(help="Rows of the catalog.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Export every row.")] = False,
    out: Annotated[Path, typer.Option(file_okay=False, help="The folder to write to.")] = Path("losses"),
    formats: Annotated[str, typer.Option("--format", help="onnx, torchscript or both.")] = "onnx,torchscript",
    reduction: Annotated[str | None, typer.Option(help="mean, sum, batch, batchmean or none.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting; may be repeated.")
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="LETTER=N", help="A size of the test data; may be repeated."),
    ] = None,
    gradients: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|all", help="An input whose gradient the graph gives too; may be repeated."
        ),
    ] = None,
) -> None:
    """Write losses as files that run anywhere, with test data beside them.

    Each row gets a folder of its own. What is there is replaced.
    """
    if bool(rows) == every:
        fail("give either rows to export or --all.")
    from exportable_losses import catalog

    from .files import parse_settings, parse_sizes, prepare, write
    from .validate import FORMATS

    kinds = [kind for kind in formats.split(",") if kind]
    if not kinds or set(kinds) - set(FORMATS.values()):
        fail(f"--format: got {formats!r}, expected {','.join(FORMATS.values())} or one of them.")
    if gradients and "onnx" not in kinds:
        fail(f"--gradients: they are outputs of ONNX graphs, expected onnx in --format, got {formats!r}.")
    given = [*(settings or []), *([f"reduction={reduction}"] if reduction else [])]
    names = catalog.names() if every else rows_of(rows or [])
    ready = []
    for name in names:  # every mistake comes out before anything is written
        with wrong_call(name):
            sized = parse_sizes(sizes or [])
            ready.append(prepare(name, parse_settings(name, given), sized, gradients or []))
    with wrong_call("--out", (OSError,)):
        for each in _steps(ready, "Exporting"):
            write(each, out, kinds)
    typer.echo(f"Wrote {len(names)} {'row' if len(names) == 1 else 'rows'} to {out}.")


@app.command(
    "attach",
    epilog=example("attach model.onnx ctc_loss.onnx --out joint.onnx --input log_probs=probs --scores probs"),
)
def attach_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", exists=True, dir_okay=False)],
    loss: Annotated[Path, typer.Argument(metavar="LOSS.onnx", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(dir_okay=False, help="The file to write.")],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="NAME=OUTPUT",
            help="An input of the loss, an output of the model; may be repeated.",
        ),
    ],
    scores: Annotated[str, typer.Option(help="What the model gives: logits, probs or log_probs.")] = "logits",
    layout: Annotated[str, typer.Option(help="Batch first, BTC, or time first, TBC.")] = "BTC",
) -> None:
    """Join a model and an exported loss into one graph.

    It takes what the model takes and what else the loss does, and gives what both give.
    """
    from exportable_losses.export import attach

    computed = _pairs("--input", inputs)
    with wrong_call("attach"):
        out.parent.mkdir(parents=True, exist_ok=True)
        joint = attach(model, loss, out, inputs=computed, scores=scores, layout=layout)  # type: ignore[arg-type]
    taken, given = (", ".join(v.name for v in values) for values in (joint.graph.input, joint.graph.output))
    typer.echo(f"Wrote {out}: {taken} -> {given}.")


@app.command("validate", epilog=example("validate losses --junit report.xml"))
def validate_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False)],
    rtol: Annotated[float, typer.Option(min=0.0, help="Allowed, in units of the largest value.")] = 2e-5,
    atol: Annotated[float, typer.Option(min=0.0, help="Allowed in any case.")] = 2e-5,
    junit: Annotated[Path | None, typer.Option(dir_okay=False, help="Write JUnit XML to this file.")] = None,
) -> None:
    """Run every .onnx and .pt file in a folder on the test data beside it.

    Reads the files only. ONNX files run in ONNX Runtime, TorchScript files in a fresh process that
    has torch alone. The exit code is 1 where one is off, cannot run or has no test data.
    """
    from .validate import validate, write_junit

    with Console(stderr=True).status("Running the files"):
        checks = validate(folder, rtol=rtol, atol=atol)
    if junit is not None:
        with wrong_call("--junit"):
            write_junit(checks, junit)
    if not checks:
        fail(f"there is no .onnx or .pt file in {folder}.", code=1)
    Console().print(parity_table(checks))
    wrong = [check for check in checks if not check.ok]
    for check in wrong:
        typer.echo(f"{check.row} ({check.format}) {check.output or 'file'}: {check.problem}")
    typer.echo(f"{len(checks)} outputs checked, {len(wrong) or 'none'} off.")
    raise typer.Exit(bool(wrong))


def parity_table(checks: Sequence[Any]) -> Table:
    """The checks of `validate`, one per line."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.caption = "the largest difference: absolute, relative, in units in the last place"
    for heading in ("row", "format", "output"):
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
        table.add_row(check.row, check.format, check.output or "-", *numbers, mark)
    return table


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
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at an item that cannot be scored; else it is set aside.")
    ] = False,
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
        "--strict": strict,
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
    names = None if feeds is None else _pairs("--feed", feeds)
    from exportable_losses.runtime.corpus.reading import shards

    from . import score

    with wrong_call(str(graph), (OSError, RuntimeError, TypeError, ValueError)):
        scorer = score.scorer(graph, model, names, batch_bytes)
    with wrong_call("--data"):
        paths = shards(data or [])
    _score_corpus(scorer, paths, out, workers, strict)


def _pairs(option: str, items: Sequence[str]) -> dict[str, str]:
    """``NAME=OUTPUT`` words as a dict."""
    pairs = {}
    for item in items:
        name, _, output = item.partition("=")
        if not output:
            fail(f"{option}: got {item!r}, expected something like log_probs=logits.")
        pairs[name] = output
    return pairs


def _score_batches(graph: Path, inputs: Sequence[Path], out: Path | None) -> None:
    from . import score

    with wrong_call(str(graph)):
        session = score.load(graph)
    results = {}
    for path in _steps(inputs, "Scoring"):
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


def _score_corpus(scorer: Any, paths: Sequence[str], out: Path, workers: int, strict: bool) -> None:
    from exportable_losses.runtime import score_corpus

    with Console(stderr=True).status("Scoring") as status:

        def show(items: int, aside: int, rate: float, means: Mapping[str, float]) -> None:
            so_far = "".join(f", {name} {value:.5g}" for name, value in means.items())
            status.update(f"{items} items ({aside} set aside), {rate:.0f} a second{so_far}")

        try:
            found = score_corpus(scorer, paths, out, workers=workers, strict=strict, progress=show)
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


@app.command("compare", epilog=example("compare scores/float scores/quantised --tolerance loss=0.05"))
def compare_command(
    a: Annotated[Path, typer.Argument(metavar="RUN_A", exists=True, file_okay=False)],
    b: Annotated[Path, typer.Argument(metavar="RUN_B", exists=True, file_okay=False)],
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
    report: Annotated[
        Path | None, typer.Option(metavar="PAGE.html", dir_okay=False, help="Write a page to look at.")
    ] = None,
    pictures: Pictures = None,
) -> None:
    """Hold the scores of one run to those of another, item by item: B - A.

    A run is a folder that `score --out` wrote. A total is within its tolerance where the whole confidence
    interval of its move is, so that a corpus too small to tell does not pass. The exit code is 1 where a
    total or an item is outside, where that cannot be told, where an infinity or NaN is in one run alone,
    and where one run lacks items of the other.
    """
    from exportable_losses.runtime.corpus.compare import compare_runs
    from exportable_losses.runtime.corpus.runs import read_run

    from . import comparison

    with wrong_call("--tolerance"):
        total = comparison.parse_tolerances(tolerance or ())
    with wrong_call("--item-tolerance"):
        item = comparison.parse_tolerances(item_tolerance or ())
    with wrong_call("compare"), Console(stderr=True).status("Comparing"):
        found = compare_runs(
            read_run(a),
            read_run(b),
            outputs or (),
            tolerance=total,
            item_tolerance=item,
            allow_missing=allow_missing,
            confidence=confidence,
        )
    if json_file is not None:
        with wrong_call("--json"):
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(found.to_json(worst), indent=2) + "\n", encoding="utf-8")
    if report is not None:
        from exportable_losses.runtime.corpus.report import pictures_in, write_comparison

        with wrong_call("--report"):
            picture = pictures_in(pictures) if pictures else None
            write_comparison(found, report, worst=worst, picture=picture)
    comparison.show(found, worst)
    raise typer.Exit(not found.ok)


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

    from . import score

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


@app.command("bench", epilog=example("bench --rows ctc_loss,nll_loss --threads 1"))
def bench_command(
    rows: Annotated[str, typer.Option(help="Rows, with commas between; all without it.")] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of both; all cores without it.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to measure each case.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Time every row in onnxruntime against torch.

    Both run in turns on the same inputs. A ratio above 1 says that onnxruntime is slower. Other
    programs disturb the numbers; one thread is steadier than many.
    """
    names = rows_of([name for name in rows.split(",") if name])
    from . import bench

    cases = _steps(bench.cases(names), "Timing")
    timings = [bench.measure(case, threads=threads, seconds=seconds) for case in cases]
    if as_json:
        typer.echo(json.dumps([{**asdict(timing), "ratio": timing.ratio} for timing in timings], indent=2))
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.caption = "medians in milliseconds; ratio: onnxruntime in units of torch"
    for heading in ("row", "largest input", "torch"):
        table.add_column(heading, overflow="fold")
    for heading in ("ms", "onnxruntime", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for timing in timings:
        ratio = f"{timing.ratio:.2f}" if timing.ratio <= 1 else f"[bold red]{timing.ratio:.2f}[/]"
        times = f"{timing.baseline_ms:.3f}", f"{timing.onnxruntime_ms:.3f}"
        table.add_row(timing.row, timing.largest, timing.baseline, *times, ratio)
    Console().print(table)


@app.command("doctor", epilog=example("doctor --json"))
def doctor_command(as_json: AsJson = False) -> None:
    """Show versions, libraries, instruction set and providers, and who computes."""
    from .doctor import facts

    found = facts()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    computers, providers = found["computers"], found["onnxruntime providers"]
    sections = {
        "versions": found["versions"],
        "operator library": found["operator library"],
        "CUDA library": found["CUDA library"],
        "onnxruntime": providers if isinstance(providers, dict) else {"providers": ", ".join(providers)},
        "who computes": computers if "problem" in computers else _who_computes(computers),
    }
    for title, lines in sections.items():
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in lines.items():
            table.add_row(f"  {escape(name)}", escape(value))
        Console().print(f"[bold]{title}[/]", table)


def _who_computes(computers: dict[str, Any]) -> dict[str, str]:
    """The losses that each computer computes now, or why it does not: a line for it and each device."""
    lines = {"named": computers["named"]} if computers["named"] else {}
    for device, losses in computers["in use"].items():
        for loss, name in losses.items():
            lines[f"{loss} on {device}"] = name
    for name, devices in computers["available"].items():
        can = "can, where it is named" if name in computers["only named"] else "can"
        for device, why in devices.items():
            lines[f"{name} on {device}"] = why or can
    return lines
