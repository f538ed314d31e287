"""C++ as the tests build it: once for all of them and all workers, and kept until its sources change."""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock
from ort_header import official_header

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "exportable_losses" / "csrc"
EXAMPLES = ROOT / "examples" / "cpp"
SOURCES = (ROOT / "CMakeLists.txt", ROOT / "cmake", CSRC, Path(__file__).parent, EXAMPLES)
SUFFIXES = {".cc", ".cpp", ".c", ".h", ".cu", ".cuh", ".cmake", ".txt"}
COMPILERS = (
    "g++",
    "nvcc",
    "aarch64-linux-gnu-g++",
    "arm-linux-gnueabihf-g++",
    "x86_64-w64-mingw32-g++-posix",
)  # beside the machine's own
KEPT = ROOT / "build" / "tests"
PROGRAMS = "host"  # the folder that `validate --on` builds into; its tests take the programs from here
# the `dev` extra brings cmake and ninja, which need not be on the path of who calls this Python
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
WARNINGS = "-Wall -Wextra -Werror"


def kept(name: str, step: str, fill: Callable[[Path], None]) -> Path:
    """The folder `build/tests/NAME` after a step that fills it, which is taken once for the same sources.

    What was built of other sources, or by a run that was killed half way, is thrown away first.
    """
    folder = KEPT / name
    done = folder / "done"  # of what it is made, and the steps that were taken
    KEPT.mkdir(parents=True, exist_ok=True)
    with FileLock(KEPT / f"{name}.lock"):
        made_of, *steps = done.read_text().splitlines() if done.exists() else [""]
        if made_of != sources():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            steps = []
        if step not in steps:
            done.unlink(missing_ok=True)
            try:
                fill(folder)
                steps.append(step)
            except (Exception, pytest.skip.Exception):  # other tests read what earlier steps have left
                _finish(done, steps)
                raise
            _finish(done, steps)
    return folder


def _finish(done: Path, steps: list[str]) -> None:
    """Say what stands in a folder, all at once."""
    new = done.with_suffix(".new")
    new.write_text("\n".join([sources(), *steps]))
    new.replace(done)


@functools.cache
def sources() -> str:
    """A hash of all that is compiled and of what compiles it."""
    files = [file for path in SOURCES for file in (path.rglob("*") if path.is_dir() else [path])]
    texts = [(str(file), file.read_bytes()) for file in sorted(files) if file.suffix in SUFFIXES]
    compilers = [path for path in (COMPILER, *map(which, COMPILERS)) if path]
    said = [subprocess.run([path, "--version"], capture_output=True).stdout for path in compilers]
    variables = [os.environ.get(name) for name in ("CXX", "CXXFLAGS", "LDFLAGS", "CPATH", "LIBRARY_PATH")]
    here = (
        platform.machine(),
        sys.prefix,
        version("torch"),
        version("onnxruntime"),
        official_header(),
        variables,
    )
    return hashlib.sha256(repr((texts, said, here)).encode()).hexdigest()


def built(name: str, *options: str, targets: tuple[str, ...] = ("all",), source: Path = ROOT) -> Path:
    """`build/tests/NAME` with `targets` built in it by CMake, warnings as errors."""
    step = " ".join((*options, *targets))
    return kept(name, step, lambda folder: cmake(folder, *options, targets=targets, source=source))


def plain(*options: str, targets: tuple[str, ...] = ("exportable_losses",)) -> Path:
    """Where the library is, or other targets beside it: built with our own header of ONNX Runtime."""
    flags = f"-DCMAKE_CXX_FLAGS={WARNINGS} -DEXPORTABLE_LOSSES_OWN_ORT_ABI"
    return built("plain", "-DEXPORTABLE_LOSSES_TESTS=ON", flags, *options, targets=targets)


def core_objects() -> list[Path]:
    """The core and its C door, as they are compiled for the library."""
    parts = [part for name in ("core_*.dir", "exportable_losses.dir") for part in plain().rglob(name)]
    found = [file for part in parts for file in part.rglob("*.o") if not file.name.startswith("ort_door")]
    assert len(found) >= 3, found
    return found


def programs() -> Path:
    """Where the programs of examples/cpp are; each is there if what it needs was found."""
    # quickly, without symbols of libtorch: what they compute with is in libraries
    quickly = ("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0")
    return built(PROGRAMS, f"-DPYTHON={sys.executable}", *quickly, source=EXAMPLES)


def cmake(folder: Path, *options: str, targets: tuple[str, ...], source: Path) -> None:
    """Build `targets` in `folder`, warnings as errors; skips where there are no tools for that."""
    missing = [name for name, found in (("cmake", which("cmake")), ("a C++ compiler", COMPILER)) if not found]
    if missing:
        pytest.skip(f"this machine has no {' and no '.join(missing)}")
    options = (f"-DCMAKE_CXX_FLAGS={WARNINGS}", *options)
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
