"""What does not fit is refused, and a session refuses what the joint graph cannot take."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from attach_cases import CLASSES, FLOAT, LABELS, NEWEST, Join, X, model_of, recogniser, save, two_steps, value
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

import exportable_losses as el
from exportable_losses.export import attach, to_onnx
from exportable_losses.export.joint import attach as attaching
from exportable_losses.export.joint.join import Names
from exportable_losses.library import library_path
from exportable_losses.runtime import LossSession

# What a session checks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": LABELS["targets"] + 9}, r"targets: got 10 at \[0, 0\], expected an index in \[0, 6\]"),
        ({"targets": LABELS["targets"] * 0}, r"targets: got 0 at \[0, 0\], expected labels other than"),
        ({"target_lens": -LABELS["target_lens"]}, r"target_lens: got -1.0 at \[0\], expected relative"),
        ({"target_lens": LABELS["target_lens"][:1]}, r"target_lens: got size 1 along dimension 0 \(B\)"),
        ({"x": X * np.float32(np.nan)}, r"log_probs: got nan at \[0, 0, 0\], expected log-probabilities"),
        ({"x": X[..., :3]}, r"x: got size 3 along dimension 2, expected 4, which the model fixes"),
        ({"x": X[0]}, r"x: got shape \[12, 4\], expected 3 dimensions"),
    ],
)
def test_a_session_refuses(change: dict[str, np.ndarray], message: str, join: Join) -> None:
    session = join(recogniser())
    with pytest.raises(ValueError, match=f"^{message}"):
        session(**{"x": X, **LABELS, **change})


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    "change", [{"targets": LABELS["targets"] + 9}, {name: array[:1] for name, array in LABELS.items()}]
)
def test_what_only_the_model_can_show_is_an_error_too(
    change: dict[str, np.ndarray], native: bool, join: Join
) -> None:
    """The session's where the graph computes a number, ONNX Runtime's where it does not."""
    if native and library_path() is None:
        pytest.skip("there is no native library")
    session = join(recogniser(dims=("batch", "frames", "classes")), native)
    kinds = (ValueError, InvalidArgument, RuntimeException, Fail)
    with pytest.raises(kinds, match=r"targets: got|input_lens: got|running Scan|GatherElements|indices"):
        session(**{"x": X, **LABELS, **change})


def test_a_model_takes_what_a_loss_never_does(join: Join) -> None:
    """Bytes, and an input of unknown rank."""
    model = recogniser()
    del model.graph.input[:]
    model.graph.input.append(value("raw", TensorProto.UINT8, ["batch", "frames", 4]))
    model.graph.node.insert(0, helper.make_node("Cast", ["raw"], ["x"], to=FLOAT))
    session = join(model)
    raw = np.arange(96, dtype=np.uint8).reshape(2, 12, 4) % 3
    np.testing.assert_allclose(
        session(raw=raw, **LABELS)["loss"], two_steps(raw.astype(np.float32)), rtol=1e-4
    )
    with pytest.raises(TypeError, match=r"^raw: got float32, expected uint8"):
        session(raw=X, **LABELS)


# What does not fit


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": {}}, "inputs: got none, expected some of log_probs, targets, input_lens, target_lens"),
        ({"inputs": {"logits": "scores"}}, "inputs: got 'logits', expected some of log_probs, targets"),
        (
            {"inputs": {"log_probs": "logits"}},
            "inputs: got 'logits' for log_probs, expected an output of the model: scores, hidden, whole",
        ),
        (
            {"inputs": {"log_probs": "hidden"}},
            r"inputs: hidden has 2 dimensions, expected 3 for log_probs: \(B,",
        ),
        ({"inputs": {"log_probs": "whole"}}, "inputs: whole is int64, expected float for log_probs"),
        ({"inputs": {"log_probs": "several"}}, "inputs: several, for log_probs, is not a tensor"),
        (
            {"inputs": {"log_probs": "scores", "input_lens": "two"}},
            "inputs: two has B=2 for input_lens, expected 3 as elsewhere",
        ),
        (
            {"scores": "probabilities"},
            "scores: got 'probabilities', expected 'logits' or 'probs' or 'log_probs'",
        ),
        (
            {"layout": "TBC", "inputs": {"input_lens": "two"}},
            "layout: got 'TBC', but batch and time are not first in input_lens",
        ),
        ({"layout": "TCB"}, "layout: got 'TCB', expected 'BTC' or 'TBC'"),
        (
            {"inputs": {"input_lens": "two"}, "scores": "probs"},
            r"scores: got 'probs', but input_lens of the loss takes relative lengths",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    settings: dict[str, Any], message: str, ctc: Path, tmp_path: Path
) -> None:
    model = recogniser(dims=(3, "frames", CLASSES))
    outputs = {
        "hidden": ("ReduceMax", FLOAT, ["batch", "frames"], {"keepdims": 0}),
        "whole": ("Cast", TensorProto.INT64, ["batch", "frames", CLASSES], {"to": TensorProto.INT64}),
        "two": ("ReduceMax", FLOAT, [2], {"keepdims": 0}),
    }
    for name, (op, kind, dims, attributes) in outputs.items():
        model.graph.node.append(helper.make_node(op, ["y"], [name], **attributes))
        model.graph.output.append(value(name, kind, dims))
    model.graph.node.append(helper.make_node("SequenceConstruct", ["y"], ["several"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("several", FLOAT, None))
    save(model, tmp_path / "model.onnx")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"^{message}"):
        attach(
            tmp_path / "model.onnx",
            ctc,
            tmp_path / "x.onnx",
            **{"inputs": {"log_probs": "scores"}, **settings},
        )
    assert sorted(tmp_path.iterdir()) == before


def test_a_number_of_classes_that_does_not_fit(tmp_path: Path) -> None:
    save(recogniser(), tmp_path / "model.onnx")
    path = tmp_path / "x.onnx"
    with pytest.raises(ValueError, match=r"^blank_index: got 7, expected an index in \[0, 6\]"):
        attach(tmp_path / "model.onnx", el.CTCLoss(blank_index=7), path, inputs={"log_probs": "scores"})
    wide = tmp_path / "wide.onnx"
    to_onnx(el.CTCLoss(blank_index=7), wide)
    with pytest.raises(
        ValueError, match=r"^blank_index: got 7, expected an index in \[0, 6\]: scores has 7 classes"
    ):
        attach(tmp_path / "model.onnx", wide, path, inputs={"log_probs": "scores"})
    rng = np.random.default_rng(0)
    tensors = {name: torch.from_numpy(rng.random((2, 5, 6), np.float32)) for name in ("inputs", "targets")}
    to_onnx(el.BCEWithLogitsLoss(pos_weight=torch.rand(6)), tmp_path / "bce.onnx", tensors)
    with pytest.raises(
        ValueError, match=r"^inputs: scores has size 7 along dimension 2 of inputs, expected 6"
    ):
        attach(tmp_path / "model.onnx", tmp_path / "bce.onnx", path, inputs={"inputs": "scores"})


def test_files_of_another_kind(ctc: Path, tmp_path: Path) -> None:
    model, path = save(recogniser(), tmp_path / "model.onnx"), tmp_path / "x.onnx"
    other = tmp_path / "other.onnx"
    other.write_bytes(b"PK\x03\x04 not a graph")
    given: dict[str, Any] = {"inputs": {"log_probs": "scores"}}
    with pytest.raises(FileNotFoundError, match=r"^model: got .*nowhere.onnx, expected an .onnx file"):
        attach(tmp_path / "nowhere.onnx", ctc, path, **given)
    with pytest.raises(ValueError, match=r"^model: .*other.onnx is not an ONNX model"):
        attach(other, ctc, path, **given)
    with pytest.raises(ValueError, match=r"^loss: .*model.onnx was not exported by this package"):
        attach(model, model, path, **given)
    with pytest.raises(TypeError, match=r"^module: got Linear, expected a module of the catalog"):
        attach(model, torch.nn.Linear(2, 2), path, **given)
    attach(model, ctc, path, **given)
    with pytest.raises(ValueError, match=r"^loss: .*x.onnx has a model in it already"):
        attach(model, path, tmp_path / "y.onnx", **given)
    newer = recogniser()
    newer.opset_import[0].version = NEWEST + 1
    with pytest.raises(ValueError, match=f"^model: got opset {NEWEST + 1}, expected at most {NEWEST}"):
        attach(save(newer, other), ctc, path, **given)


def test_what_the_checker_refuses_is_not_written(
    ctc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save(recogniser(), tmp_path / "model.onnx")
    monkeypatch.setattr(attaching, "join", lambda *_: Names({}, {}))  # something went wrong
    monkeypatch.setattr(
        attaching, "_describe", lambda proto, *_: proto.graph.output.append(value("no", FLOAT, []))
    )
    with pytest.raises(onnx.checker.ValidationError):
        attach(model, ctc, tmp_path / "x.onnx", inputs={"log_probs": "scores"})
    assert list(tmp_path.iterdir()) == [model]


def test_time_first_predictions_and_targets(tmp_path: Path) -> None:
    kinds = [FLOAT, ["t", "b", 4]]
    nodes = [helper.make_node("Identity", [f"in_{name}"], [name]) for name in ("one", "other")]
    inputs, outputs = ([value(prefix + name, *kinds) for name in ("one", "other")] for prefix in ("in_", ""))
    save(model_of(nodes, inputs, outputs), tmp_path / "m.onnx")
    loss, path = el.MSELoss(reduction="batch"), tmp_path / "j.onnx"
    inputs_of_loss = {"predictions": "one", "targets": "other"}
    attach(tmp_path / "m.onnx", loss, path, inputs=inputs_of_loss, layout="TBC")
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(6, 3, 4)).astype(np.float32) for _ in range(2))
    length = np.array([1, 0.5, 0.5], np.float32)
    got = LossSession(path)(in_one=one, in_other=other, length=length)["loss"]
    expected = loss(*(torch.from_numpy(x.swapaxes(0, 1)) for x in (one, other)), torch.from_numpy(length))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5)
