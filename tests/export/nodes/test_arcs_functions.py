"""The functions of given arcs, alone in a model, against every path there is, without an exporter."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from arc_shapes import SHAPES, SIZES, Shape, drawn, expected
from enumeration import best_arcs
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from exportable_losses.export.nodes.functions import DOMAIN, OPSET, VERSION, function_protos

TOLERANCE = {TensorProto.FLOAT: 2e-5, TensorProto.DOUBLE: 1e-10}
DTYPES = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}
RUNS: dict[str, Callable[[bytes], Any]] = {
    "onnxruntime": onnxruntime.InferenceSession,
    "reference": ReferenceEvaluator,
}
OUTPUTS = {
    "ArcsLoss": ["alone"],
    "ArcsLossGrad": ["costs", "grad"],
    "ArcsAlign": ["starts", "kinds", "scores"],
}


def model_of(shape: Shape, elem_type: int) -> bytes:
    durations = numpy_helper.from_array(np.array([*shape.blanks, *shape.labels]), "durations")
    given = ["arcs", "durations", "t", "u"]
    attributes = {"blanks": len(shape.blanks), "label_ends": int(shape.label_ends)}
    functions, nodes = {}, []
    for name, outputs in OUTPUTS.items():
        more = ["weights"] if name == "ArcsLossGrad" else []
        nodes.append(helper.make_node(name, given + more, outputs, domain=DOMAIN, **attributes))
        functions |= {each.name: each for each in function_protos(name, elem_type)}
    integers = {"t", "u", "starts", "kinds"}
    ranks = {"arcs": 4, "grad": 4, "starts": 2, "kinds": 2}

    def value(name: str) -> Any:
        kind = TensorProto.INT64 if name in integers else elem_type
        return helper.make_tensor_value_info(name, kind, [None] * ranks.get(name, 1))

    inputs = [value(name) for name in ("arcs", "t", "u", "weights")]
    outputs = [value(name) for names in OUTPUTS.values() for name in names]
    graph = helper.make_graph(nodes, "arcs", inputs, outputs, [durations])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, functions=functions.values(), opset_imports=opsets, ir_version=9)
    return model.SerializeToString()


@pytest.mark.parametrize("elem_type", TOLERANCE, ids=["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("runtime", RUNS)
def test_every_path(runtime: str, name: str, elem_type: int) -> None:
    shape = SHAPES[name]
    run = RUNS[runtime](model_of(shape, elem_type))
    close = {"rtol": TOLERANCE[elem_type], "atol": TOLERANCE[elem_type]}
    for frames, labels in SIZES:
        arcs, t, u = drawn(shape, frames, labels)
        costs, occupations = expected(shape, arcs, t, u)
        weights = torch.linspace(0.5, 2, len(costs), dtype=torch.float64)
        given = {"arcs": arcs, "t": t, "u": u, "weights": weights}
        feed = {
            key: tensor.numpy().astype(DTYPES[elem_type]) if tensor.is_floating_point() else tensor.numpy()
            for key, tensor in given.items()
        }
        alone, found, grad, starts, kinds, scores = (torch.from_numpy(x) for x in run.run(None, feed))
        torch.testing.assert_close(alone.double(), costs, **close)
        torch.testing.assert_close(found.double(), costs, **close)
        torch.testing.assert_close(grad.double(), -occupations * weights[:, None, None, None], **close)
        for item, (inside, below) in enumerate(zip(t.tolist(), u.tolist(), strict=True)):
            score, path = best_arcs(arcs[item, :inside, : below + 1], below, *shape)
            assert scores[item].item() == pytest.approx(score, rel=close["rtol"])
            emitted = list(zip(starts[item].tolist(), range(labels), kinds[item].tolist(), strict=True))
            assert emitted == path + [(0, j, 0) for j in range(len(path), labels)]
