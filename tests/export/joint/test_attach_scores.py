"""A wrong word for a model's scores is an error, and not a wrong number."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from attach_cases import X, recogniser, save

from exportable_losses.export import attach
from exportable_losses.export.joint.scores import WrongScores, check_scores

KINDS = ("logits", "probs", "log_probs")


@pytest.mark.parametrize("said", KINDS)
@pytest.mark.parametrize("given", KINDS)
@pytest.mark.parametrize("example", [False, True])
def test_what_the_model_returns_is_what_was_said(
    said: str, given: str, example: bool, ctc: Path, tmp_path: Path
) -> None:
    model, path = save(recogniser(given), tmp_path / "model.onnx"), tmp_path / "joint.onnx"
    settings = {"inputs": {"log_probs": "scores"}, "scores": said}
    inputs = {"x": torch.from_numpy(X)} if example else None
    if said == given or (said, given) == ("logits", "log_probs"):  # whose log-softmax is themselves
        attach(model, ctc, path, example=inputs, **settings)
        return
    message = rf"^scores: got '{said}', but the model's scores .* look like '{given}'\. Is scores"
    with pytest.raises(WrongScores, match=message):
        attach(model, ctc, path, example=inputs, **settings)
    assert not path.exists()
    if said != "probs":  # the logarithm of less than zero
        attach(model, ctc, path, example=inputs, verify=False, **settings)
        assert onnx.load(path).graph.output


def test_padding_and_few_bits_are_no_reason() -> None:
    probs = np.random.default_rng(0).dirichlet(np.ones(30), (2, 9))
    check_scores("probs", "y", (np.round(probs * 255) / 255 * 1.004).astype(np.float32))
    check_scores("log_probs", "y", np.log(probs).astype(np.float16))
    padded = np.log(probs)
    padded[:, 6:] = 0  # frames of nothing
    check_scores("log_probs", "y", padded)
    check_scores("logits", "y", np.zeros((2, 3, 4)))
    for array in (np.full((2, 3), np.nan), np.ones((2, 3, 1)), np.zeros((0, 4)), np.float32(1)):
        for scores in KINDS:
            check_scores(scores, "y", np.asarray(array))
    check_scores("log_probs", "y", np.array([[0.0, -np.inf]]))


@pytest.mark.parametrize("padding", [-np.inf, 0.0])
def test_rows_of_padding_say_nothing(padding: float) -> None:
    rows = np.full((10, 4), padding)
    rows[:3] = np.log([0.1, 0.2, 0.3, 0.4])
    check_scores("log_probs", "y", rows)
    with pytest.raises(WrongScores, match="look like 'log_probs'"):
        check_scores("probs", "y", rows)
