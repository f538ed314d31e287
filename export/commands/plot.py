"""The command `plot`: the picture of a lattice."""

from pathlib import Path
from typing import Annotated

import typer

from .program import Tokens, app, example, fail, names_in, spare, wrong_call


@app.command("plot", epilog=example("plot posterior.onnx align.onnx --inputs batch.npz --out lattice.png"))
def plot_command(
    graphs: Annotated[
        list[Path],
        typer.Argument(
            metavar="GRAPH.onnx",
            exists=True,
            dir_okay=False,
            help="An exported posterior, and an alignment for the best path.",
            show_default=False,
        ),
    ],
    inputs: Annotated[
        Path,
        typer.Option(
            metavar="BATCH.npz", exists=True, dir_okay=False, help="Inputs by name.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PICTURE",
            dir_okay=False,
            help="The file to write: .png, .svg or .pdf.",
            show_default=False,
        ),
    ],
    item: Annotated[int, typer.Option(help="The index of the item in the batch.")] = 0,
    tokens: Tokens = None,
) -> None:
    """Draw the posterior of a lattice, with the best path on top.

    Give an exported posterior (CTCPosterior, TransducerPosterior, TDTPosterior, ...), and its alignment
    (CTCAlign, ...) for the path, or one graph with both. All run on the same inputs. Time runs to the right,
    tokens upwards.
    """
    from exportable_losses.runtime import plot
    from exportable_losses.runtime.plot import SUFFIXES, labels_of, lattice_of

    from .sessions import load, read, together

    if out.suffix not in SUFFIXES:
        fail(f"--out: got {out.name}, expected a name that ends in {', '.join(SUFFIXES)}.")
    with wrong_call("--tokens"):
        names = None if tokens is None else names_in(tokens)
    spare("--out", out, *graphs, inputs, *([tokens] if tokens else []))
    sessions = []
    for graph in graphs:
        with wrong_call(str(graph)):
            sessions.append(load(graph))
    with wrong_call(str(inputs)):
        arrays = read(inputs)
        outputs = together(sessions, arrays)
    if "targets" in arrays:
        outputs.setdefault("tokens", labels_of(arrays))
    with wrong_call("plot", (ModuleNotFoundError, ValueError)):
        figure = plot(outputs, item=item, classes=names, lattice=lattice_of(sessions))
    with wrong_call("--out", (OSError,)):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
    typer.echo(f"Wrote {out}.")
