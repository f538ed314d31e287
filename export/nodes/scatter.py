"""Sums of what is scattered, which ONNX Runtime's `ScatterND` gets wrong: its threads add without waiting.

Two updates of one place may be lost where several threads compute (a gradient of interpolation was off by a
fifth). `ScatterElements` adds one after the other.
"""

import onnx_ir as ir
from onnx_ir import tape


def add_in_order(model: ir.Model) -> None:
    """Put `ScatterElements` in the place of every `ScatterND` that adds, in place."""
    for node in list(model.graph.all_nodes()):
        reduction = node.attributes.get("reduction")
        if node.op_type == "ScatterND" and reduction is not None and reduction.as_string() == "add":
            _replace(node)


def _replace(node: ir.Node) -> None:
    data, indices, updates = node.inputs
    assert data is not None
    assert indices is not None
    assert indices.shape is not None
    assert node.graph is not None
    depth = indices.shape[-1]
    if not isinstance(depth, int):
        raise ValueError("ScatterND: got a sum over indices of unknown depth, expected a known one")
    new = tape.Tape()

    def constant(*numbers: int) -> ir.Value:
        return new.op("Constant", [], {"value": ir.tensor(list(numbers), ir.DataType.INT64)})

    shape = new.op("Shape", [data])
    rest = new.op("Slice", [shape, constant(depth), constant(2**62)])
    width = new.op("ReduceProd", [new.op("Concat", [constant(1), rest], {"axis": 0})])
    rows, place = constant(1), constant(0)
    for i in range(depth):  # the number of each row of `rest`
        size = new.op("Slice", [shape, constant(i), constant(i + 1)])
        index = new.op("Slice", [indices, constant(i), constant(i + 1), constant(-1)])
        behind = new.op("Where", [new.op("Less", [index, constant(0)]), new.op("Add", [index, size]), index])
        place = new.op("Add", [new.op("Mul", [place, size]), behind])
        rows = new.op("Mul", [rows, size])
    column = new.op("Reshape", [place, constant(-1, 1)])
    count = new.op("Shape", [column], {"end": 1})
    each = new.op("Concat", [count, width], {"axis": 0})
    always = {"allowzero": 1}
    flat = new.op("Reshape", [data, new.op("Concat", [rows, width], {"axis": 0})], always)
    sums = new.op(
        "ScatterElements",
        [flat, new.op("Expand", [column, each]), new.op("Reshape", [updates, each], always)],
        {"axis": 0, "reduction": "add"},
    )
    out = new.op("Reshape", [sums, shape], always)
    out.type, out.shape = node.outputs[0].type, node.outputs[0].shape
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], new.nodes, node.outputs, [out])
