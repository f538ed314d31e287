"""The bodies of our ONNX operators in standard ones, so that any runtime computes them.

Each file holds one body, or what several call, written in onnxscript. Inside a `Scan` a body captures
nothing: what does not change is carried along as state (OpenVINO's importer wants it so), and scans go
forward along the first axis (onnx's reference evaluator knows no other way). Nothing is newer than
opset 18.

Impossible is `-inf`, as it should be. A maximum that is subtracted is never below the lowest
float, so that `-inf - -inf` does not occur.
"""

from collections.abc import Iterable

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, defs, helper, numpy_helper
from onnx.inliner import inline_local_functions

from ..protos import all_nodes, subgraphs
from .arcs import ArcsCosts, ArcsEnds, ArcsEntering, ArcsForward, ArcsLoss, ArcsOf, ArcsSteps
from .arcs_align import ArcsAlign
from .arcs_grad import ArcsLossGrad
from .assignment import BestPermutation
from .ctc import CTCLoss
from .ctc_align import CTCAlign
from .ctc_forward import CTCForward
from .ctc_grad import CTCLossGrad
from .ctc_lattice import CTCBothWays, CTCLattice, CTCReversed, CTCStep, CTCTransition
from .ctc_posterior import CTCExactStep, CTCJoin, CTCPosterior
from .edits import EditCounts
from .fused import (
    FUSED,
    FusedBest,
    JointBlocks,
    JointFrames,
    JointIdentity,
    JointIdentityGrad,
    JointInBlocks,
    JointPicked,
    JointRelu,
    JointReluGrad,
    JointRows,
    JointSilu,
    JointSiluGrad,
    JointSlopes,
    JointTanh,
    JointTanhGrad,
)
from .transducer import TransducerArcs, TransducerArrivals, TransducerEither, TransducerLoss
from .transducer_forward import TransducerForward
from .transducer_grad import TransducerLossGrad

__all__ = ["DOMAIN", "OPSET", "VERSION", "function_protos", "same_operator"]

DOMAIN, VERSION = "exportable_losses", 1
OPSET = 18  # what the bodies are written in
_BODIES = {
    body.name: body
    for body in (
        ArcsAlign,
        ArcsCosts,
        ArcsEnds,
        ArcsEntering,
        ArcsForward,
        ArcsLoss,
        ArcsLossGrad,
        ArcsOf,
        ArcsSteps,
        BestPermutation,
        CTCAlign,
        CTCBothWays,
        CTCExactStep,
        CTCForward,
        CTCJoin,
        CTCLattice,
        CTCLoss,
        CTCLossGrad,
        CTCPosterior,
        CTCReversed,
        CTCStep,
        CTCTransition,
        EditCounts,
        FusedBest,
        JointBlocks,
        JointFrames,
        JointIdentity,
        JointIdentityGrad,
        JointInBlocks,
        JointPicked,
        JointRelu,
        JointReluGrad,
        JointRows,
        JointSilu,
        JointSiluGrad,
        JointSlopes,
        JointTanh,
        JointTanhGrad,
        TransducerArcs,
        TransducerArrivals,
        TransducerEither,
        TransducerForward,
        TransducerLoss,
        TransducerLossGrad,
    )
} | FUSED


def function_protos(name: str, elem_type: int, opset: int = OPSET) -> list[FunctionProto]:
    """The function `name` for tensors of `elem_type` (`TensorProto.FLOAT` or `DOUBLE`), and before it
    those that it calls.

    Raises:
        ValueError: an operator of one is another at `opset`.
    """
    proto = _function_proto(name, elem_type, opset)
    for body in (graph for node in proto.node for graph in subgraphs(node)):
        _inline(body, proto, elem_type, opset)
    return [*_called(proto.node, elem_type, opset), proto]


def _called(nodes: Iterable[NodeProto], elem_type: int, opset: int) -> list[FunctionProto]:
    """The functions that are called in `nodes`, each behind those that it calls itself."""
    called = {node.op_type for node in all_nodes(nodes) if node.domain == DOMAIN}
    found = (each for other in sorted(called) for each in function_protos(other, elem_type, opset))
    return list({each.name: each for each in found}.values())


def _inline(body: GraphProto, function: FunctionProto, elem_type: int, opset: int) -> None:
    """Put the functions that the body of a scan calls into it.

    ONNX Runtime inlines a function under the same names inside a scan and outside of it, and does not load
    the optimised model that it saves then.
    """
    called = _called(body.node, elem_type, opset)
    model = helper.make_model(body, functions=called, opset_imports=function.opset_import)
    body.CopyFrom(inline_local_functions(model).graph)
    # One name is one size to ONNX Runtime, which two lattices of different sizes would share.
    for value in (*body.input, *body.output, *body.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.Clear()


def _function_proto(name: str, elem_type: int, opset: int) -> FunctionProto:
    """The function alone.

    A function's own inputs have no types in ONNX, but those of a `Scan` inside it do: they are
    written for float32, and rewritten here.
    """
    proto: FunctionProto = _BODIES[name].to_function_proto()
    proto.name = name
    for standard in (each for each in proto.opset_import if each.domain == ""):
        standard.version = opset
    for node in all_nodes(proto.node):
        if node.domain == "" and not same_operator(node.op_type, OPSET, opset):
            raise ValueError(f"opset: got {opset}, where {node.op_type} is another operator than at {OPSET}")
    if elem_type != TensorProto.FLOAT:
        for node in all_nodes(proto.node):
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    _retype(attribute.g, elem_type)
                elif attribute.type == AttributeProto.FLOAT and node.op_type == "Constant":
                    _as_tensor(attribute, elem_type)
    return proto


def same_operator(op_type: str, before: int, after: int) -> bool:
    """Whether what is written for one opset means the same at a newer one.

    A newer one may have more types, and more inputs, outputs and attributes that may be left out.
    """
    old, new = (defs.get_schema(op_type, version) for version in (before, after))
    if new.deprecated:
        return False
    for had, has in ((old.inputs, new.inputs), (old.outputs, new.outputs)):
        options = [[each.option for each in parameters] for parameters in (had, has)]
        if options[1][: len(had)] != options[0] or new.min_input > old.min_input:
            return False
    for name, attribute in new.attributes.items():
        known = old.attributes.get(name)
        if attribute.required != (known is not None and known.required):
            return False
        if known is not None and known.default_value != attribute.default_value:
            return False
    return set(old.attributes) <= set(new.attributes)


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
