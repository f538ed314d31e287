"""The command `export`: rows as files."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .program import app, example, fail, rows_of, steps, wrong_call

_NAMED = 4  # files, at most, that are named when they are written


if TYPE_CHECKING:
    from ..formats.files import Prepared


@app.command("export", epilog=example("export ctc_loss l1_loss --reduction none --out losses"))
def export_command(
    rows: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ROW...",
            help="Rows to export, as `list` names them: ctc_loss, or CTCLoss.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Export every row.")] = False,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="The folder to write to. Each row gets a folder in it.")
    ] = Path("losses"),
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT,...",
            help="One or more of onnx, torchscript, pt2 and executorch. Default: onnx,torchscript; with "
            "--dtype onnx.",
        ),
    ] = None,
    reduction: Annotated[
        str | None, typer.Option(metavar="KIND", help="mean, sum, batch, batchmean or none.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting, such as blank_index=1. May be repeated."
        ),
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--size", metavar="LETTER=N", help="A size of the test data, such as B=4. May be repeated."
        ),
    ] = None,
    lengths: Annotated[
        str,
        typer.Option(
            metavar="relative|absolute",
            help="Whether lengths are relative to the padded size, or integers: frames and labels.",
        ),
    ] = "relative",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="float16|bfloat16", help="The dtype of inputs and outputs. ONNX only."),
    ] = None,
    gradients: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT|all",
            help="An input whose gradient the graph also returns. ONNX only. May be repeated.",
        ),
    ] = None,
    opset: Annotated[int, typer.Option(metavar="N", help="The ONNX opset.")] = 18,
    inline: Annotated[
        bool, typer.Option("--inline", help="Use ONNX's standard operators only, no functions.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Run each file and compare it with eager torch.")
    ] = True,
) -> None:
    """Export losses to files that run anywhere, with test data beside them.

    Existing files are replaced. Each file is run on its test data and at other sizes. It is not written if it
    differs from eager torch.

    The exit code is 1 if a row could not be exported or is off. The other rows are written all the same.
    """
    if bool(rows) == every:
        fail("ROW: expected rows to export, or --all.")
    from exportable_losses import catalog

    from ..checking.runners import Absent
    from ..formats.files import (
        DEFAULT,
        DTYPES,
        FORMATS,
        SUFFIXES,
        parse_settings,
        parse_sizes,
        prepare,
        write,
    )
    from ..formats.onnx import NEWEST_OPSET
    from ..nodes.functions import OPSET

    if formats is None:
        formats = "onnx" if dtype is not None else ",".join(DEFAULT)
    kinds = [kind for kind in formats.split(",") if kind]
    if not kinds or set(kinds) - set(FORMATS):
        fail(f"--format: got {formats!r}, expected one or more of {','.join(FORMATS)}.")
    if gradients and "onnx" not in kinds:
        fail(f"--gradients: got --format {formats}, expected onnx in it: only ONNX graphs return gradients.")
    if dtype is not None and dtype not in DTYPES:
        fail(f"--dtype: got {dtype}, expected {' or '.join(DTYPES)}.")
    if dtype is not None and kinds != ["onnx"]:
        others = ", ".join(kind for kind in kinds if kind != "onnx")
        what = f"drop {others} from --format" if "onnx" in kinds else "expected --format onnx"
        fail(f"--dtype: got --format {formats}, but only ONNX graphs take 16 bits: {what}.")
    if (opset, inline) != (18, False) and "onnx" not in kinds:
        fail(f"--opset, --inline: got --format {formats}, expected onnx in it.")
    if not OPSET <= opset <= NEWEST_OPSET:
        fail(f"--opset: got {opset}, expected {OPSET} to {NEWEST_OPSET}.")
    if lengths not in ("relative", "absolute"):
        fail(f"--lengths: got {lengths}, expected relative or absolute.")
    given = [*(settings or []), *([f"reduction={reduction}"] if reduction else [])]
    names = catalog.names() if every else rows_of(rows or [])
    ready = []
    for name in names:  # every mistake comes out before anything is written
        with wrong_call(name):
            sized = parse_sizes(sizes or [])
            parsed, absolute = parse_settings(name, given), lengths == "absolute"
            ready.append(prepare(name, parsed, sized, gradients or [], absolute=absolute))
    relative = [each.entry.name for each in ready if lengths == "absolute" and _has_relative_lengths(each)]
    if relative:
        typer.echo(
            f"Note: lengths stay relative, for they count no one size: {', '.join(relative)}.", err=True
        )
    failed: list[str] = []
    with wrong_call("--out", (OSError,)), wrong_call("--format", (Absent,)), warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # torch's, about TorchScript as a whole
            warnings.filterwarnings("ignore", r".*(torch\.jit|TorchScript)", category)
        for each in steps(ready, "Exporting"):
            failed += write(each, out, kinds, dtype, verify=verify, opset=opset, inline=inline)  # type: ignore[arg-type]
    if failed:
        fail("\n".join([f"these could not be written to {out}; the rest is there:", *failed]), code=1)
    files = [out / name / f"{name}{SUFFIXES[kind]}" for name in names for kind in FORMATS if kind in kinds]
    written = ", ".join(map(str, files)) if len(files) <= _NAMED else f"{len(names)} rows to {out}"
    typer.echo(f"Wrote {written}.")


def _has_relative_lengths(prepared: "Prepared") -> bool:
    given = prepared.inputs
    return any(
        e.is_length and e.name in given and given[e.name].is_floating_point() for e in prepared.entry.inputs
    )
