"""A model and a loss in one graph compute what they compute one after the other."""

from pathlib import Path
from typing import Any

import exports
import numpy as np
import onnx
import pytest
import torch
from attach_cases import (
    BFLOAT16,
    CLASSES,
    DOUBLE,
    FLOAT,
    HALF,
    LABELS,
    Join,
    X,
    about,
    model_of,
    natives,
    recogniser,
    run,
    save,
    two_steps,
    value,
)
from export_cases import BY_NAME, Case
from onnx import TensorProto, helper
from onnx_runs import as_arrays

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.export import attach
from exportable_losses.library import library_path
from exportable_losses.runtime import LossSession


@natives
@pytest.mark.parametrize("layout", ["BTC", "TBC"])
@pytest.mark.parametrize("scores", ["logits", "probs", "log_probs"])
def test_one_graph_computes_what_two_steps_do(scores: str, layout: str, native: bool, join: Join) -> None:
    if native and library_path() is None:
        pytest.skip("there is no native library")
    session = join(recogniser(scores, layout=layout), native, scores=scores, layout=layout)
    assert session.inputs == ["x", "targets", "input_lens", "target_lens"]
    assert session.outputs == ["scores", "loss"]
    got = session(x=X, **LABELS)
    np.testing.assert_allclose(got["loss"], two_steps(), rtol=1e-5)
    np.testing.assert_array_equal(got["scores"], run(recogniser(scores, layout=layout), {"x": X})["scores"])


def test_other_sizes_than_those_of_the_example(join: Join) -> None:
    session = join(recogniser())
    for batch, frames in ((1, 3), (2, 40)):
        x = np.random.default_rng(batch).normal(size=(batch, frames, 4)).astype(np.float32)
        labels = {name: array[:batch] for name, array in LABELS.items()}
        labels["input_lens"] = np.ones(batch, np.float32)
        np.testing.assert_allclose(session(x=x, **labels)["loss"], two_steps(x, labels), rtol=1e-5)


# One graph of each row, the plainest
ROWS = {row: next(case for case in BY_NAME.values() if case.row == row) for row in catalog.names()}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_behind_a_model_of_its_first_input(row: str, tmp_path: Path) -> None:
    case: Case = ROWS[row]
    loss = case.graph()
    feed = as_arrays(case.inputs("short", seed=3))
    first = next(iter(feed))
    kind = helper.np_dtype_to_tensor_dtype(feed[first].dtype)
    dims = [f"d{i}" for i in range(feed[first].ndim)]
    node = helper.make_node("Identity", ["raw"], ["given"])
    model = model_of([node], [value("raw", kind, dims)], [value("given", kind, dims)], opset=21)
    legal = case.entry.inputs[0].legal
    scores = {"log_probability": "log_probs", "probability": "probs"}.get(legal, "logits")
    path = tmp_path / "joint.onnx"
    example = {"raw": torch.from_numpy(feed[first])}
    save(model, tmp_path / "model.onnx")
    attach(tmp_path / "model.onnx", loss, path, inputs={first: "given"}, scores=scores, example=example)
    onnx.checker.check_model(str(path), full_check=True)
    expected = LossSession(loss)(**feed)
    raw = feed.pop(first)
    session = LossSession(path)
    got = session(raw=raw, **feed)
    for name, array in expected.items():
        np.testing.assert_allclose(got[about(onnx.load(path))["attached"]["outputs"][name]], array, rtol=1e-6)


@pytest.mark.parametrize("scores", ["logits", "log_probs", "probs"])
def test_a_transducer_takes_any_scores(scores: str, tmp_path: Path) -> None:
    loss = exports.onnx(el.TransducerLoss(reduction="none"))
    feed = {k: v.numpy() for k, v in catalog.get("transducer_loss").example_inputs().items()}
    expected = LossSession(loss)(**feed)["loss"]
    op = {"logits": "Identity", "probs": "Softmax", "log_probs": "LogSoftmax"}[scores]
    kinds = [FLOAT, ["n", "t", "u1", 8]]
    model = model_of([helper.make_node(op, ["x"], ["y"])], [value("x", *kinds)], [value("y", *kinds)])
    path = tmp_path / "joint.onnx"
    attach(save(model, tmp_path / "m.onnx"), loss, path, inputs={"logits": "y"}, scores=scores)
    x = feed.pop("logits")
    np.testing.assert_allclose(LossSession(path)(x=x, **feed)["loss"], expected, rtol=1e-5)
    time_first = tmp_path / "time_first.onnx"
    attach(tmp_path / "m.onnx", loss, time_first, inputs={"logits": "y"}, scores=scores, layout="TBC")
    got = LossSession(time_first)(x=x.swapaxes(0, 1), **feed)["loss"]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_probabilities_from_logits_and_log_probabilities(tmp_path: Path) -> None:
    loss = exports.onnx(el.DistanceDiffLoss(reduction="batch"))
    feed = {k: v.numpy() for k, v in catalog.get("distance_diff_loss").example_inputs().items()}
    expected = LossSession(loss)(**feed)["loss"]
    kinds = [FLOAT, ["n", "t"]]
    model = model_of([helper.make_node("Log", ["p"], ["y"])], [value("p", *kinds)], [value("y", *kinds)])
    save(model, tmp_path / "m.onnx")
    p = feed.pop("predictions")
    for scores in ("logits", "log_probs"):  # the softmax of log-probabilities is the probabilities
        path, example = tmp_path / "j.onnx", {"p": torch.from_numpy(p)}
        attach(tmp_path / "m.onnx", loss, path, inputs={"predictions": "y"}, scores=scores, example=example)
        np.testing.assert_allclose(LossSession(tmp_path / "j.onnx")(p=p, **feed)["loss"], expected, rtol=1e-5)


def test_a_module_needs_no_file(tmp_path: Path) -> None:
    save(recogniser(), tmp_path / "model.onnx")
    before = sorted(tmp_path.iterdir())
    loss, path = el.CTCLoss(reduction="none"), tmp_path / "joint.onnx"
    model = attach(tmp_path / "model.onnx", loss, path, inputs={"log_probs": "scores"})
    data = tmp_path / "joint_onnx_test_data_set_0"  # its own, beside another model
    assert sorted(tmp_path.iterdir()) == sorted([*before, path, data])  # nothing else is left
    assert model == onnx.load(path)
    np.testing.assert_allclose(LossSession(path)(x=X, **LABELS)["loss"], two_steps(), rtol=1e-5)


def test_an_example_in_frames_makes_a_graph_that_takes_them(tmp_path: Path) -> None:
    save(recogniser(), tmp_path / "model.onnx")
    given = {name: torch.from_numpy(array) for name, array in {"x": X, **LABELS}.items()}
    width = {"input_lens": X.shape[1], "target_lens": LABELS["targets"].shape[1]}
    for name, size in width.items():
        given[name] = (given[name] * size).round().long()
    loss, path = el.CTCLoss(reduction="none"), tmp_path / "joint.onnx"
    attach(tmp_path / "model.onnx", loss, path, inputs={"log_probs": "scores"}, example=given)
    feed = {name: tensor.numpy() for name, tensor in given.items()}
    types = {each.name: each.type.tensor_type.elem_type for each in onnx.load(path).graph.input}
    assert types["input_lens"] == types["target_lens"] == TensorProto.INT64
    np.testing.assert_allclose(LossSession(path)(**feed)["loss"], two_steps(), rtol=1e-5)


def test_a_module_is_exported_as_the_model_wants_it(tmp_path: Path) -> None:
    """In float64, without a dimension that may be left out, with a weight for each of its classes."""
    kinds = [DOUBLE, ["n", 9]]
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], [value("x", *kinds)], [value("y", *kinds)])
    save(model, tmp_path / "m.onnx")
    loss = el.NLLLoss(weight=torch.arange(1.0, 10), reduction="batch")
    attach(tmp_path / "m.onnx", loss, tmp_path / "j.onnx", inputs={"log_probabilities": "y"})
    x, targets = np.random.default_rng(0).normal(size=(3, 9)), np.array([1, 8, 0])
    got = LossSession(tmp_path / "j.onnx")(x=x, targets=targets)["loss"]
    log_probs = torch.from_numpy(x).log_softmax(-1)
    expected = loss.double()(log_probs, torch.from_numpy(targets))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("classes", [30, "classes"])
def test_the_blank_may_be_the_last_of_many_classes(classes: Any, tmp_path: Path) -> None:
    kinds = [FLOAT, ["n", "t", classes]]
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], [value("x", *kinds)], [value("y", *kinds)])
    save(model, tmp_path / "m.onnx")
    loss, path = el.CTCLoss(blank_index=29, reduction="none"), tmp_path / "j.onnx"
    feed = catalog.get("ctc_loss").example_inputs(blank_index=29, C=30)
    example = {"x": feed["log_probs"]}
    attach(tmp_path / "m.onnx", loss, path, inputs={"log_probs": "y"}, scores="log_probs", example=example)
    arrays = {name: tensor.numpy() for name, tensor in feed.items()}
    got = LossSession(path)(x=arrays.pop("log_probs"), **arrays)["loss"]
    np.testing.assert_allclose(got, loss(**feed).numpy(), rtol=1e-5)


def test_half_precision_is_cast(join: Join) -> None:
    model = recogniser("probs")
    model.graph.node.append(helper.make_node("Cast", ["scores"], ["half"], to=HALF))
    model.graph.output.append(value("half", HALF, ["batch", "frames", CLASSES]))
    session = join(model, inputs={"log_probs": "half"}, scores="probs")
    np.testing.assert_allclose(session(x=X, **LABELS)["loss"], two_steps(), rtol=1e-3)


def test_lengths_from_the_model(join: Join) -> None:
    model = recogniser()
    model.graph.node.append(helper.make_node("Identity", ["lens"], ["out_lens"]))
    model.graph.input.append(value("lens", FLOAT, ["batch"]))
    model.graph.output.append(value("out_lens", FLOAT, ["batch"]))
    session = join(model, False, inputs={"log_probs": "scores", "input_lens": "out_lens"})
    assert session.inputs == ["x", "lens", "targets", "target_lens"]
    feed = {"x": X, "lens": LABELS["input_lens"], **{k: LABELS[k] for k in ("targets", "target_lens")}}
    np.testing.assert_allclose(session(**feed)["loss"], two_steps(), rtol=1e-5)
    with pytest.raises(ValueError, match=r"^input_lens: got 2.0 at \[0\], expected relative lengths"):
        session(**{**feed, "lens": 2 * feed["lens"]})
    feed["targets"] = LABELS["targets"] + [[0, 0, 0], [0, 0, -9]]  # behind the item's length
    np.testing.assert_allclose(session(**feed)["loss"], two_steps(), rtol=1e-5)


def test_lengths_of_labels_from_the_model(join: Join) -> None:
    """Which labels count is known when the model has run: those are checked then, and no others ever."""
    model = recogniser()
    model.graph.node.append(helper.make_node("Identity", ["lens"], ["out_lens"]))
    model.graph.input.append(value("lens", FLOAT, ["batch"]))
    model.graph.output.append(value("out_lens", FLOAT, ["batch"]))
    session = join(model, False, inputs={"log_probs": "scores", "target_lens": "out_lens"})
    feed = {"x": X, "lens": LABELS["target_lens"], **{k: LABELS[k] for k in ("targets", "input_lens")}}
    np.testing.assert_allclose(session(**feed)["loss"], two_steps(), rtol=1e-5)
    padded = LABELS["targets"] + [[0, 0, 0], [0, 0, -1]]  # the second item has two labels
    np.testing.assert_allclose(session(**{**feed, "targets": padded})["loss"], two_steps(), rtol=1e-5)
    wrong = LABELS["targets"] * [[1, 1, 1], [1, 0, 1]]
    with pytest.raises(ValueError, match=r"^targets: got 0 at \[1, 1\], expected labels other than"):
        session(**{**feed, "targets": wrong})
    with pytest.raises(ValueError, match=r"^target_lens: got 2.0 at \[0\], expected relative lengths"):
        session(**{**feed, "lens": feed["lens"] * np.float32([2, 1])})


@pytest.mark.parametrize("kind", [HALF, BFLOAT16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
def test_scores_of_sixteen_bits_are_cast(kind: int, wide: bool, tmp_path: Path) -> None:
    """The loss is what it is of the scores that the model has rounded."""
    loss = BY_NAME["ctc_loss-float64" if wide else "ctc_loss-none"].graph()
    model = recogniser("log_probs")
    model.graph.node.append(helper.make_node("Cast", ["scores"], ["half"], to=kind))
    model.graph.output.append(value("half", kind, ["batch", "frames", CLASSES]))
    path = tmp_path / "joint.onnx"
    inputs = {"log_probs": "half"}
    attach(save(model, tmp_path / "m.onnx"), loss, path, inputs=inputs, scores="log_probs")
    onnx.checker.check_model(str(path), full_check=True)
    got = LossSession(path)(x=X, **LABELS)
    rounded = got["half"].astype(np.float64 if wide else np.float32)
    assert (rounded != got["scores"]).any()
    expected = LossSession(loss)(log_probs=rounded, **LABELS)["loss"]
    assert got["loss"].dtype == expected.dtype
    np.testing.assert_allclose(got["loss"], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["INT8", "INT16", "INT32", "UINT8", "UINT16", "UINT32", "UINT64"])
def test_narrow_labels_from_the_model_are_cast(kind: str, join: Join) -> None:
    model = recogniser()
    model.graph.node.append(helper.make_node("Identity", ["ids"], ["labels"]))
    shape = [getattr(onnx.TensorProto, kind), ["batch", "labels"]]
    model.graph.input.append(value("ids", *shape))
    model.graph.output.append(value("labels", *shape))
    inputs = {"log_probs": "scores", "targets": "labels"}
    if kind == "UINT64":
        with pytest.raises(
            ValueError, match=r"^inputs: labels is uint64, expected int64 for targets, or what"
        ):
            join(model, False, inputs=inputs)
        return
    session = join(model, False, inputs=inputs)
    feed = {"x": X, "ids": LABELS["targets"], **{k: LABELS[k] for k in ("input_lens", "target_lens")}}
    np.testing.assert_allclose(session(**feed)["loss"], two_steps(), rtol=1e-5)


def test_absolute_lengths_from_the_model(tmp_path: Path) -> None:
    """Frames that a model counts itself go into a loss that was exported with integers."""
    model = recogniser()
    model.graph.node.append(helper.make_node("Identity", ["lens"], ["out_lens"]))
    model.graph.input.append(value("lens", TensorProto.INT32, ["batch"]))
    model.graph.output.append(value("out_lens", TensorProto.INT32, ["batch"]))
    example = catalog.get("ctc_loss").example_inputs()
    example |= {"input_lens": torch.tensor([14, 13, 12]), "target_lens": torch.tensor([4, 3, 2])}
    ctc = exports.onnx(el.CTCLoss(reduction="none"), example)
    feeds = {"log_probs": "scores", "input_lens": "out_lens"}
    attach(save(model, tmp_path / "model.onnx"), ctc, tmp_path / "joint.onnx", inputs=feeds)
    session = LossSession(tmp_path / "joint.onnx", native=False)
    feed = {
        "x": X,
        "lens": np.array([12, 9], np.int32),
        "targets": LABELS["targets"] - [[0, 0, 0], [0, 0, 9]],
    }
    for target_lens in (np.array([3, 2]), LABELS["target_lens"]):  # relative ones are converted
        np.testing.assert_allclose(session(**feed, target_lens=target_lens)["loss"], two_steps(), rtol=1e-5)
    with pytest.raises(ValueError, match=r"^input_lens: got 13 at \[0\], expected integer lengths in"):
        session(**{**feed, "lens": np.array([13, 9], np.int32)}, target_lens=np.array([3, 2]))
