"""Means of nothing, which are NaN: ONNX Runtime's `ReduceMean` says zero."""

import onnx_ir as ir
from onnx_ir import tape

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def count_what_is_meant(model: ir.Model) -> None:
    """Put a sum divided by a count in the place of every `ReduceMean` along a size that may be zero."""
    for node in list(model.graph.all_nodes()):
        if node.op_type == "ReduceMean" and node.domain == "" and _may_be_empty(node):
            _replace(node)


def _axes(node: ir.Node) -> list[int] | None:
    """The dimensions that a mean is taken along; None where the graph alone knows."""
    data, axes = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    assert data is not None
    if axes is None:
        return None if data.shape is None else list(range(len(data.shape)))
    known = ir.convenience.get_const_tensor(axes)
    return None if known is None else known.numpy().tolist()


def _may_be_empty(node: ir.Node) -> bool:
    data, axes = node.inputs[0], _axes(node)
    if data is None or data.shape is None or axes is None:
        return True
    sizes = [data.shape[axis] for axis in axes]
    return not all(isinstance(size, int) and size > 0 for size in sizes)


def _replace(node: ir.Node) -> None:
    data, out = node.inputs[0], node.outputs[0]
    assert data is not None
    assert node.graph is not None
    new = tape.Tape()
    wide = new.op("Cast", [data], {"to": ir.DataType.FLOAT}) if data.dtype in HALVES else data
    total = new.op("ReduceSum", [wide, *node.inputs[1:]], dict(node.attributes))
    sizes = new.op("Shape", [data])
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        sizes = new.op("Gather", [sizes, node.inputs[1]])
    number = new.op("ReduceProd", [sizes], {"keepdims": 0})
    mean = new.op("Div", [total, new.op("CastLike", [number, wide])])
    if wide is not data:
        mean = new.op("CastLike", [mean, data])
    mean.type, mean.shape = out.type, out.shape
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], new.nodes, [out], [mean])
