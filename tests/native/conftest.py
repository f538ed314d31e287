"""What the tests of C++ and of its doors share."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import exports
import pytest
import torch
from building import plain, shared_library
from ort_cases import relative

import exportable_losses as el


@pytest.fixture(scope="session")
def libraries() -> tuple[str, str]:
    """The paths of our libraries for ONNX Runtime and for libtorch."""
    ours = shared_library(plain(), "exportable_losses")
    options = ("-DEXPORTABLE_LOSSES_TORCH=ON", f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}")
    if sys.platform != "win32":
        options += ("-DEXPORTABLE_LOSSES_TORCH_OPTIONS=-O1",)  # the core, which has its speed, as it is
    folder = plain(*options, targets=("exportable_losses_torch",))
    return ours, shared_library(folder, "exportable_losses_torch")


@pytest.fixture(scope="session")
def library() -> Iterator[str]:
    """The library that every session here finds, built with our header."""
    path = shared_library(plain(), "exportable_losses")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPORTABLE_LOSSES_LIBRARY", path)
        yield path


@pytest.fixture(scope="session")
def exported() -> Callable[[str, Any, int], str]:
    """The path of an exported row, by name, dtype and blank."""
    rows: dict[str, Any] = {
        "ctc_loss": lambda blank: el.CTCLoss(blank, "none", zero_infinity=False),
        "ctc_loss_kd": lambda blank: el.CTCDistillationLoss(blank),
        "TransducerPosterior": el.TransducerPosterior,
        "TransducerAlign": el.TransducerAlign,
        "transducer_loss": lambda blank: el.TransducerLoss(blank, "none"),
    }

    def path(row: str, dtype: Any, blank: int) -> str:
        example = {k: torch.from_numpy(v) for k, v in relative(row, dtype, (3, 7, 4, 5), 0, blank).items()}
        return str(exports.onnx(rows[row](blank), example))

    return path
