"""The core for 64-bit ARM: compiled by a cross compiler, run under an emulator, where there are such."""

import subprocess
from pathlib import Path

import pytest
from building import cmake, which

COMPILER = "aarch64-linux-gnu-g++"


def test_neon(tmp_path: Path) -> None:
    if which(COMPILER) is None:
        pytest.skip(f"this machine has no {COMPILER} (Debian: g++-aarch64-linux-gnu)")
    options = ("CMAKE_SYSTEM_NAME=Linux", "CMAKE_SYSTEM_PROCESSOR=aarch64", f"CMAKE_CXX_COMPILER={COMPILER}")
    targets = ("core_test", "exportable_losses")
    cmake(tmp_path, *(f"-D{o}" for o in (*options, "EXPORTABLE_LOSSES_TESTS=ON")), targets=targets)
    if which("qemu-aarch64") is None:
        pytest.skip("compiled, not run: this machine has no qemu-aarch64 (Debian: qemu-user)")
    command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", str(tmp_path / "core_test"), "20"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "core: 20 rounds agree (neon)\n"), done.stderr
