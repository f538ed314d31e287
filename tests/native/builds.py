"""CMake for tests."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ort_header import COMPILER

ROOT = Path(__file__).parents[2]


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
