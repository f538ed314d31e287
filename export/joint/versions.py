"""The standard operators that two graphs are written in, brought to one version."""

import onnx
from onnx import version_converter
from onnx.inliner import inline_local_functions

from ..nodes.functions import same_operator
from ..nodes.protos import all_nodes


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that a model is written in."""
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)


def convert(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """The model at opset `least` or a newer one: nodes change, nothing else does."""
    version, newest = opset_of(model), onnx.defs.onnx_opset_version()
    if version > newest:
        raise ValueError(f"model: got opset {version}, expected at most {newest}, the newest that onnx knows")
    if version >= least:
        return model
    if model.functions:  # the converter loses them
        model = inline_local_functions(model)
    model.ir_version = max(model.ir_version, 8)  # before 4, initializers had to be inputs too
    try:
        converted = version_converter.convert_version(model, least)
    except Exception as error:  # the converter has several types for what it cannot do
        raise ValueError(f"model: opset {version} does not convert to {least}: {error}") from error
    # The converter takes an unknown shape for that of a scalar, so all but the nodes stays as it was.
    known = {tensor.name for tensor in model.graph.initializer}
    new = [tensor for tensor in converted.graph.initializer if tensor.name not in known]
    del model.graph.node[:], model.opset_import[:]
    model.graph.node.extend(converted.graph.node)
    model.graph.initializer.extend(new)
    model.opset_import.extend(converted.opset_import)
    return model


def follow(loss: onnx.ModelProto, version: int) -> None:
    """Take the loss to the newer opset `version`, if its operators are still the same there."""
    before = opset_of(loss)
    for holder in (loss, *loss.functions):
        for each in holder.opset_import:
            if each.domain == "":
                each.version = version
    for graph in (loss.graph, *loss.functions):
        for node in all_nodes(graph.node):
            if node.domain == "" and not same_operator(node.op_type, before, version):
                raise ValueError(
                    f"model: got opset {version}, where {node.op_type} is another operator than at {before}; "
                    f"convert the model to opset {before}"
                )
