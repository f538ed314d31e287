"""The command `export`: rows as files."""

from pathlib import Path
from typing import Annotated

import typer

from .program import app, example, fail, rows_of, steps, wrong_call


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
    opset: Annotated[int, typer.Option(metavar="N", help="Of the standard operators in graphs.")] = 18,
    inline: Annotated[
        bool, typer.Option("--inline", help="Graphs of standard operators alone, without functions.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Run each file and hold it to eager torch.")
    ] = True,
) -> None:
    """Write losses as files that run anywhere, with test data beside them.

    Each row gets a folder of its own. What is there is replaced. Each file is run on its test data and at
    other sizes, and not written where a number is not that of eager torch. Where that is so, or an exporter
    does not take a row, the others are written, and the exit code is 1.
    """
    if bool(rows) == every:
        fail("give either rows to export or --all.")
    from exportable_losses import catalog

    from ..checking.runners import Absent
    from ..formats.files import DTYPES, FORMATS, parse_settings, parse_sizes, prepare, write
    from ..formats.onnx import NEWEST_OPSET
    from ..nodes.functions import OPSET

    kinds = [kind for kind in formats.split(",") if kind]
    if not kinds or set(kinds) - set(FORMATS):
        fail(f"--format: got {formats!r}, expected some of {','.join(FORMATS)}.")
    if gradients and "onnx" not in kinds:
        fail(f"--gradients: they are outputs of ONNX graphs, expected onnx in --format, got {formats!r}.")
    if dtype is not None and (dtype not in DTYPES or "onnx" not in kinds):
        fail(f"--dtype: got {dtype!r} for {formats}, expected {' or '.join(DTYPES)}, for ONNX graphs.")
    if (opset, inline) != (18, False) and "onnx" not in kinds:
        fail(f"--opset, --inline: they are of ONNX graphs, expected onnx in --format, got {formats!r}.")
    if not OPSET <= opset <= NEWEST_OPSET:
        fail(f"--opset: got {opset}, expected one from {OPSET} to {NEWEST_OPSET}.")
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
            failed += write(each, out, kinds, dtype, verify=verify, opset=opset, inline=inline)  # type: ignore[arg-type]
    if failed:
        fail("\n".join([f"all is in {out} but for", *failed]), code=1)
    typer.echo(f"Wrote {len(names)} {'row' if len(names) == 1 else 'rows'} to {out}.")
