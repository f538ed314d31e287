"""What `to_onnx` and `to_torchscript` take, and what they leave as it was."""

import threading
from pathlib import Path

import exports
import numpy as np
import onnx
import pytest
import torch
from export_cases import BY_NAME, Case, TorchAlone
from onnx_runs import onnx_runtime
from torch import nn
from torch._export import utils
from torch.onnx._internal.exporter import _registration

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.export import to_onnx, to_torchscript
from exportable_losses.export.formats.tracing import sparing
from exportable_losses.runtime.testdata import read_test_data


def test_modules_outside_the_catalog_are_refused(tmp_path: Path) -> None:
    for write in (to_onnx, to_torchscript):
        with pytest.raises(TypeError, match=r"^module: got Linear, expected a module of the catalog"):
            write(nn.Linear(2, 2), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_inputs_that_a_row_does_not_have_are_refused(tmp_path: Path) -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"^inputs: got extra, expected predictions, targets, length"):
        to_onnx(el.L1Loss(), tmp_path / "x.onnx", {"predictions": x, "targets": x, "extra": x})
    with pytest.raises(ValueError, match=r"^inputs: targets missing, expected predictions, targets, length"):
        to_onnx(el.L1Loss(), tmp_path / "x.onnx", {"predictions": x})
    assert not list(tmp_path.iterdir())


def test_the_order_of_inputs_is_the_catalog_s(tmp_path: Path) -> None:
    x = torch.zeros(2, 3)
    model = to_onnx(el.L1Loss(), tmp_path / "x.onnx", {"targets": x, "predictions": x + 1})
    assert [value.name for value in model.graph.input] == ["predictions", "targets"]
    assert list(read_test_data(tmp_path / "test_data_set_0")[0]) == ["predictions", "targets"]


def test_the_model_returned_is_the_one_written(tmp_path: Path) -> None:
    model = to_onnx(el.CTCLoss(), tmp_path / "x.onnx")
    assert onnx.load(tmp_path / "x.onnx") == model
    assert repr(model).startswith("ModelProto(")
    assert len(repr(model).splitlines()) == 1


def test_older_test_data_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "test_data_set_0"
    inputs = catalog.get("l1_loss").example_inputs()
    to_onnx(el.L1Loss(), tmp_path / "x.onnx", inputs)
    del inputs["length"]
    to_onnx(el.L1Loss(), tmp_path / "x.onnx", inputs)
    assert sorted(file.name for file in folder.iterdir()) == ["input_0.pb", "input_1.pb", "output_0.pb"]


@pytest.mark.parametrize("row", ["ctc_loss", "nll_loss", "LaplacianVarianceLoss"])
def test_modules_and_inputs_are_left_as_they_were(row: str, tmp_path: Path) -> None:
    case = Case(row)
    module, inputs = case.module(), case.inputs()
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    settings = catalog.settings_of(module)
    to_onnx(module, tmp_path / "x.onnx", inputs)
    to_torchscript(module, tmp_path / "x.pt", custom_ops=True)
    assert module.training
    assert catalog.settings_of(module) == settings
    assert not getattr(module, "custom_ops", False)
    assert all(torch.equal(before[name], tensor) for name, tensor in inputs.items())


LATTICES = {
    "ctc_loss": "ctc_loss",
    "transducer_loss": "transducer_loss",
    "ctc_loss_kd": "ctc_loss",
    "TransducerPosterior": "arcs_loss",
}


@pytest.mark.parametrize("row", LATTICES)
def test_custom_operators_on_demand(row: str, tmp_path: Path, torch_alone: TorchAlone) -> None:
    case, path = Case(row), tmp_path / "model.pt"
    operator = f"exportable_losses::{LATTICES[row]}"
    to_torchscript(case.module(), path)
    assert operator not in str(torch.jit.load(path).inlined_graph)
    to_torchscript(case.module(), path, custom_ops=True)
    loaded = torch.jit.load(path)
    assert operator in str(loaded.inlined_graph)
    inputs = case.inputs("large")
    torch.testing.assert_close(loaded(**inputs), case.module()(**inputs))
    with pytest.raises(AssertionError, match=operator):  # such a file needs the package
        torch_alone(path, [inputs])


@pytest.mark.parametrize("row", ["l1_loss", "cal_snr", "get_si_snr_with_pitwrapper", "transducer_loss"])
def test_ones_in_the_example_stay_dynamic(row: str) -> None:
    # were the example what is traced, its sizes of one would be taken for broadcasts
    case = BY_NAME[next(name for name in BY_NAME if name.startswith(row))]
    path = exports.onnx(case.module(), case.inputs("all_one"))
    inputs = case.inputs("large")
    [loss] = onnx_runtime(path)(inputs).values()
    np.testing.assert_allclose(loss, case.truth(inputs)["loss"], rtol=1e-5)


def test_the_library_is_read_once_and_operators_once_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    api, schemas, calls = _registration.onnxscript_apis, _registration._schemas, []
    monkeypatch.setattr(api, "get_torchlib_ops", lambda: calls.append("library"))
    monkeypatch.setattr(schemas, "op_signature_from_function", lambda of: calls.append(of))
    monkeypatch.setattr(utils, "_materialize_cpp_cia_ops", lambda: calls.append("operators"))
    for _ in range(2):
        with sparing():
            for _ in range(2):
                api.get_torchlib_ops()
                schemas.op_signature_from_function("signature")
                utils._materialize_cpp_cia_ops()
    assert calls == ["library", "signature", "operators", "operators"]
    api.get_torchlib_ops()  # outside, torch is as it was
    schemas.op_signature_from_function("signature")
    utils._materialize_cpp_cia_ops()
    assert calls[4:] == ["library", "signature", "operators"]


def test_of_two_threads_one_waits_and_torch_is_as_it_was() -> None:
    before, entered = utils._materialize_cpp_cia_ops, threading.Event()

    def export() -> None:
        with sparing():
            entered.set()

    other = threading.Thread(target=export)
    with sparing():
        other.start()
        assert not entered.wait(0.1)
    other.join()
    assert entered.is_set()
    assert utils._materialize_cpp_cia_ops is before
