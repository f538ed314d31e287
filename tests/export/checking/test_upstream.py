"""The smallest case of what each runtime cannot do. When one works at last, this fails: mend the table."""

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch._inductor
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from exportable_losses.export.checking.runners import RUNNERS, Absent
from exportable_losses.export.checking.runners.upstream import UPSTREAM, markdown
from exportable_losses.export.formats.executorch_elsewhere import call, interpreter

ROOT = Path(__file__).parents[3]

# Run where ExecuTorch is: prints what it makes of each module.
EXECUTORCH = """
import torch
from executorch.exir import to_edge
from executorch.runtime import Runtime
from torch._higher_order_ops.scan import scan_op
from torch.export import Dim, export


class Sort(torch.nn.Module):
    def forward(self, x):
        return torch.sort(x).values


class Sum(torch.nn.Module):
    def forward(self, x):
        return scan_op(lambda total, row: [total + row], [torch.zeros_like(x[0])], [x], ())[0]


def outcome(module, dims, size):
    program = to_edge(export(module, (torch.ones(3, 4),), dynamic_shapes=[dims])).to_executorch()
    method = Runtime.get().load_program(program.buffer).load_method("forward")
    x = torch.rand(size)
    return "gives" if torch.equal(method.execute([x])[0], module(x)) else "is off"


for module, dims, size in [
    (Sort(), {}, (3, 4)),
    (Sum(), {0: Dim("steps", max=9)}, (2, 4)),
    (Sum(), {1: Dim("width", max=9)}, (3, 2)),
]:
    try:
        print("ExecuTorch", outcome(module, dims, size))
    except Exception as error:
        print("ExecuTorch", error)
"""


def test_executorch(tmp_path: Path) -> None:
    try:
        version = call("version").strip()
    except Absent as error:
        pytest.skip(f"ExecuTorch: {error}")
    command = [interpreter(), "-W", "ignore", "-c", EXECUTORCH]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    told = [line for line in said.stdout.splitlines() if line.startswith("ExecuTorch ")]
    sort, open_steps, open_width = told
    assert "Failed to load method forward" in sort
    assert "Missing operator: [0] aten::sort.values" in said.stderr
    assert open_steps == "ExecuTorch gives"
    assert "failed with error 0x12" in open_width
    assert "tensor_is_broadcastable_to(src, in)" in said.stderr
    assert {UPSTREAM[name].version for name in ("carried size", "sort")} == {version}


class Powers(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2**x


@pytest.mark.thorough  # it compiles for half a minute
def test_aotinductor(tmp_path: Path) -> None:
    try:
        version = RUNNERS["aotinductor"].version()
    except Absent as error:
        pytest.skip(f"AOTInductor: {error}")
    x = torch.arange(3)
    program = torch.export.export(Powers(), (x,))
    package = str(tmp_path / "package.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=package)
    assert Powers()(x).dtype == torch.int64
    assert torch._inductor.aoti_load_package(package)(x).dtype == torch.float32
    assert UPSTREAM["integer power"].version == version.partition("+")[0]


def _model(operator: str, inputs: dict[str, np.ndarray], output: int, **attributes: int) -> onnx.ModelProto:
    """One operator."""
    graph = helper.make_graph(
        [helper.make_node(operator, list(inputs), ["y"], **attributes)],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [helper.make_tensor_value_info("y", output, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_openvino() -> None:
    try:
        version = RUNNERS["openvino"].version()
    except Absent as error:
        pytest.skip(f"OpenVINO: {error}")
    import openvino

    x = np.array([1 / 3])
    model = _model("Neg", {"x": x}, TensorProto.DOUBLE)
    core = openvino.Core()
    negative = core.compile_model(core.read_model(model.SerializeToString()), "CPU")([x])[0]
    assert negative.dtype == np.float64
    assert negative == -x.astype(np.float32)
    assert negative != -x
    assert UPSTREAM["float64"].version == version


def _run(operator: str, **inputs: np.ndarray) -> np.ndarray:
    """One operator in ONNX's reference evaluator, along the second axis."""
    [y] = ReferenceEvaluator(_model(operator, inputs, TensorProto.FLOAT, axis=1)).run(None, inputs)
    return y


def test_onnx_reference() -> None:
    data, indices = np.zeros((2, 64), np.float32), np.array([[63, 0], [1, 2]])
    assert _run("GatherElements", data=data[:, 1:], indices=indices - (indices == 63)).shape == (2, 2)
    with pytest.raises(ValueError, match="cannot reshape array"):
        _run("GatherElements", data=data, indices=indices)
    assert _run("LogSoftmax", x=np.array([[0, -104]], np.float32))[0, 1] == -np.inf
    assert {UPSTREAM[name].version for name in ("elements", "log of softmax")} == {onnx.__version__}


def test_every_limit_has_a_case_and_stands_in_the_documentation() -> None:
    cases = {"carried size", "sort", "integer power", "float64", "elements", "log of softmax"}
    assert set(UPSTREAM) == cases
    assert {limit.runtime for limit in UPSTREAM.values()} <= set(RUNNERS)
    assert markdown() in (ROOT / "docs" / "deploying.md").read_text()
