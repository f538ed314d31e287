"""A length that a joint graph does not take is the same error with the operator library and without."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attach_cases import X, recogniser, save

import exportable_losses as el
from exportable_losses.export import attach
from exportable_losses.library import library_path
from exportable_losses.runtime import LossSession

LABELS = {"targets": np.array([[1, 2], [3, 4]]), "input_lens": [12, 9], "target_lens": [2, 1]}


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes frames and labels."""
    folder = tmp_path_factory.mktemp("joint")
    example = {"x": X, **{name: np.asarray(array) for name, array in LABELS.items()}}
    attach(
        save(recogniser(), folder / "model.onnx"),
        el.CTCLoss(reduction="none"),
        folder / "joint.onnx",
        inputs={"log_probs": "scores"},
        example={name: torch.from_numpy(array) for name, array in example.items()},
    )
    return folder / "joint.onnx"


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_lens": [13, 9]}, "input_lens: got 13 at [0], expected integer lengths in [1, 12]"),
        ({"input_lens": [12, -1]}, "input_lens: got -1 at [1], expected integer lengths of at least 1"),
        ({"target_lens": [3, 1]}, "target_lens: got 3 at [0], expected integer lengths in [0, 2]"),
        ({"targets": [[1, 2], [9, 1]]}, "targets: got 9 at [1, 0], expected an index in [0, 6]"),
        ({"targets": [[0, 2], [3, 1]]}, "targets: got 0 at [0, 0], expected labels other than blank_index=0"),
    ],
)
def test_the_error_names_the_input(
    joint: Path, native: bool, change: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if native and library_path() is None:
        pytest.skip("no operator library here")
    session = LossSession(joint, native=native)
    given = {name: np.asarray(array) for name, array in {**LABELS, **change}.items()}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        session(x=X, **given)
    assert capfd.readouterr().err == ""  # ONNX Runtime prints nothing beside it


def test_a_refusal_that_the_check_does_not_know_is_the_operators(
    joint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library_path() is None:
        pytest.skip("no operator library here")
    session = LossSession(joint, native=True)
    session.losses = []
    feed = {name: np.asarray(array) for name, array in {**LABELS, "input_lens": [13, 9]}.items()}
    with pytest.raises(ValueError, match=r"^input_lengths: got 13 for item 0, expected a number in"):
        session.run({"x": X, **feed})
