"""Graphs with external data run on every runtime that is here."""

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exportable_losses.export.checking.runners import RUNNERS
from exportable_losses.export.checking.runners.face import Absent
from exportable_losses.export.checking.validate import validate
from exportable_losses.export.formats.testdata import write_test_data

GRAPHS = [name for name, runner in RUNNERS.items() if runner.suffix == ".onnx"]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3]) for name in ("x", "y")]
    weight = np.arange(9, dtype=np.float32).reshape(3, 3)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    initial = [numpy_helper.from_array(weight, "w")]
    made = helper.make_graph([node], "model", values[:1], values[1:], initial)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="model.onnx.data")
    x = np.ones((2, 3), np.float32)
    write_test_data(tmp_path / "test_data_set_0", {"x": x}, {"y": x @ weight})
    return path


@pytest.mark.parametrize("name", GRAPHS)
def test_weights_beside_a_graph_come_along(name: str, graph: Path, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        RUNNERS[name].version()
    except Absent as absent:
        pytest.skip(str(absent))
    (check,) = validate(graph.parent, [name]).checks
    assert check.problem == ""
    if name == "onnxruntime-ort":
        assert "INFO" not in capfd.readouterr().err
        assert logging.getLogger("ort_format_model.utils").level == logging.WARNING
