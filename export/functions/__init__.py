"""The bodies of our ONNX operators in standard ones, so that any runtime computes them.

Each file holds one body, or what several call, written in onnxscript. Inside a `Scan` a body captures
nothing: what does not change is carried along as state (OpenVINO's importer wants it so), and scans go
forward along the first axis (onnx's reference evaluator knows no other way). Nothing is newer than
opset 18.

Impossible is `-inf`, as it should be. A maximum that is subtracted is never below the lowest
float, so that `-inf - -inf` does not occur.
"""

from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, numpy_helper

from .assignment import BestPermutation
from .ctc import CTCLoss
from .ctc_align import CTCAlign
from .ctc_grad import CTCLossGrad
from .ctc_lattice import CTCLattice, CTCTransition
from .ctc_posterior import CTCPosterior
from .edits import EditCounts
from .transducer import TransducerArcs, TransducerLoss
from .transducer_align import TransducerAlign
from .transducer_grad import TransducerLossGrad

__all__ = ["DOMAIN", "VERSION", "function_protos"]

DOMAIN, VERSION = "exportable_losses", 1
_BODIES = {
    body.name: body
    for body in (
        BestPermutation,
        CTCAlign,
        CTCLattice,
        CTCLoss,
        CTCLossGrad,
        CTCPosterior,
        CTCTransition,
        EditCounts,
        TransducerAlign,
        TransducerArcs,
        TransducerLoss,
        TransducerLossGrad,
    )
}


def function_protos(name: str, elem_type: int) -> list[FunctionProto]:
    """The function `name` for tensors of `elem_type` (`TensorProto.FLOAT` or `DOUBLE`), and before it
    those that it calls.
    """
    proto = _function_proto(name, elem_type)
    called = {node.op_type for node in _nodes(proto.node) if node.domain == DOMAIN}
    inner = (each for other in sorted(called) for each in function_protos(other, elem_type))
    return [*{each.name: each for each in inner}.values(), proto]


def _function_proto(name: str, elem_type: int) -> FunctionProto:
    """The function alone.

    A function's own inputs have no types in ONNX, but those of a `Scan` inside it do: they are
    written for float32, and rewritten here.
    """
    proto: FunctionProto = _BODIES[name].to_function_proto()
    if elem_type != TensorProto.FLOAT:
        for node in _nodes(proto.node):
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    _retype(attribute.g, elem_type)
                elif attribute.type == AttributeProto.FLOAT and node.op_type == "Constant":
                    _as_tensor(attribute, elem_type)
    return proto


def _nodes(nodes: object) -> Iterator[NodeProto]:
    for node in nodes:  # type: ignore[attr-defined]
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g.node)


def _retype(graph: GraphProto, elem_type: int) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = elem_type


def _as_tensor(attribute: AttributeProto, elem_type: int) -> None:
    dtype = {TensorProto.DOUBLE: np.float64}[elem_type]
    tensor = numpy_helper.from_array(np.array(attribute.f, dtype))
    attribute.Clear()
    attribute.name, attribute.type = "value", AttributeProto.TENSOR
    attribute.t.CopyFrom(tensor)
