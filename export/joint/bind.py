"""Inputs of a loss that are the same in every call, put into its graph."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from exportable_losses.contract import Contract

from ..formats.verify import Tensors, arrays


def sizes_of(about: Mapping[str, Any], weights: Tensors) -> dict[str, int]:
    """What `weights` say of the letters of a loss.

    Raises:
        ValueError: the loss has no input of a name that a gradient flows to, their ranks are not its, or two
            sizes disagree.
    """
    contract = Contract.from_json(about["contract"])
    known = {entry.name for entry in contract.inputs if entry.name in contract.differentiable}
    unknown = sorted(set(weights) - known)
    if unknown:
        raise ValueError(f"weights: got {', '.join(unknown)}, expected some of {', '.join(sorted(known))}")
    return contract.sizes({name: tuple(x.shape) for name, x in weights.items()})


def bind(loss: onnx.ModelProto, about: dict[str, Any], weights: Tensors) -> None:
    """Make constants of the inputs that `weights` names, in the graph and in what is said of it.

    Raises:
        TypeError: one has another type than the graph, and does not cast to it without loss.
        ValueError: the loss returns a gradient of one.
    """
    takes = {value.name: value for value in loss.graph.input}
    given = {value.name.removeprefix("grad_") for value in loss.graph.output}
    if given & set(weights):
        name = min(given & set(weights))
        raise ValueError(f"weights: got {name}, whose gradient the loss returns, expected a loss without it")
    for name, array in arrays(weights).items():
        wanted = helper.tensor_dtype_to_np_dtype(takes[name].type.tensor_type.elem_type)
        if not np.can_cast(array.dtype, wanted):
            raise TypeError(f"weights: got {array.dtype} for {name}, expected {wanted}")
        loss.graph.input.remove(takes[name])
        loss.graph.initializer.append(numpy_helper.from_array(array.astype(wanted), name))
    contract = about["contract"]
    contract["inputs"] = [entry for entry in contract["inputs"] if entry["name"] not in weights]
    contract["differentiable"] = [name for name in contract["differentiable"] if name not in weights]
