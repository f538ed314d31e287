"""The C++ examples, built here: ONNX Runtime, libtorch, and ONNX Runtime for 64-bit ARM under an emulator."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from exportable_losses.runtime.testdata import read_test_data

from ...formats.errors import Absent, one_line
from . import aotinductor, onnxruntime, torch_alone
from .face import Case, Outputs, Runner, installed

ROOT = Path(__file__).parents[3]
SOURCES, BUILD = ROOT / "examples" / "cpp", ROOT / "build" / "runners"
ARM_ONNXRUNTIME = "1.22.1"  # the newest that starts under qemu 7.2
ARM_LIBRARIES = BUILD / f"arm64-onnxruntime-{ARM_ONNXRUNTIME}"
ARM_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def _built(program: str, folder: str, *options: str) -> Path:
    """A program of the examples."""
    if not SOURCES.is_dir():
        raise Absent(
            f"it is compiled from examples/cpp of the repository, and there is no {SOURCES}: "
            "install a clone with pip install -e ., or call python -m exportable_losses.export.cli "
            "in its folder"
        )
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if cmake is None:
        raise Absent("pip install cmake")
    installed("filelock", "export")
    from filelock import FileLock  # torch brings it

    place = BUILD / folder
    commands: list[list[str | Path]] = [
        [cmake, "-S", SOURCES, "-B", place, f"-DPYTHON={sys.executable}", *options],
        [cmake, "--build", place, "--target", program],
    ]
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD / f"{folder}.lock"):  # two at once would build into each other
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise Absent(_why_not_built(program, done.stderr or done.stdout))
    return place / program


def _why_not_built(program: str, said: str) -> str:
    words = ("No rule to make target", "unknown target", "o CMAKE_CXX_COMPILER")  # of make, ninja and CMake
    if any(word in said for word in words):
        needs = "onnxruntime_cxx_api.h (Debian: libonnxruntime-dev; set CPATH)"
        return f"it needs a C++ compiler and {needs if 'onnx' in program else 'libtorch'}"
    return f"its program could not be built: {one_line(said)}"


def _arm_program() -> Path:
    """The program for ARM, with ONNX Runtime out of PyPI's wheel."""
    for tool, package in ((ARM_COMPILER, "g++-aarch64-linux-gnu"), (EMULATOR, "qemu-user")):
        if shutil.which(tool) is None:
            raise Absent(f"{tool} (Debian: {package})")
    library = ARM_LIBRARIES / "libonnxruntime.so.1"
    if not library.exists():
        ARM_LIBRARIES.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(ARM_LIBRARIES),
        ]
        wheel = ["--platform", "manylinux_2_28_aarch64", "--only-binary", ":all:", "--python-version", "311"]
        done = subprocess.run([*command, *wheel, f"onnxruntime=={ARM_ONNXRUNTIME}"], capture_output=True)
        if done.returncode != 0:
            raise Absent(f"pip cannot download onnxruntime {ARM_ONNXRUNTIME} for aarch64")
        with zipfile.ZipFile(next(ARM_LIBRARIES.glob("*.whl"))) as archive:
            name = next(n for n in archive.namelist() if "capi/libonnxruntime.so" in n)
            library.write_bytes(archive.read(name))
    return _built(
        "onnx_loss",
        "arm64",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={ARM_COMPILER}",
        "-DCMAKE_DISABLE_FIND_PACKAGE_Torch=ON",
        f"-DONNXRUNTIME_LIBRARY={library}",
    )


def _words(program: Path, case: Case) -> list[str | Path]:
    return [program, case.path, case.data]


def _arm_words(program: Path, case: Case) -> list[str | Path]:
    libraries = f"LD_LIBRARY_PATH={ARM_LIBRARIES}"
    return [EMULATOR, "-L", "/usr/aarch64-linux-gnu", "-E", libraries, *_words(program, case)]


def _runner(
    name: str,
    suffix: str,
    about: str,
    version: Callable[[], str],
    program: Callable[[], Path],
    words: Callable[[Path, Case], list[str | Path]],
    prepared: Callable[[Sequence[Case]], Sequence[Case | str]] = list,
) -> Runner:
    program = functools.cache(program)

    def here() -> str:
        found = version()
        program()
        return found

    def run(cases: Sequence[Case]) -> Iterator[Outputs]:
        built = program()
        for case in prepared(cases):
            if isinstance(case, str):
                yield case
                continue
            with tempfile.TemporaryDirectory() as folder:
                command = [*words(built, case), "--write", folder]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode in (0, 1):  # as good as expected, or not: that is told from the numbers
                    yield read_test_data(Path(folder))[1]
                else:
                    yield one_line(done.stderr or f"ended with {done.returncode}")

    return Runner(name, suffix, about, here, run)


ONNXRUNTIME = _runner(
    "onnxruntime-cpp",
    ".onnx",
    "ONNX Runtime, C++",
    onnxruntime.RUNNER.version,
    lambda: _built("onnx_loss", "host"),
    _words,
)
LIBTORCH = _runner(
    "libtorch",
    ".pt",
    "TorchScript in libtorch, C++",
    torch_alone.version,
    lambda: _built("torch_loss", "host"),
    _words,
)
AOTINDUCTOR = _runner(
    "aotinductor-cpp",
    ".pt2",
    "AOTInductor in libtorch, C++",
    torch_alone.version,
    lambda: _built("aoti_loss", "host"),
    _words,
    aotinductor.packages,
)
ARM64 = _runner(
    "onnxruntime-arm64",
    ".onnx",
    "ONNX Runtime, C++, 64-bit ARM in qemu",
    lambda: ARM_ONNXRUNTIME,
    _arm_program,
    _arm_words,
)
