"""The C++ tests of the core and of the C door, for each instruction set, with and without sanitizers."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from building import cmake, which, why_no_sanitizer

NAMES = ("baseline", "avx2", "avx512")
WARNINGS = "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"


def run(program: Path, isa: str | None) -> str:
    """The instruction set that `program` ran on, asked for `isa`."""
    environment = {name: value for name, value in os.environ.items() if name != "EXPORTABLE_LOSSES_ISA"}
    if isa is not None:
        environment["EXPORTABLE_LOSSES_ISA"] = isa
    done = subprocess.run([program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, (
        f"{program.name}, {isa}: {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    )
    (found,) = re.findall(r"\((\w+)\)\s*$", done.stdout)
    return found


@pytest.mark.parametrize("sanitize", ["", "address,undefined", "thread"], ids=lambda kinds: kinds or "none")
def test_core_and_door(tmp_path: Path, sanitize: str) -> None:
    """Every instruction set that this machine has; one that it lacks falls back and never crashes."""
    if sanitize and (why := why_no_sanitizer(sanitize)):
        pytest.skip(why)
    options = ("-DEXPORTABLE_LOSSES_TESTS=ON", f"-DSANITIZE={sanitize}", WARNINGS)
    folder = cmake(tmp_path, *options, targets=("core_test", "door_test"))
    for test in ("core_test", "door_test"):
        program = folder / test
        best = run(program, None)
        if best == "neon":  # the one core that this build has
            continue
        has = NAMES[: NAMES.index(best) + 1]
        for isa in NAMES:
            assert run(program, isa) == (isa if isa in has else best)
    assert run(program, "sse9") == best


@pytest.mark.skipif(
    not (sys.platform == "linux" and platform.machine() == "x86_64"), reason="elsewhere there is one core"
)
def test_no_wide_instruction_outside_its_core(tmp_path: Path) -> None:
    """What all cores share, the standard library's templates, is the baseline's copy.

    The linker keeps one copy of each; an AVX-512 one would crash a machine without.
    """
    for tool in ("nm", "objdump"):
        if which(tool) is None:
            pytest.skip(f"this machine has no {tool}")
    folder = cmake(tmp_path, targets=("exportable_losses",))
    linked = folder / "libexportable_losses.so"
    narrow = [p for p in folder.rglob("*.o") if "core_avx" not in str(p)]
    assert len(narrow) >= 3
    shared = set()
    for file in narrow:
        listed = subprocess.run(
            ["nm", "--defined-only", file], capture_output=True, text=True, check=True
        ).stdout
        shared |= {line.split()[-1] for line in listed.splitlines()}
    code = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", linked], capture_output=True, text=True
    ).stdout
    functions = re.split(r"^[0-9a-f]+ <([^>]+)>:$", code, flags=re.MULTILINE)
    wide = {
        name
        for name, body in zip(functions[1::2], functions[2::2], strict=True)
        if re.search("%[yz]mm", body)
    }
    assert any("avx512" in name for name in wide)
    assert any("avx2" in name for name in wide)
    assert wide & shared == set()
