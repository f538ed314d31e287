"""The library for Windows: compiled by a cross compiler, run under Wine, where there are such."""

import os
import subprocess

import pytest
from building import built, which

PREFIX = "x86_64-w64-mingw32"
WINE = next((found for found in map(which, ("wine64", "wine", "/usr/lib/wine/wine64")) if found), None)


def test_windows() -> None:
    compiler = f"{PREFIX}-g++-posix"
    if which(compiler) is None:
        pytest.skip(f"this machine has no {compiler} (Debian: g++-mingw-w64-x86-64-posix)")
    defined = {
        "CMAKE_SYSTEM_NAME": "Windows",
        "CMAKE_SYSTEM_PROCESSOR": "AMD64",
        "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_EXE_LINKER_FLAGS": "-static",
        "EXPORTABLE_LOSSES_TESTS": "ON",
    }
    options = (f"-D{name}={value}" for name, value in defined.items())
    programs = ("core_test", "door_test") if WINE else ()  # each compiles the core again
    folder = built("windows", *options, targets=("exportable_losses", *programs))
    assert (folder / "libexportable_losses.dll").is_file()
    if WINE is None:
        pytest.skip("compiled, not run: this machine has no wine64 (Debian: wine64)")
    for program, arguments in (("core_test", ["20"]), ("door_test", [])):
        environment = {**os.environ, "WINEDEBUG": "-all"}
        command = [WINE, str(folder / f"{program}.exe"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
        assert done.stdout.startswith(("core: 20 rounds agree", "door: all is well"))
