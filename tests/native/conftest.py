"""What is built once for all tests, and for all workers of pytest-xdist."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock  # torch brings it
from ort_header import COMPILER

ROOT = Path(__file__).parents[2]


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


def cmake(source: Path, folder: Path, *settings: str, targets: tuple[str, ...] = ("all",)) -> None:
    """Configure and build, with warnings as errors; what the compiler says is the error."""
    if COMPILER is None or shutil.which("cmake") is None:
        pytest.skip("no CMake, or no C++ compiler")
    flags = "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"
    configure = ["cmake", "-S", str(source), "-B", str(folder), flags, *settings]
    for command in (configure, ["cmake", "--build", str(folder), "-j", "2", "--target", *targets]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout


def shared_library(folder: Path, stem: str) -> str:
    """The library of this name in `folder`."""
    prefix, suffix = {"win32": ("", ".dll"), "darwin": ("lib", ".dylib")}.get(sys.platform, ("lib", ".so"))
    path = folder / f"{prefix}{stem}{suffix}"
    assert path.is_file()
    return str(path)


@pytest.fixture(scope="session")
def libraries(once: Callable[[str, Callable[[Path], None]], Path]) -> tuple[str, str]:
    """The paths of our libraries for ONNX Runtime and for libtorch."""

    def build(folder: Path) -> None:
        cmake(
            ROOT,
            folder,
            "-DEXPORTABLE_LOSSES_TORCH=ON",
            "-DEXPORTABLE_LOSSES_CUDA=OFF",
            f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}",
            targets=("exportable_losses", "exportable_losses_torch"),
        )

    folder = once("libraries", build)
    return shared_library(folder, "exportable_losses"), shared_library(folder, "exportable_losses_torch")
