"""`attach` joins a model and an exported loss, and says what does not fit."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from exportable_losses.export.joint import fit
from exportable_losses.runtime import LossSession


@pytest.fixture
def loss(exported):
    return exported / "ctc_loss" / "ctc_loss.onnx"


@pytest.fixture
def model(tmp_path):
    """Time first, probabilities that are what comes in."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["t", "b", 4]) for name in ("x", "probs")
    ]
    node = helper.make_node("Identity", ["x"], ["probs"])
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
    monkeypatch.setitem(fit._BRIDGES["log_probability"], "probs", "")
    out = tmp_path / "joint.onnx"
    words = ("attach", model, loss, "--out", out, "--input", "log_probs=probs", "--scores", "probs")
    result = cli(*words, "--layout", "TBC")
    assert result.exit_code == 1
    assert "attach: loss is off by" in result.stderr
    assert not out.exists()
    assert cli(*words, "--layout", "TBC", "--no-verify").exit_code == 0
    assert out.exists()


def test_a_file_of_another_kind(cli, model, tmp_path):
    result = cli("attach", model, model, "--out", tmp_path / "joint.onnx", "--input", "log_probs=probs")
    assert (result.exit_code, "was not exported by this package" in result.stderr) == (2, True)
