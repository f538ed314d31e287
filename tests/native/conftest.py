"""What is built once for all tests, and for all workers of pytest-xdist."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from building import cmake, shared_library
from filelock import FileLock  # torch brings it


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`once(name, fill)` is a folder that the first worker to ask has filled."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name: str, fill: Callable[[Path], None]) -> Path:
        folder = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not (shared / f"{name}.done").exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                (shared / f"{name}.done").touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def libraries(once: Callable[[str, Callable[[Path], None]], Path]) -> tuple[str, str]:
    """The paths of our libraries for ONNX Runtime and for libtorch."""

    def build(folder: Path) -> None:
        cmake(
            folder,
            "-DEXPORTABLE_LOSSES_TORCH=ON",
            f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}",
            targets=("exportable_losses", "exportable_losses_torch"),
        )

    folder = once("libraries", build)
    return shared_library(folder, "exportable_losses"), shared_library(folder, "exportable_losses_torch")
