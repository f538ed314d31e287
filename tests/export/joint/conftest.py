"""A CTC loss, and what attaches it, for all tests of `attach`."""

from pathlib import Path
from typing import Any

import exports
import onnx
import pytest
from attach_cases import Join, save

import exportable_losses as el
from exportable_losses.export import attach
from exportable_losses.runtime import LossSession


@pytest.fixture(scope="session")
def ctc() -> Path:
    return exports.onnx(el.CTCLoss(reduction="none"))


@pytest.fixture
def join(ctc: Path, tmp_path: Path) -> Join:
    """Attaches the CTC loss to a model, has the checker look at it, and opens it."""

    def joined(model: onnx.ModelProto, native: Any = "auto", **settings: Any) -> LossSession:
        path = tmp_path / "joint.onnx"
        settings = {"inputs": {"log_probs": "scores"}, **settings}
        attach(save(model, tmp_path / "model.onnx"), ctc, path, **settings)
        onnx.checker.check_model(str(path), full_check=True)
        return LossSession(path, native=native)

    return joined
