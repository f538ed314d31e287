"""Inputs of a loss that are the same in every call, put into its graph."""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper
from onnx.inliner import inline_selected_functions

from exportable_losses.contract import Contract

from ..formats.verify import Tensors, arrays
from ..nodes.protos import all_nodes, subgraphs


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
    _into_scans(loss, set(weights))


def _into_scans(loss: onnx.ModelProto, constants: Set[str]) -> None:
    """Put constants that a scan hands from step to step into its body.

    A runtime copies a state at each step, and packs the weights of a product once where it knows them.
    """
    with_scan = {(each.domain, each.name) for each in loss.functions if _scans(each.node)}
    kinds = {(node.domain, node.op_type) for node in loss.graph.node if constants & set(node.input)}
    if not kinds & with_scan:
        return
    loss.CopyFrom(inline_selected_functions(loss, sorted(kinds & with_scan)))
    graph = loss.graph
    read = _read(graph)
    values = {tensor.name: tensor for tensor in graph.initializer if tensor.name in constants}
    for scan in _scans(graph.node):
        _settle(scan, values, read)
    read = _read(graph)
    left = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name not in constants]
    del graph.initializer[:]
    graph.initializer.extend(left)


def _read(graph: onnx.GraphProto) -> set[str]:
    """The names of values that something reads, in subgraphs too."""
    return {name for node in all_nodes(graph.node) for name in node.input} | {v.name for v in graph.output}


def _scans(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    return [node for node in nodes if node.op_type == "Scan"]


def _settle(scan: NodeProto, values: Mapping[str, onnx.TensorProto], read: Set[str]) -> None:
    """Make initializers of the body of states that are `values` at each step, and are not read afterwards."""
    (body,) = subgraphs(scan)
    (inputs,) = (each.i for each in scan.attribute if each.name == "num_scan_inputs")
    states = len(scan.input) - inputs
    makers = {node.output[0]: node for node in body.node}
    for at in reversed(range(states)):
        name, stays = body.input[at].name, makers.get(body.output[at].name)
        if scan.input[at] not in values or scan.output[at] in read or stays is None:
            continue
        if stays.op_type != "Identity" or list(stays.input) != [name]:
            continue
        body.initializer.add().CopyFrom(values[scan.input[at]])
        body.initializer[-1].name = name
        body.node.remove(stays)
        for repeated in (scan.input, scan.output, body.input, body.output):
            del repeated[at]
