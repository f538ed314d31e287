"""Commands about losses: show, export, attach, validate."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .program import AsJson, app, example, fail, pairs, rows_of, steps, wrong_call


@app.command("list", epilog=example("list --json"))
def list_command(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table.")] = False,
) -> None:
    """Show every loss and metric: what it takes, what it gives, how it reduces."""
    from exportable_losses import catalog

    from ..listing import facts, markdown_table

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
    formats: Annotated[
        str, typer.Option("--format", help="Some of onnx, torchscript, pt2, executorch.")
    ] = "onnx,torchscript",
    reduction: Annotated[str | None, typer.Option(help="mean, sum, batch, batchmean or none.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting; may be repeated.")
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="LETTER=N", help="A size of the test data; may be repeated."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="float16|bfloat16", help="Of what graphs take and give, ONNX alone."),
    ] = None,
    gradients: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|all", help="An input whose gradient the graph gives too; may be repeated."
        ),
    ] = None,
) -> None:
    """Write losses as files that run anywhere, with test data beside them.

    Each row gets a folder of its own. What is there is replaced. Where an exporter does not take a row the
    others are written, and the exit code is 1.
    """
    if bool(rows) == every:
        fail("give either rows to export or --all.")
    from exportable_losses import catalog

    from ..files import DTYPES, FORMATS, parse_settings, parse_sizes, prepare, write
    from ..runners import Absent

    kinds = [kind for kind in formats.split(",") if kind]
    if not kinds or set(kinds) - set(FORMATS):
        fail(f"--format: got {formats!r}, expected some of {','.join(FORMATS)}.")
    if gradients and "onnx" not in kinds:
        fail(f"--gradients: they are outputs of ONNX graphs, expected onnx in --format, got {formats!r}.")
    if dtype is not None and (dtype not in DTYPES or "onnx" not in kinds):
        fail(f"--dtype: got {dtype!r} for {formats}, expected {' or '.join(DTYPES)}, for ONNX graphs.")
    given = [*(settings or []), *([f"reduction={reduction}"] if reduction else [])]
    names = catalog.names() if every else rows_of(rows or [])
    ready = []
    for name in names:  # every mistake comes out before anything is written
        with wrong_call(name):
            sized = parse_sizes(sizes or [])
            ready.append(prepare(name, parse_settings(name, given), sized, gradients or []))
    failed: list[str] = []
    with wrong_call("--out", (OSError,)), wrong_call("--format", (Absent,)):
        for each in steps(ready, "Exporting"):
            failed += write(each, out, kinds, dtype)  # type: ignore[arg-type]
    if failed:
        fail("\n".join([f"all is in {out} but for", *failed]), code=1)
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

    computed = pairs("--input", inputs)
    with wrong_call("attach"):
        out.parent.mkdir(parents=True, exist_ok=True)
        joint = attach(model, loss, out, inputs=computed, scores=scores, layout=layout)  # type: ignore[arg-type]
    taken, given = (", ".join(v.name for v in values) for values in (joint.graph.input, joint.graph.output))
    typer.echo(f"Wrote {out}: {taken} -> {given}.")


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
    from .. import runtimes
    from ..runners import DEFAULT, RUNNERS
    from ..validate import validate, write_junit

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
