"""The command `plot`: the picture of a lattice."""

from pathlib import Path
from typing import Annotated

import typer

from .program import app, example, fail, wrong_call


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

    from .sessions import load, read, together

    if out.suffix not in SUFFIXES:
        fail(f"--out: got {out.name}, expected a name that ends in {', '.join(SUFFIXES)}.")
    with wrong_call("--tokens"):
        names = None if tokens is None else tokens.read_text(encoding="utf-8").splitlines()
    sessions = []
    for graph in graphs:
        with wrong_call(str(graph)):
            sessions.append(load(graph))
    with wrong_call(str(inputs)):
        outputs = together(sessions, read(inputs))
    with wrong_call("plot", (ModuleNotFoundError, ValueError)):
        figure = plot(outputs, item=item, tokens=names)
    with wrong_call("--out", (OSError,)):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
    typer.echo(f"Wrote {out}.")
