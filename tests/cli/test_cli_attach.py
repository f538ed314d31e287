"""`attach` joins a model and an exported loss, and says what does not fit."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exportable_losses.export.joint import fit
from exportable_losses.runtime import LossSession
from exportable_losses.runtime.testdata import data_sets, read_test_data


@pytest.fixture
def loss(exported):
    return exported / "ctc_loss" / "ctc_loss.onnx"


@pytest.fixture
def model(tmp_path):
    """Time first, the softmax of what comes in."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["t", "b", 4]) for name in ("x", "probs")
    ]
    node = helper.make_node("Softmax", ["x"], ["probs"], axis=-1)
    graph = helper.make_graph([node], "model", values[:1], values[1:])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_writes_a_graph_that_scores(cli, model, loss, tmp_path):
    out = tmp_path / "new" / "joint.onnx"
    words = ("--input", "log_probs=probs", "--scores", "probs", "--layout", "TBC")
    result = cli("attach", model, loss, "--out", out, *words)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Wrote {out}: x, targets, input_lens, target_lens -> probs, loss.\n"
    x, whole = np.full((3, 1, 4), 0.25, np.float32), np.ones(1, np.float32)
    got = LossSession(out)(x=x, targets=np.array([[1, 2]]), input_lens=whole, target_lens=whole)
    np.testing.assert_allclose(got["loss"], np.log(64 / 5) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "log_probs"], "--input: got 'log_probs', expected something like log_probs=logits."),
        (["--input", "log_probs=x"], "got 'x' for log_probs, expected an output of the model: probs"),
        (["--input", "log_probs=probs", "--scores", "odds"], "scores: got 'odds', expected 'logits' or"),
        (["--input", "log_probs=probs", "--layout", "TB"], "layout: got 'TB', expected 'BTC' or 'TBC'"),
        (["--input", "a=probs"], "inputs: got 'a', expected some of log_probs, targets, input_lens"),
    ],
)
def test_what_does_not_fit(cli, model, loss, tmp_path, words, message):
    out = tmp_path / "joint.onnx"
    result = cli("attach", model, loss, "--out", out, *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not out.exists()


def test_what_is_off_is_not_written_but_without_a_check(cli, model, loss, tmp_path, monkeypatch):
    monkeypatch.setitem(fit.BRIDGES["log_probability"], "probs", "")
    out = tmp_path / "joint.onnx"
    words = ("attach", model, loss, "--out", out, "--input", "log_probs=probs", "--scores", "probs")
    result = cli(*words, "--layout", "TBC")
    assert result.exit_code == 1
    assert "attach: loss is off by" in result.stderr
    assert not out.exists()
    assert cli(*words, "--layout", "TBC", "--no-verify").exit_code == 0
    assert out.exists()


def test_what_it_writes_is_validated_on_test_data_beside_it(cli, model, loss, tmp_path):
    joint = tmp_path / "joint.onnx"
    words = ("--input", "log_probs=probs", "--scores", "probs", "--layout", "TBC")
    assert cli("attach", model, loss, "--out", joint, *words).exit_code == 0
    (data,) = data_sets(joint)
    assert data.name == "joint_onnx_test_data_set_0"  # model.onnx is not tested on it
    inputs, outputs = read_test_data(data)
    assert (list(inputs), list(outputs)) == (
        ["x", "targets", "input_lens", "target_lens"],
        ["probs", "loss"],
    )
    result = cli("validate", joint)
    assert (result.exit_code, "2 outputs checked, none off." in result.stdout) == (0, True), result.output
    onnx.save_tensor(numpy_helper.from_array(outputs["loss"] + 1, "loss"), data / "output_1.pb")
    assert "joint (onnxruntime) loss: off by 1" in cli("validate", joint).stdout


@pytest.fixture
def table(tmp_path):
    """A model that looks up its input, so that most numbers are illegal."""
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "t"])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", "t", 4])
    table = numpy_helper.from_array(3 * np.eye(4, dtype=np.float32)[:1], "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["scores"])], "model", [ids], [scores], [table]
    )
    path = tmp_path / "table" / "table.onnx"
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_an_example_for_a_model_that_takes_no_random_numbers(cli, table, loss, tmp_path):
    joint = tmp_path / "joint.onnx"
    words = ("attach", table, loss, "--out", joint, "--input", "log_probs=scores")
    result = cli(*words)
    assert (
        "Warning: the joint graph is not verified and has no test data: the model does not" in result.stderr
    )
    assert data_sets(joint) == []
    np.savez(tmp_path / "batch.npz", ids=np.zeros((2, 9), np.int32), targets=np.int16([[1, 2], [3, 1]]))
    result = cli(*words, "--example", tmp_path / "batch.npz")
    assert (result.exit_code, result.stderr) == (0, "")
    inputs, _ = read_test_data(tmp_path / "test_data_set_0")
    assert inputs["targets"].tolist() == [[1, 2], [3, 1]]
    assert (inputs["targets"].dtype, inputs["ids"].dtype) == (np.int64, np.int64)
    assert inputs["input_lens"].shape == (2,)  # was drawn
    assert cli("validate", joint).exit_code == 0


def test_a_file_that_is_replaced_leaves_no_test_data(cli, table, loss, tmp_path):
    joint = table.parent / "joint.onnx"  # beside the model
    np.savez(tmp_path / "batch.npz", ids=np.zeros((2, 9), np.int64))
    words = ("attach", table, loss, "--out", joint, "--input", "log_probs=scores")
    assert cli(*words, "--example", tmp_path / "batch.npz").exit_code == 0
    assert [each.name for each in data_sets(joint)] == ["joint_onnx_test_data_set_0"]
    assert cli(*words).exit_code == 0
    assert data_sets(joint) == []
    assert f"{joint}: no test data beside it, not checked." in cli("validate", joint).stdout


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros(1)}, "attach: example: got y, expected ids, targets, input_lens, target_lens"),
        ({"targets": np.zeros((2, 2))}, "attach: example: ids missing, expected ids, targets"),
        ({"ids": np.full((2, 9), 7)}, "attach: example: [ONNXRuntimeError]"),
        ({"ids": np.zeros((2, 9))}, "attach: example: ids: got float64, expected int64"),
    ],
)
def test_an_example_that_does_not_fit(cli, table, loss, tmp_path, arrays, message):
    np.savez(tmp_path / "batch.npz", **arrays)
    words = ("--input", "log_probs=scores", "--example", tmp_path / "batch.npz")
    result = cli("attach", table, loss, "--out", tmp_path / "joint.onnx", *words)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "joint.onnx").exists()


def test_a_file_of_another_kind(cli, model, tmp_path):
    result = cli("attach", model, model, "--out", tmp_path / "joint.onnx", "--input", "log_probs=probs")
    assert (result.exit_code, "was not exported by this package" in result.stderr) == (2, True)
