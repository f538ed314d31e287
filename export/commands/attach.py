"""The command `attach`: a model and a loss in one graph."""

from pathlib import Path
from typing import Annotated

import typer

from .program import app, example, fail, pairs, wrong_call


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
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Run the graph and hold it to its two parts.")
    ] = True,
) -> None:
    """Join a model and an exported loss into one graph.

    It takes what the model takes and what else the loss does, and gives what both give.
    """
    from exportable_losses.export import VerificationError, attach

    computed = pairs("--input", inputs)
    with wrong_call("attach"):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            joint = attach(
                model,
                loss,
                out,
                inputs=computed,
                scores=scores,  # type: ignore[arg-type]
                layout=layout,  # type: ignore[arg-type]
                verify=verify,
            )
        except VerificationError as error:
            fail(f"attach: {error}", code=1)
    taken, given = (", ".join(v.name for v in values) for values in (joint.graph.input, joint.graph.output))
    typer.echo(f"Wrote {out}: {taken} -> {given}.")
