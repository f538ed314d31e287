"""CMake, as the tests of C++ use it."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# the `dev` extra brings cmake and ninja, which need not be on the path of who calls this Python
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
COMPILER = shutil.which(os.environ.get("CXX", "c++"))


def cmake(folder: Path, *options: str, targets: tuple[str, ...] = ("all",), source: Path = ROOT) -> Path:
    """`folder` with `targets` built in it, warnings as errors; skips where there are no tools for that."""
    missing = [name for name, found in (("cmake", which("cmake")), ("a C++ compiler", COMPILER)) if not found]
    if missing:
        pytest.skip(f"this machine has no {' and no '.join(missing)}")
    options = ("-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror", *options)
    if source == ROOT:
        options = ("-DEXPORTABLE_LOSSES_CUDA=OFF", *options)
    generator = ["-G", "Ninja"] if which("ninja") else []
    environment = {**os.environ, "PATH": PATH}
    for command in (
        ["cmake", "-S", str(source), "-B", str(folder), *generator, *options],
        ["cmake", "--build", str(folder), "--target", *targets, "-j", "2"],
    ):
        done = subprocess.run(
            [which("cmake") or "cmake", *command[1:]], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return folder


def shared_library(folder: Path, stem: str) -> str:
    """The library of this name in `folder`."""
    prefix, suffix = {"win32": ("", ".dll"), "darwin": ("lib", ".dylib")}.get(sys.platform, ("lib", ".so"))
    path = folder / f"{prefix}{stem}{suffix}"
    assert path.is_file()
    return str(path)


def which(program: str) -> str | None:
    return shutil.which(program, path=PATH)


@functools.cache
def why_no_sanitizer(kinds: str) -> str:
    """Why programs cannot be built and run with these sanitizers here, or nothing."""
    if COMPILER is None:
        return "this machine has no C++ compiler"
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "probe.cc"), Path(folder, "probe")
        source.write_text("#include <thread>\nint main() { std::thread([] {}).join(); }\n")
        build = [COMPILER, "-std=c++17", f"-fsanitize={kinds}", "-pthread", str(source), "-o", str(program)]
        for command in (build, [str(program)]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                return f"-fsanitize={kinds} does not work here: {done.stderr.strip()[-300:]}"
    return ""
