"""A loss behind several models, with weights of its own: a transducer whose joint network never runs."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from attach_cases import FLOAT, run, save, value
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor
from typer.testing import CliRunner

import exportable_losses as el
from exportable_losses.export import attach, to_onnx
from exportable_losses.export.commands import app
from exportable_losses.export.joint.bind import _into_scans
from exportable_losses.runtime import LossSession
from exportable_losses.runtime.corpus.batches import Batches

FEATURES, HIDDEN, CLASSES = 5, 4, 6


def part(op_type: str, given: onnx.ValueInfoProto, weight: np.ndarray, time: str) -> onnx.ModelProto:
    """A model of one product or one embedding, whose names are those of the other."""
    inputs = [given.name, "w"] if op_type == "MatMul" else ["w", given.name]
    graph = helper.make_graph(
        [helper.make_node(op_type, inputs, ["out"], "one")],
        "part",
        [given],
        [value("out", FLOAT, ["batch", time, HIDDEN])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def parts(tmp_path: Path) -> tuple[list[Path], dict[str, Tensor], dict[str, np.ndarray], Tensor]:
    """Two models, the weights behind them, what both and the loss take, and the loss in eager torch."""
    generator = np.random.default_rng(0)
    draw = lambda *size: generator.standard_normal(size, np.float32)  # noqa: E731
    ours, embedding = draw(FEATURES, HIDDEN), draw(CLASSES, HIDDEN)
    encoder = part("MatMul", value("x", FLOAT, ["batch", "time", FEATURES]), ours, "time")
    predictor = part("Gather", value("tokens", TensorProto.INT64, ["batch", "time"]), embedding, "time")
    files = [save(encoder, tmp_path / "encoder.onnx"), save(predictor, tmp_path / "predictor.onnx")]
    weights = {"weight": torch.from_numpy(draw(CLASSES, HIDDEN)), "bias": torch.from_numpy(draw(CLASSES))}
    targets = np.array([[1, 2, 5], [3, 0, 0]])
    feed = {
        "x": draw(2, 9, FEATURES),
        "tokens": np.pad(targets, ((0, 0), (1, 0))),
        "targets": targets,
        "input_lens": np.array([9, 6]),
        "target_lens": np.array([3, 1]),
    }
    expected = el.FusedTransducerLoss(0, "none", "relu")(
        torch.from_numpy(feed["x"]) @ torch.from_numpy(ours),
        torch.from_numpy(embedding)[torch.from_numpy(feed["tokens"])],
        *weights.values(),
        *(torch.from_numpy(feed[name]) for name in ("targets", "input_lens", "target_lens")),
    )
    return files, weights, feed, expected


COMPUTED = {"encoder": "out", "predictor": "predictor_out"}
LENGTHS = {"input_lens": torch.tensor([9]), "target_lens": torch.tensor([3])}


def example(feed: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in feed.items()}


@pytest.mark.parametrize("from_file", [False, True])
def test_a_transducer_in_parts(parts: Any, from_file: bool, tmp_path: Path) -> None:
    files, weights, feed, expected = parts
    loss: Any = el.FusedTransducerLoss(0, "none", "relu")
    if from_file:
        inputs = el.catalog.get("FusedTransducerLoss").example_inputs(absolute=True)
        to_onnx(loss, tmp_path / "part.onnx", inputs)
        loss = tmp_path / "part.onnx"
    joint = tmp_path / "joint.onnx"
    model = attach(files, loss, joint, inputs=COMPUTED, weights=weights, example=example(feed))
    assert {each.name for each in model.graph.input} == set(feed)
    found = run(joint, feed)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(LossSession(joint)(**feed)["loss"], expected, rtol=1e-5)
    (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
    (body,) = (each.g for each in scan.attribute if each.name == "body")
    layer = {tuple(each.dims) for each in body.initializer}  # not handed on from step to step
    assert layer == {(CLASSES, HIDDEN), (CLASSES,)}
    of_predictor = [each for each in model.graph.initializer if tuple(each.dims) == (CLASSES, HIDDEN)]
    assert len(of_predictor) == 1
    # joint and scores are nowhere as a whole
    sizes = {dim.dim_value for each in model.graph.value_info for dim in each.type.tensor_type.shape.dim}
    assert CLASSES not in sizes


def test_the_joint_graph_scores_corpora(parts: Any, tmp_path: Path) -> None:
    files, weights, feed, _ = parts
    loss = el.FusedTransducerLoss(0, "mean", "relu")
    attach(files, loss, tmp_path / "joint.onnx", inputs=COMPUTED, weights=weights, example=example(feed))
    assert list(Batches(LossSession(tmp_path / "joint.onnx")).totals) == ["loss"]


def test_linear_ctc_behind_one_model(parts: Any, tmp_path: Path) -> None:
    files, weights, feed, _ = parts
    loss = el.LinearCTCLoss(0, "none")
    attach(files[0], loss, tmp_path / "joint.onnx", inputs={"hidden": "out"}, weights=weights)
    names = ("x", "targets")
    lengths = {"input_lens": np.float32([1, 0.7]), "target_lens": np.float32([1, 1 / 3])}
    found = run(tmp_path / "joint.onnx", {**{name: feed[name] for name in names}, **lengths})
    ours = numpy_helper.to_array(onnx.load(files[0]).graph.initializer[0])
    hidden = torch.from_numpy(feed["x"] @ ours)
    expected = loss(
        hidden, *weights.values(), *(torch.from_numpy(x) for x in (feed["targets"], *lengths.values()))
    )
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"nothing": torch.zeros(1)}}, r"weights: got nothing, expected some of bias, encoder"),
        (
            {"weights": {"targets": torch.zeros(1, 2)}},
            r"weights: got targets, expected some of bias,",
        ),
        ({"weights": {"weight": torch.zeros(6, 3)}}, r"inputs: out has H=4 for encoder, expected 3"),
        ({"weights": {"weight": torch.zeros(6)}}, r"weight: got 1 dimensions, expected the dimensions"),
        ({"model": []}, "model: got none, expected a file or several"),
    ],
)
def test_what_does_not_fit_is_refused(
    parts: Any, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    files, weights, feed, _ = parts
    given = {"model": files, "weights": weights, "inputs": COMPUTED, "example": example(feed), **change}
    model = given.pop("model")
    with pytest.raises(ValueError, match=message):
        attach(model, el.FusedTransducerLoss(0), tmp_path / "joint.onnx", **given)
    assert not (tmp_path / "joint.onnx").exists()


def test_the_command(parts: Any, tmp_path: Path) -> None:
    files, weights, feed, expected = parts
    inputs = el.catalog.get("FusedTransducerLoss").example_inputs(absolute=True)
    to_onnx(el.FusedTransducerLoss(0, "none", "relu"), tmp_path / "loss.onnx", inputs)
    np.savez(tmp_path / "layer.npz", **{name: x.numpy() for name, x in weights.items()})
    np.savez(tmp_path / "batch.npz", **feed)
    out = ["--out", str(tmp_path / "joint.onnx"), "--with", str(files[1])]
    arrays = ["--weights", str(tmp_path / "layer.npz"), "--example", str(tmp_path / "batch.npz")]
    computed = [text for name, output in COMPUTED.items() for text in ("--input", f"{name}={output}")]
    done = CliRunner().invoke(
        app, ["attach", str(files[0]), str(tmp_path / "loss.onnx"), *out, *arrays, *computed]
    )
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(run(tmp_path / "joint.onnx", feed)["loss"], expected, rtol=1e-5)


def test_three_files_of_one_name(parts: Any, tmp_path: Path) -> None:
    files, weights, feed, expected = parts
    same = []
    for i, file in enumerate([*files, files[1]]):
        (tmp_path / str(i)).mkdir()
        same.append(save(onnx.load(file), tmp_path / str(i) / "model.onnx"))
    computed = {"encoder": "out", "predictor": "model_out"}
    given = {**example(feed), "model_tokens": torch.from_numpy(feed["tokens"])}
    loss = el.FusedTransducerLoss(0, "none", "relu")
    attach(same, loss, tmp_path / "joint.onnx", inputs=computed, weights=weights, example=given)
    found = run(tmp_path / "joint.onnx", {name: x.numpy() for name, x in given.items()})
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)


def test_what_is_said_of_each_model_stays(parts: Any, tmp_path: Path) -> None:
    files, weights, feed, _ = parts
    for file, key in zip(files, ("sample_rate", "context_size"), strict=True):
        model = onnx.load(file)
        helper.set_model_props(model, {key: "2", "by": file.stem})
        save(model, file)
    loss = el.FusedTransducerLoss(0, "none", "relu")
    model = attach(
        files, loss, tmp_path / "joint.onnx", inputs=COMPUTED, weights=weights, example=example(feed)
    )
    said = {prop.key: prop.value for prop in model.metadata_props}
    assert (said["sample_rate"], said["context_size"], said["by"]) == ("2", "2", "encoder")


def change(file: Path, of: Any) -> None:
    model = onnx.load(file)
    of(model)
    save(model, file)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (lambda m: m.opset_import.append(helper.make_opsetid("com.x", 2)), "versions 1 and 2 of com.x"),
        (lambda m: helper.set_model_props(m, {"exportable_losses": "{}"}), "has a loss in it"),
    ],
)
def test_models_that_do_not_go_together(parts: Any, of: Any, message: str, tmp_path: Path) -> None:
    files, weights, *_ = parts
    change(files[0], lambda m: m.opset_import.append(helper.make_opsetid("com.x", 1)))
    change(files[1], of)
    loss = el.FusedTransducerLoss(0)
    with pytest.raises(ValueError, match=message):
        attach(files, loss, tmp_path / "joint.onnx", inputs=COMPUTED, weights=weights)


def test_weights_whose_gradient_is_returned_are_refused(parts: Any, tmp_path: Path) -> None:
    files, weights, *_ = parts
    inputs = el.catalog.get("FusedTransducerLoss").example_inputs()
    to_onnx(el.FusedTransducerLoss(0), tmp_path / "loss.onnx", inputs, gradients="all")
    with pytest.raises(ValueError, match="weights: got bias, whose gradient the loss returns"):
        attach(files, tmp_path / "loss.onnx", tmp_path / "joint.onnx", inputs=COMPUTED, weights=weights)


@pytest.mark.parametrize("kind", ["stays", "moves", "read"])
def test_only_a_state_that_stays_becomes_a_constant(kind: str) -> None:
    """One that a step changes, or that is read after the last, has to be handed on."""
    step = "Add" if kind == "moves" else "Identity"
    body = helper.make_graph(
        [
            helper.make_node(step, ["w", "x"] if kind == "moves" else ["w"], ["w_next"]),
            helper.make_node("Mul", ["w", "x"], ["y"]),
        ],
        "body",
        [value("w", FLOAT, [2]), value("x", FLOAT, [2])],
        [value("w_next", FLOAT, [2]), value("y", FLOAT, [2])],
    )
    scan = helper.make_node("Scan", ["weight", "xs"], ["last", "ys"], body=body, num_scan_inputs=1)
    after = helper.make_node("Add", ["ys", "last"] if kind == "read" else ["ys", "ys"], ["out"])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("here", 1)]
    function = helper.make_function("here", "Walk", ["weight", "xs"], ["out"], [scan, after], opsets[:1])
    graph = helper.make_graph(
        [helper.make_node("Walk", ["weight", "xs"], ["out"], domain="here")],
        "loss",
        [value("xs", FLOAT, [3, 2])],
        [value("out", FLOAT, [3, 2])],
        [numpy_helper.from_array(np.float32([1, 2]), "weight")],
    )
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    feed = {"xs": np.float32([[1, 2], [3, 4], [5, 6]])}
    before = ReferenceEvaluator(model).run(None, feed)
    _into_scans(model, {"weight"})
    (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
    assert len(scan.input) == (1 if kind == "stays" else 2)
    np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, feed), before)
