"""The command `attach`: a model and a loss in one graph."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from .program import app, example, fail, pairs, spare, wrong_call


@app.command(
    "attach",
    epilog=example("attach model.onnx ctc_loss.onnx --out joint.onnx --input log_probs=probs --scores probs"),
)
def attach_command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx", exists=True, dir_okay=False, show_default=False)
    ],
    loss: Annotated[
        Path,
        typer.Argument(
            metavar="LOSS.onnx",
            exists=True,
            dir_okay=False,
            help="A loss that `export` wrote.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="JOINT.onnx", dir_okay=False, help="The file to write.", show_default=False),
    ],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="INPUT=OUTPUT",
            help="An input of the loss and the model's output that feeds it. May be repeated.",
            show_default=False,
        ),
    ],
    scores: Annotated[
        str, typer.Option(metavar="KIND", help="What the model returns: logits, probs or log_probs.")
    ] = "logits",
    layout: Annotated[
        str, typer.Option(metavar="BTC|TBC", help="The model's layout: batch first or time first.")
    ] = "BTC",
    inputs_file: Annotated[
        Path | None,
        typer.Option(
            "--example",
            metavar="BATCH.npz",
            exists=True,
            dir_okay=False,
            help="Inputs by name, for a model that does not run on random numbers. They become the test "
            "data. Inputs of the loss may be left out.",
        ),
    ] = None,
    others: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            metavar="MODEL.onnx",
            exists=True,
            dir_okay=False,
            help="Another model beside the first: a transducer's predictor. May be repeated.",
            show_default=False,
        ),
    ] = None,
    weights_file: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="LAYER.npz",
            exists=True,
            dir_okay=False,
            help="Inputs of the loss, by name, that become constants in the graph.",
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare the joint graph with its two parts.")
    ] = True,
) -> None:
    """Join a model and an exported loss into one ONNX graph, with test data beside it.

    The graph takes the model's inputs and those inputs of the loss that the model does not compute. It
    returns the outputs of both. Names that the first of several models has are prefixed with the file's.
    """
    import torch

    from exportable_losses.export import VerificationError, attach

    from .sessions import read

    models, files = [model, *(others or [])], {"--example": inputs_file, "--weights": weights_file}
    spare("--out", out, loss, *models, *(file for file in files.values() if file))
    computed = pairs("--input", inputs)
    tensors: dict[str, dict[str, torch.Tensor] | None] = dict.fromkeys(files)
    for option, file in files.items():
        if file is not None:
            with wrong_call(option):
                tensors[option] = {name: torch.tensor(array) for name, array in read(file).items()}
    with wrong_call("attach"), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            joint = attach(
                models,
                loss,
                out,
                inputs=computed,
                weights=tensors["--weights"],
                scores=scores,  # type: ignore[arg-type]
                layout=layout,  # type: ignore[arg-type]
                example=tensors["--example"],
                verify=verify,
            )
        except VerificationError as error:
            fail(f"attach: {error}", code=1)
    for warning in warned:
        if warning.category is RuntimeWarning:
            typer.echo(f"Warning: {warning.message}", err=True)
    taken, returned = (
        ", ".join(v.name for v in values) for values in (joint.graph.input, joint.graph.output)
    )
    typer.echo(f"Wrote {out}: {taken} -> {returned}.")
