"""Join a model and a loss into one ONNX graph."""

import copy
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from exportable_losses import catalog
from exportable_losses.runtime.files import refuse_overwriting
from exportable_losses.runtime.graphs import external_data
from exportable_losses.runtime.metadata import Loss, parsed

from ..formats.metadata import KEY, describe
from ..formats.onnx import to_onnx
from ..formats.verify import Arrays, Case, arrays
from .beside import side_by_side
from .bind import bind, sizes_of
from .files import load, write
from .fit import Given, dims_of
from .join import Names, join
from .verify import cases_of, verify_joint
from .versions import convert, follow, opset_of

Scores = Literal["logits", "probs", "log_probs"]
Layout = Literal["BTC", "TBC"]


def attach(
    model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    loss: nn.Module | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    inputs: Mapping[str, str],
    weights: Mapping[str, Tensor] | None = None,
    scores: Scores = "logits",
    layout: Layout = "BTC",
    example: Mapping[str, Tensor] | None = None,
    verify: bool = True,
) -> onnx.ModelProto:
    """Join a model and a loss into one graph, which takes and returns what both take and return.

    The model keeps its names, weights and metadata. Names of the loss that the model already has are changed.
    A model older than opset 18 is converted to it; for a newer one the loss is converted. Weights in external
    data are not loaded: if `path` is in another folder than the model, they are copied beside it.

    Before the file is at `path`, ONNX Runtime runs the graph on random inputs of two sizes, and every output
    must equal that of the model followed by the loss. A module is also verified against eager torch, as in
    `to_onnx`. The first inputs and outputs become test data beside the file, as in `to_onnx`.

    Args:
        model: an ``.onnx`` file, or several, as the encoder and the predictor of a transducer. Names that an
            earlier one of several has are prefixed with the name of the file.
        loss: a module of the catalog, or the ``.onnx`` file it was exported to.
        path: the file to write.
        inputs: for each input of the loss that the model computes, the name of the model's output.
        weights: inputs of the loss that become constants in the graph: the output layer of a joint network.
        scores: what the model returns as class scores: ``logits`` (before any softmax), ``probs`` or
            ``log_probs``. The operators that convert them are added.
        layout: the first two dimensions of the model's output: ``BTC`` batch first, ``TBC`` time first.
        example: inputs of the graph by name, for a model that does not take random numbers: verified too, and
            the test data. What it lacks of the loss's inputs is random. A module is exported with lengths of
            its kind: of integers the graph takes frames and labels.
        verify: compare the written graph with its parts. Without it no number is checked.

    Returns:
        The model that was written, external data not loaded. Its `repr` is one line.

    Raises:
        FileNotFoundError: a file, or one with external data, does not exist.
        TypeError: the module is not a row of the catalog.
        ValueError: `path` is the model or the loss; a file is of another kind; model and loss do not fit: the
            model lacks an output, or it has another type, rank or number of classes; they do not take the
            example; or the model's scores are not of the kind that `scores` says.

    Examples:
        A recogniser that gives probabilities ``[batch, time, classes]``::

            attach("model.onnx", el.CTCLoss(), "joint.onnx", inputs={"log_probs": "probs"}, scores="probs")

        A transducer in parts, whose joint network never runs over all frames and labels at once::

            attach(
                ["encoder.onnx", "predictor.onnx"],
                el.FusedTransducerLoss(activation="tanh"),
                "loss.onnx",
                inputs={"encoder": "encoder_out", "predictor": "decoder_out"},
                weights={"weight": joiner.output.weight, "bias": joiner.output.bias},
            )
    """
    for argument, got, kinds in (("scores", scores, Scores), ("layout", layout, Layout)):
        if got not in get_args(kinds):
            raise ValueError(f"{argument}: got {got!r}, expected {_any_of(get_args(kinds))}")
    models = [model] if isinstance(model, (str, os.PathLike)) else list(model)
    for each in models:
        refuse_overwriting("path", path, each, *external_data(Path(each)).values())
    if not isinstance(loss, nn.Module):
        refuse_overwriting("path", path, loss)
    weights = {name: torch.as_tensor(x).detach() for name, x in (weights or {}).items()}
    with tempfile.TemporaryDirectory() as folder:
        model = models[0] if len(models) == 1 else side_by_side(models, Path(folder) / "models.onnx")
        joint = load("model", model)
        part: str | os.PathLike[str] = Path(folder) / "loss.onnx"
        if isinstance(loss, nn.Module):
            added, about = _export(loss, joint, inputs, example or {}, weights, Path(part), verify)
        else:
            added, about = _load_loss(loss)
            part = loss
        fixed = sizes_of(about, weights)
        if weights:
            bind(added, about, weights)
            part = Path(folder) / "bound.onnx"
            _say(added, about)
            onnx.save(added, part)
        given = Given(joint, added, about, inputs, scores, layout, fixed)
        joint = convert(joint, opset_of(added))
        follow(added, opset_of(joint))
        names = join(joint, added, given)
        _describe(joint, about, given, names)

        def proven(new: Path) -> tuple[Arrays, Arrays] | None:
            found, apart = cases_of(model, part, given, names, example, check=verify)
            if verify:
                verify_joint(new, found, apart)
            return _in_order(joint, found[0]) if found else None

        write(joint, model, path, proven)
    return joint


def _in_order(joint: onnx.ModelProto, case: Case) -> tuple[Arrays, Arrays]:
    """The inputs and the outputs of a case in the order of the graph."""
    of_case = (joint.graph.input, arrays(case.inputs)), (joint.graph.output, arrays(case.outputs))
    inputs, outputs = (
        {value.name: found[value.name] for value in values if value.name in found}  # not an initializer
        for values, found in of_case
    )
    return inputs, outputs


def _any_of(words: Iterable[str]) -> str:
    return " or ".join(map(repr, words))


def _export(
    loss: nn.Module,
    model: onnx.ModelProto,
    inputs: Mapping[str, str],
    like: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    path: Path,
    verify: bool,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph of a module as the model's scores want it: their type, their rank, their classes."""
    about, entry = json.loads(describe(loss)), catalog.find(loss)
    assert entry is not None  # describe has checked it
    first, blank = entry.inputs[0], catalog.settings_of(loss).get("blank_index")
    scores = [v for v in model.graph.output if v.name == inputs.get(first.name)]
    dims = (dims_of(scores[0]) if scores else None) or [""]
    sizes: dict[str, Any] = {**sizes_of(about, weights)}
    letter = first.dims.split()[-1]
    if letter.isalpha() and isinstance(dims[-1], int):
        sizes[letter] = dims[-1]
    if "T?" in first.dims.split() and len(dims) == first.fixed:
        sizes["T"] = None
    lengths = [like[value.name] for value in entry.inputs if value.is_length and value.name in like]
    absolute = any(not tensor.is_floating_point() for tensor in lengths)
    example = entry.example_inputs(blank_index=blank, absolute=absolute, **sizes)
    if "T" in sizes:  # without frames there are no lengths either
        example = {value.name: example[value.name] for value in entry.inputs if not value.optional}
    if scores and scores[0].type.tensor_type.elem_type == TensorProto.DOUBLE:
        loss = copy.deepcopy(loss).double()
        example = {n: x.double() if x.is_floating_point() else x for n, x in example.items()}
    return to_onnx(loss, path, example, verify=verify), about


def _load_loss(loss: str | os.PathLike[str]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph of a loss, and what it says of itself."""
    model = load("loss", loss)
    about = _about(model)
    if about is None or "attached" in about:
        kind = "has a model in it already" if about else "was not exported by this package"
        raise ValueError(
            f"loss: {os.fspath(loss)} {kind}, expected a module of the catalog or the file of one"
        )
    Loss.from_metadata(about)  # which names what of it cannot be read
    return model, about


def _about(model: onnx.ModelProto) -> dict[str, Any] | None:
    return next((parsed(prop.value) for prop in model.metadata_props if prop.key == KEY), None)


def _describe(joint: onnx.ModelProto, about: dict[str, Any], given: Given, names: Names) -> None:
    """Say what was attached and where it is; a loss that was attached before keeps the first place."""
    swapped = [name for name, steps in given.steps.items() if any(op == "Transpose" for op, _ in steps)]
    about["attached"] = {
        "computed": dict(given.inputs),
        "swapped": swapped,
        "sizes": {letter: size for letter, size in given.sizes.items() if isinstance(size, int)},
        "inputs": names.inputs,
        "outputs": names.outputs,
        "scores": given.scores,
        "layout": given.layout,
    }
    first = _about(joint)
    if first is not None:
        first.setdefault("more", []).append(about)
    _say(joint, first or about)


def _say(model: onnx.ModelProto, about: dict[str, Any]) -> None:
    kept = [prop for prop in model.metadata_props if prop.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=KEY, value=json.dumps(about))
