"""What the tests of `attach` share: a recogniser to attach to, and the truth of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import exportable_losses as el
from exportable_losses.runtime import LossSession

OURS = "exportable_losses"
FLOAT, DOUBLE, HALF = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16
BFLOAT16 = TensorProto.BFLOAT16
NEWEST = onnx.defs.onnx_opset_version()
CLASSES = 7
WEIGHT = np.random.default_rng(0).normal(size=(4, CLASSES)).astype(np.float32)
LABELS = {
    "targets": np.array([[1, 2, 3], [4, 4, 0]]),
    "input_lens": np.array([1, 0.75], np.float32),
    "target_lens": np.array([1, 2 / 3], np.float32),
}
X = np.random.default_rng(1).normal(size=(2, 12, 4)).astype(np.float32)
natives = pytest.mark.parametrize("native", [True, False])


def value(name: str, kind: int, dims: Sequence[Any] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    *,
    opset: int = 18,
    initializers: Mapping[str, np.ndarray] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()]
    graph = helper.make_graph(nodes, "model", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", opset)]
    more = {"ir_version": 10 if opset > 20 else 8, **more}
    return helper.make_model(graph, opset_imports=opsets, producer_name="theirs", **more)


def recogniser(
    scores: str = "logits",
    opset: int = 18,
    dims: Sequence[Any] = ("batch", "frames", CLASSES),
    layout: str = "BTC",
    **more: Any,
) -> onnx.ModelProto:
    """`x` times a matrix, as logits, probabilities or log-probabilities."""
    nodes = [helper.make_node("MatMul", ["x", "W"], ["y"], "project")]
    if layout == "TBC":
        nodes.append(helper.make_node("Transpose", ["y"], ["turned"], "turn", perm=[1, 0, 2]))
        dims = [dims[1], dims[0], dims[2]]
    op = {"logits": "Identity", "probs": "Softmax", "log_probs": "LogSoftmax"}[scores]
    axis = {} if scores == "logits" else {"axis": 2}
    nodes.append(helper.make_node(op, [nodes[-1].output[0]], ["scores"], "last", **axis))
    inputs = [value("x", FLOAT, ["batch", "frames", 4])]
    outputs = [value("scores", FLOAT, dims)]
    return model_of(nodes, inputs, outputs, opset=opset, initializers={"W": WEIGHT}, **more)


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def run(path: Path | onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    source = str(path) if isinstance(path, Path) else path.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


def two_steps(x: np.ndarray = X, labels: Mapping[str, np.ndarray] = LABELS) -> np.ndarray:
    """The costs in eager torch behind numpy's product, in float64."""
    logits = torch.from_numpy(x.astype(np.float64) @ WEIGHT.astype(np.float64))
    tensors = {name: torch.from_numpy(array) for name, array in labels.items()}
    return el.CTCLoss(reduction="none")(logits.log_softmax(-1), **tensors).numpy()


def about(model: onnx.ModelProto) -> dict[str, Any]:
    [found] = [json.loads(prop.value) for prop in model.metadata_props if prop.key == OURS]
    return found


def dims_of(model: onnx.ModelProto) -> dict[str, list[Any]]:
    return {
        v.name: [dim.dim_value or dim.dim_param for dim in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.output)
    }


Join = Callable[..., LossSession]
