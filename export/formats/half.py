"""Graphs that take and give numbers of 16 bits; sums, logarithms and lattices inside keep 32."""

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from exportable_losses import catalog

Half = Literal["float16", "bfloat16"]
TYPES: dict[str, tuple[torch.dtype, int]] = {
    "float16": (torch.float16, TensorProto.FLOAT16),
    "bfloat16": (torch.bfloat16, TensorProto.BFLOAT16),
}


def kept(module: nn.Module) -> set[str]:
    """The inputs and outputs that keep 32 bits.

    Of a thousand frames, a relative length of 16 bits would lose some. What the state that a call hands to
    the next lost would add up.
    """
    entry = catalog.find(module)
    if entry is None:
        return set()
    lengths = {value.name for value in entry.inputs if value.legal.startswith("relative_length")}
    states = {value.name for value in entry.inputs if value.legal == "state"}
    return lengths | states | {f"{name}_out" for name in states}


def in_half(module: nn.Module, inputs: Mapping[str, Tensor], dtype: Half) -> dict[str, Tensor]:
    """Inputs as a graph in `dtype` takes them.

    What is `kept` stays what it is.

    Raises:
        ValueError: there is no such dtype, or a number has 64 bits.
    """
    if dtype not in TYPES:
        raise ValueError(f"dtype: got {dtype!r}, expected {' or '.join(TYPES)}")
    keep = kept(module)
    for name, tensor in inputs.items():
        if tensor.dtype == torch.float64:
            raise ValueError(f"inputs: got float64 for {name}, expected float32 for a graph in {dtype}")
    return {name: tensor if name in keep else rounded(tensor, dtype) for name, tensor in inputs.items()}


def rounded(tensor: Tensor, dtype: Half) -> Tensor:
    """A float32 tensor in `dtype`; any other as it is."""
    return tensor.to(TYPES[dtype][0]) if tensor.dtype == torch.float32 else tensor


def narrow(model: onnx.ModelProto, inputs: Collection[str], dtype: Half, keep: Collection[str] = ()) -> None:
    """Let some inputs of a graph be `dtype`, and its float32 outputs but `keep`: a cast behind, or before."""
    graph, kind = model.graph, TYPES[dtype][1]
    wide = {name: f"{name}/float32" for name in inputs}
    before = [helper.make_node("Cast", [n], [w], f"{w}/Cast", to=TensorProto.FLOAT) for n, w in wide.items()]
    behind = []
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in keep:
            value.type.tensor_type.elem_type = kind
            wide[value.name] = f"{value.name}/float32"
            cast = helper.make_node("Cast", [wide[value.name]], [value.name], f"{value.name}/Cast", to=kind)
            behind.append(cast)
    for value in graph.input:
        if value.name in inputs:
            value.type.tensor_type.elem_type = kind
    for node in _nodes(graph):
        for names in (node.input, node.output):
            names[:] = [wide.get(name, name) for name in names]
    for weight in graph.initializer:  # which may be an output
        weight.name = wide.get(weight.name, weight.name)
    nodes = [*before, *graph.node, *behind]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of branches and loops too: they may read what is outside."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)
