"""Graphs of every opset, in standard operators alone, and with weights in a file of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_cases import BY_NAME, Case
from onnx.reference import ReferenceEvaluator
from onnx_runs import GatherElements, LogSoftmax, as_arrays
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses.export import to_onnx
from exportable_losses.export.formats import onnx as to_graph
from exportable_losses.export.nodes.protos import all_nodes
from exportable_losses.runtime import LossSession
from exportable_losses.runtime.testdata import read_test_data

OPSETS = range(18, to_graph.NEWEST_OPSET + 1)


def domains(model: onnx.ModelProto) -> set[str]:
    return {node.domain for node in all_nodes(model.graph.node)}


# of those between, what is new in one is in the next as well
@pytest.mark.parametrize(
    "opset",
    [
        pytest.param(each, marks=() if each in (OPSETS[0], 21, OPSETS[-1]) else pytest.mark.thorough)
        for each in OPSETS
    ],
)
def test_every_opset_that_the_exporter_knows(opset: int, tmp_path: Path) -> None:
    model = to_onnx(el.CTCLoss(), tmp_path / "x.onnx", gradients="all", opset=opset)
    for holder in (model, *model.functions):
        assert [each.version for each in holder.opset_import if each.domain == ""] == [opset]
    assert model.ir_version == max(
        8, onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    )
    given, expected = read_test_data(tmp_path / "test_data_set_0")
    got = LossSession(tmp_path / "x.onnx")(**given)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6)


class Layers(nn.Module):
    """What changed between opsets: pads, reductions, group norm, attention, splits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.ctc = nn.CTCLoss()

    def forward(self, x: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
        y = self.attention(nn.functional.gelu(self.norm(self.conv(x.transpose(1, 2)))).transpose(1, 2))
        return self.ctc(y.log_softmax(-1).transpose(0, 1), targets, frames, labels)


@pytest.mark.parametrize("settings", [{"opset": OPSETS[-1]}, {"inline": True, "opset": 21}])
def test_a_model_of_ones_own(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = {
        "x": torch.randn(2, 9, 4),
        "targets": torch.randint(1, 8, (2, 3)),
        "frames": torch.tensor([9, 7]),
        "labels": torch.tensor([3, 2]),
    }
    model = to_onnx(Layers(), tmp_path / "x.onnx", batch, gradients=["x", "conv.weight"], **settings)
    assert domains(model) == ({""} if "inline" in settings else {"", "exportable_losses"})


@pytest.mark.parametrize("opset", [17, to_graph.NEWEST_OPSET + 1])
def test_others_are_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^opset: got {opset}, expected one from 18 to \d+$"):
        to_onnx(el.L1Loss(), tmp_path / "x.onnx", opset=opset)


@pytest.mark.parametrize("name", ["ctc_loss-mean", "transducer_loss-float64", "PitWrapper", "EditDistance"])
def test_inlined_there_are_standard_operators_alone(name: str, tmp_path: Path) -> None:
    """For ONNX's own evaluator, which is given none of our functions, and for OpenVINO."""
    case: Case = BY_NAME[name]
    wanted = "all" if case.entry.differentiable else ()
    model = to_onnx(case.module(), tmp_path / "x.onnx", case.inputs(), gradients=wanted, inline=True)
    assert not model.functions
    assert domains(model) == {""}
    assert [each.domain for each in model.opset_import] == [""]
    feed = as_arrays(case.inputs("large", seed=4))
    expected = LossSession(tmp_path / "x.onnx", native=False)(**feed)
    evaluator = ReferenceEvaluator(model, new_ops=[GatherElements, LogSoftmax])
    with np.errstate(all="ignore"):
        got = dict(zip(evaluator.output_names, evaluator.run(None, feed), strict=True))
    for output, array in expected.items():
        np.testing.assert_allclose(got[output], array, rtol=1e-5, atol=1e-5)
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    compiled = core.compile_model(core.read_model(tmp_path / "x.onnx"), "CPU")
    taken = {each for value in compiled.inputs for each in value.names}
    results = compiled({each: array for each, array in feed.items() if each in taken})
    for output, array in zip(expected, (results[value] for value in compiled.outputs), strict=True):
        np.testing.assert_allclose(array, expected[output], rtol=1e-4, atol=1e-4)


# Weights in a file of their own


EXAMPLE = {"x": torch.tensor([[0, 5], [9, 1000]])}


class Wide(nn.Module):
    """Some weights, and a loss."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x).square().mean()


def assert_loads_and_agrees(folder: Path, module: nn.Module) -> None:
    x = torch.tensor([[0, 2**12 - 1, 7], [1, 2, 1000]])
    got = LossSession(folder / "x.onnx")(x=x.numpy())["loss"]
    np.testing.assert_allclose(got, module(x).detach().numpy(), rtol=1e-5)


def test_more_weights_than_a_file_holds_go_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_graph, "_MOST_BYTES", 2**14)
    module, folder = Wide(2**12), tmp_path / "first"
    folder.mkdir()
    model = to_onnx(module, folder / "x.onnx", EXAMPLE)
    assert sorted(path.name for path in folder.iterdir()) == ["test_data_set_0", "x.onnx", "x.onnx.data"]
    assert (folder / "x.onnx").stat().st_size < 2**12
    assert (folder / "x.onnx.data").stat().st_size == 4 * 4 * 2**12
    assert onnx.load(folder / "x.onnx", load_external_data=False) == model
    moved = folder.rename(tmp_path / "second")
    assert_loads_and_agrees(moved, module)


def test_the_data_that_were_written_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_graph, "_MOST_BYTES", 2**14)
    right = to_graph.ir.external_data.unload_from_model

    def unload(model: Any, folder: Path, name: str, **how: Any) -> None:
        right(model, folder, name, **how)
        (folder / name).write_bytes((folder / name).read_bytes()[::-1])

    monkeypatch.setattr(to_graph.ir.external_data, "unload_from_model", unload)
    with pytest.raises(RuntimeError, match="loss is off"):
        to_onnx(Wide(2**12), tmp_path / "x.onnx", EXAMPLE)
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_more_than_2_gb_of_weights(tmp_path: Path) -> None:
    module = Wide(2**27 + 2**23)
    to_onnx(module, tmp_path / "x.onnx", EXAMPLE)
    assert (tmp_path / "x.onnx.data").stat().st_size > 2**31
    assert_loads_and_agrees(tmp_path, module)
