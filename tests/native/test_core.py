"""The C++ tests of the core and of the C door, for each instruction set, with and without sanitizers."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from building import built, plain, shared_library, which, why_no_sanitizer

NAMES = ("baseline", "avx2", "avx512")
SANITIZERS = ["", *(pytest.param(k, marks=pytest.mark.thorough) for k in ("address,undefined", "thread"))]


def run(program: Path, isa: str | None, *arguments: str) -> str:
    """The instruction set that `program` ran on, asked for `isa`."""
    environment = {name: value for name, value in os.environ.items() if name != "EXPORTABLE_LOSSES_ISA"}
    if isa is not None:
        environment["EXPORTABLE_LOSSES_ISA"] = isa
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)
    said = f"{program.name}, {isa}: exit code {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    assert done.returncode == 0, said
    (found,) = re.findall(r"\((\w+)\)\s*$", done.stdout)
    return found


@pytest.mark.parametrize("sanitize", SANITIZERS, ids=lambda kinds: kinds or "none")
def test_core_and_door(sanitize: str) -> None:
    """Every instruction set that this machine has; one that it lacks falls back and never crashes."""
    if sanitize and (why := why_no_sanitizer(sanitize)):
        pytest.skip(why)
    programs = ("core_test", "door_test")
    options = ("-DEXPORTABLE_LOSSES_TESTS=ON", f"-DSANITIZE={sanitize}")
    folder = built(sanitize, *options, targets=programs) if sanitize else plain(targets=programs)
    best = run(folder / "door_test", None)
    has = NAMES[: NAMES.index(best) + 1] if best in NAMES else ()
    for isa in NAMES:
        expected = isa if isa in has else best
        assert run(folder / "door_test", isa) == expected
        assert run(folder / "core_test", isa, "40" if sanitize else "300") == expected
        if not has:  # neon: the one core that there is
            break
    assert run(folder / "door_test", "") == best
    if not sanitize and sys.platform == "linux" and platform.machine() == "x86_64":
        wide_instructions_stay_in_their_core(plain())


def wide_instructions_stay_in_their_core(folder: Path) -> None:
    """What all cores share, the standard library's templates, is the baseline's copy.

    The linker keeps one copy of each; an AVX-512 one would crash a machine without.
    """
    if which("nm") is None or which("objdump") is None:
        return
    parts = ("exportable_losses", "core_baseline", "core_test", "door_test")
    narrow = [
        file for part in parts for objects in folder.rglob(f"{part}.dir") for file in objects.rglob("*.o")
    ]
    nm = ["nm", "--defined-only", *map(str, narrow)]
    listed = subprocess.run(nm, capture_output=True, text=True, check=True).stdout
    shared = {line.split()[-1] for line in listed.splitlines() if line.count(" ") >= 2}
    objdump = ["objdump", "-d", "--no-show-raw-insn", str(folder / "libexportable_losses.so")]
    code = subprocess.run(objdump, capture_output=True, text=True, check=True).stdout
    functions = re.split(r"^[0-9a-f]+ <([^>]+)>:$", code, flags=re.MULTILINE)
    bodies = zip(functions[1::2], functions[2::2], strict=True)
    wide = {name for name, body in bodies if re.search("%[yz]mm", body)}
    assert any("avx512" in name for name in wide)
    assert any("avx2" in name for name in wide)
    assert wide & shared == set()


def test_the_library_is_small(tmp_path: Path) -> None:
    """Every instruction set of this machine's kind together, without symbols and CUDA."""
    if which("strip") is None:
        pytest.skip("this machine has no strip")
    stripped = tmp_path / "stripped"
    library = shared_library(plain(), "exportable_losses")
    subprocess.run(["strip", "-x", "-o", stripped, library], check=True)
    assert stripped.stat().st_size < 1_250_000
