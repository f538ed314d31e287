"""The core for ARM: compiled by cross compilers, run under emulators, where there are such."""

import subprocess
from pathlib import Path

import pytest
from building import CSRC, built, which

HERE = Path(__file__).parent
CORTEX_M7 = ("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard")


def need(program: str, package: str, so_far: str = "") -> None:
    if which(program) is None:
        pytest.skip(f"{so_far}this machine has no {program} (Debian: {package})")


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.parametrize(
    ("processor", "prefix", "emulator", "instructions"),
    [
        ("aarch64", "aarch64-linux-gnu", "qemu-aarch64", "neon"),
        ("armv7", "arm-linux-gnueabihf", "qemu-arm", "baseline"),
    ],
)
def test_linux(tmp_path: Path, processor: str, prefix: str, emulator: str, instructions: str) -> None:
    """64 and 32 bits."""
    compiler = f"{prefix}-g++"
    need(compiler, f"g++-{prefix}")
    options = (
        "CMAKE_SYSTEM_NAME=Linux",
        f"CMAKE_SYSTEM_PROCESSOR={processor}",
        f"CMAKE_CXX_COMPILER={compiler}",
    )
    targets = ("core_test", "exportable_losses")
    defined = (f"-D{option}" for option in (*options, "EXPORTABLE_LOSSES_TESTS=ON"))
    folder = built(processor, *defined, targets=targets)
    stripped = tmp_path / "stripped"
    run(f"{prefix}-strip", "-o", stripped, folder / "libexportable_losses.so")
    assert stripped.stat().st_size < 1_250_000
    need(emulator, "qemu-user", "compiled, not run: ")
    said = run(emulator, "-L", f"/usr/{prefix}", folder / "core_test", 20)
    assert said == f"core: 20 rounds agree ({instructions})\n"


@pytest.mark.parametrize("program", ["core_test.cc", "bare_metal.cc"])
def test_no_operating_system(tmp_path: Path, program: str) -> None:
    """On a Cortex-M7: no threads, and what is printed goes through the emulator."""
    need("arm-none-eabi-g++", "gcc-arm-none-eabi libstdc++-arm-none-eabi-newlib")
    strict = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-fopenmp-simd")
    sections = ("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections")
    core = [CSRC / name for name in ("dispatch.cc", "lattice_isa.cc", "c_api.cc")]
    start = tmp_path / "start.o"
    run("arm-none-eabi-gcc", *CORTEX_M7, "-Wall", "-Werror", "-c", HERE / "cortex_m.c", "-o", start)
    placed = ("--specs=rdimon.specs", "-Wl,-u,vectors", "-Wl,--section-start=.vectors=0")
    options = (*strict, *CORTEX_M7, *sections, *placed, f"-I{CSRC}", "-DISA=baseline")
    image = tmp_path / "image"
    run("arm-none-eabi-g++", *options, start, HERE / program, *core, "-o", image)
    need("qemu-system-arm", "qemu-system-arm", "compiled, not run: ")
    machine = ("-M", "mps2-an500", "-nographic", "-kernel", image)
    said = run("qemu-system-arm", *machine, "-semihosting-config", "enable=on,target=native,arg=image,arg=5")
    assert said.splitlines()[-1:] in (["core: 5 rounds agree (baseline)"], ["door: all good (baseline)"])
