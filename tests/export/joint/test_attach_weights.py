"""A model's external data: beside the joint graph, copied, never loaded."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from attach_cases import CLASSES, FLOAT, LABELS, WEIGHT, X, recogniser, save, two_steps, value
from onnx import TensorProto, helper, numpy_helper

from exportable_losses.export import attach
from exportable_losses.runtime import LossSession


def save_external(model: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    return path


@pytest.mark.parametrize("opset", [12, 18, 21])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_external_data(opset: int, elsewhere: bool, ctc: Path, tmp_path: Path) -> None:
    model = save_external(recogniser(opset=opset), tmp_path / "model" / "model.onnx")
    before = {p.name: p.read_bytes() for p in model.parent.iterdir()}
    path = tmp_path / "new" / "joint.onnx" if elsewhere else model.parent / "joint.onnx"
    path.parent.mkdir(exist_ok=True)
    attach(model, ctc, path, inputs={"log_probs": "scores"})
    files = [p for p in model.parent.iterdir() if p.is_file() and p != path]
    assert {p.name: p.read_bytes() for p in files} == before
    if elsewhere:
        shutil.rmtree(model.parent)  # it stands on its own
        assert {p.name for p in path.parent.iterdir() if p.is_file()} == {"joint.onnx", "joint.onnx.data"}
    onnx.checker.check_model(str(path), full_check=True)
    np.testing.assert_allclose(LossSession(path)(x=X, **LABELS)["loss"], two_steps(), rtol=1e-5)


def test_external_data_that_are_not_there_or_outside(ctc: Path, tmp_path: Path) -> None:
    model = save_external(recogniser(), tmp_path / "model" / "model.onnx")
    inputs = {"log_probs": "scores"}
    (model.parent / "weights.bin").rename(tmp_path / "weights.bin")
    with pytest.raises(FileNotFoundError, match=r"^model: there is no file .*weights.bin"):
        attach(model, ctc, tmp_path / "x.onnx", inputs=inputs)
    proto = onnx.load(model, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = "../weights.bin"
    save(proto, model)
    with pytest.raises(
        ValueError, match=r"^model: got external data in '../weights.bin', expected a file in"
    ):
        attach(model, ctc, tmp_path / "x.onnx", inputs=inputs)
    assert {p.name for p in tmp_path.iterdir()} == {"model", "weights.bin"}


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("through", ["file", "folder"])
def test_external_data_that_is_a_link_to_elsewhere(
    through: str, elsewhere: bool, ctc: Path, tmp_path: Path
) -> None:
    """A model that somebody sent would have the file that it names copied beside the joint graph."""
    model = save_external(recogniser(), tmp_path / "model" / "model.onnx")
    (tmp_path / "secret").mkdir()
    (model.parent / "weights.bin").rename(tmp_path / "secret" / "weights.bin")
    if through == "file":
        (model.parent / "weights.bin").symlink_to(tmp_path / "secret" / "weights.bin")
    else:
        (model.parent / "inner").symlink_to(tmp_path / "secret")
        proto = onnx.load(model, load_external_data=False)
        for tensor in proto.graph.initializer:
            tensor.external_data[0].value = "inner/weights.bin"
        save(proto, model)
    out = tmp_path / "out"
    out.mkdir()
    path = (out if elsewhere else model.parent) / "joint.onnx"
    with pytest.raises(
        ValueError, match=r"weights.bin', which is a link to .*secret/weights.bin, expected a file"
    ):
        attach(model, ctc, path, inputs={"log_probs": "scores"})
    assert not path.exists()
    assert list(out.iterdir()) == []


def test_external_data_may_be_a_link_within_its_folder(ctc: Path, tmp_path: Path) -> None:
    model = save_external(recogniser(), tmp_path / "model" / "model.onnx")
    (model.parent / "weights.bin").rename(model.parent / "real.bin")
    (model.parent / "weights.bin").symlink_to("real.bin")
    attach(model, ctc, tmp_path / "joint.onnx", inputs={"log_probs": "scores"})
    assert (tmp_path / "joint.onnx.data").read_bytes() == (model.parent / "real.bin").read_bytes()


@pytest.mark.parametrize("opset", [12, 21])
def test_more_weights_than_a_protobuf_can_hold(opset: int, ctc: Path, tmp_path: Path) -> None:
    """Three gigabytes in a file with a hole in it: nothing of it is read to join."""
    model = recogniser(opset=opset)
    rows = 3 * 2**30 // 4 // CLASSES
    big = TensorProto(name="W", data_type=FLOAT, dims=[rows, CLASSES], data_location=TensorProto.EXTERNAL)
    for key, entry in {"location": "weights.bin", "offset": "0", "length": str(rows * CLASSES * 4)}.items():
        big.external_data.add(key=key, value=entry)
    model.graph.initializer[0].CopyFrom(big)
    model.graph.node[0].CopyFrom(helper.make_node("Gather", ["W", "x"], ["y"]))  # the weights of some frames
    model.graph.input[0].CopyFrom(value("x", TensorProto.INT64, ["batch", "frames"]))
    with (tmp_path / "weights.bin").open("wb") as file:
        file.write(WEIGHT.tobytes())
        os.truncate(file.fileno(), rows * CLASSES * 4)
    path = tmp_path / "joint.onnx"
    attach(save(model, tmp_path / "model.onnx"), ctc, path, inputs={"log_probs": "scores"})
    assert path.stat().st_size < 2**20
    onnx.checker.check_model(str(path), full_check=True)
    x = np.array([[0, 1, 2, 3] * 3, [rows - 1] * 12])
    got = LossSession(path)(x=x, **LABELS)
    expected = run_ctc(ctc, np.stack([WEIGHT[x[0]], np.zeros((12, CLASSES), np.float32)]))
    np.testing.assert_allclose(got["loss"], expected, rtol=1e-5)


def run_ctc(ctc: Path, logits: np.ndarray) -> np.ndarray:
    log_probs = torch.from_numpy(logits).log_softmax(-1).numpy()
    return LossSession(ctc)(log_probs=log_probs, **LABELS)["loss"]


def test_no_input_is_replaced(ctc: Path, tmp_path: Path) -> None:
    model = save_external(recogniser(), tmp_path / "model.onnx")
    loss = Path(shutil.copy(ctc, tmp_path / "loss.onnx"))
    (tmp_path / "link.onnx").symlink_to(model)
    (tmp_path / "folder").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    for out in (
        model,
        loss,
        tmp_path / "weights.bin",
        tmp_path / "link.onnx",
        tmp_path / "folder" / ".." / "model.onnx",
    ):
        with pytest.raises(ValueError, match=r"^path: got .*, which is an input too, expected another file"):
            attach(model, loss, out, inputs={"log_probs": "scores"})
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_external_data_by_their_whole_path_are_outside(ctc: Path, tmp_path: Path) -> None:
    model = save_external(recogniser(), tmp_path / "model" / "model.onnx")
    proto = onnx.load(model, load_external_data=False)
    [place] = [e for e in proto.graph.initializer[0].external_data if e.key == "location"]
    place.value = str(model.parent / "weights.bin")
    save(proto, model)
    with pytest.raises(
        ValueError, match=r"^model: got external data in '/.*weights.bin', expected a file in its"
    ):
        attach(model, ctc, tmp_path / "x.onnx", inputs={"log_probs": "scores"})
    assert {p.name for p in tmp_path.iterdir()} == {"model"}


def test_external_data_in_several_files(ctc: Path, tmp_path: Path) -> None:
    model, path = tmp_path / "model" / "model.onnx", tmp_path / "joint.onnx"
    model.parent.mkdir()
    proto = recogniser()
    bias = np.linspace(-1, 1, CLASSES, dtype=np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(bias, "b"))
    proto.graph.node.insert(1, helper.make_node("Add", ["y", "b"], ["z"]))
    proto.graph.node[2].input[0] = "z"
    onnx.save(proto, model, save_as_external_data=True, size_threshold=0, all_tensors_to_one_file=False)
    assert len(list(model.parent.iterdir())) == 3
    attach(model, ctc, path, inputs={"log_probs": "scores"})
    shutil.rmtree(model.parent)
    files = {p.name for p in tmp_path.iterdir() if p.is_file()}
    assert files == {path.name, f"{path.name}.data", f"{path.name}.1.data"}
    got = LossSession(path)(x=X, **LABELS)
    np.testing.assert_allclose(got["scores"], X @ WEIGHT + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["loss"], run_ctc(ctc, X @ WEIGHT + bias), rtol=1e-5)
