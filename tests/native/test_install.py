"""Installation, with a C++ compiler and without one."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from building import COMPILER, PATH, ROOT, kept, which
from filelock import FileLock
from source_tree import WITHOUT_EDITABLE

PARTS = (
    "exportable_losses",
    "export",
    "runtime",
    "cmake",
    "CMakeLists.txt",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
MOST_BYTES = 1_250_000


def source(folder: Path) -> Path:
    """What a wheel is built from, apart from this checkout and what was built in it."""
    folder.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    return folder


def pip(*arguments: str | Path, **environment: str) -> str:
    """What pip says; it builds with what is installed here and asks no network."""
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PATH": PATH, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(code: str, *, site: Path, cwd: Path) -> str:
    """What `code` prints in a Python that finds the package in `cwd` or else in `site`."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("EXPORTABLE_LOSSES")
    }
    first = f"{WITHOUT_EDITABLE}\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", first],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HERE = ("--no-deps", "--no-build-isolation", "--no-index")

WITHOUT_LIBRARY = """
import numpy as np, torch
import exportable_losses as el
from exportable_losses.export import to_onnx
from exportable_losses.library import library_path
from exportable_losses.ops import native
from exportable_losses.runtime import LossSession

assert el.__file__.startswith({folder!r}), el.__file__
assert library_path() is None
assert native.about() == {{}}
x = torch.randn(2, 9, 5).log_softmax(-1)
assert native.unavailable(x) == "the package was installed without it (no C++ compiler was found)"
given = (x, torch.tensor([[1, 2], [2, 2]]), torch.ones(2), torch.ones(2))
loss = el.CTCLoss(reduction="none")
expected = loss(*given)
assert torch.isfinite(expected).all()
logits = torch.randn(2, 4, 3, 5, requires_grad=True)
el.TransducerLoss()(logits, *given[1:]).backward()
assert torch.isfinite(logits.grad).all()
to_onnx(loss, {file!r})
session = LossSession({file!r}, native="auto")
assert session.library is None
names = ("log_probs", "targets", "input_lens", "target_lens")
got = session(**{{name: tensor.numpy() for name, tensor in zip(names, given)}})["loss"]
np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5)
try:
    LossSession({file!r}, native=True)
except RuntimeError as error:
    assert str(error).startswith("native: got True, but no operator library is installed"), error
else:
    raise AssertionError("native=True found a library")
print("all is well")
"""

WHERE = """
import exportable_losses, exportable_losses.export, exportable_losses.runtime
from exportable_losses.library import library_path

for package in (exportable_losses, exportable_losses.export, exportable_losses.runtime):
    print(package.__file__)
print(library_path())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="makes compilers that fail as Unix does")
def test_without_a_compiler(tmp_path: Path) -> None:
    """The installation succeeds, and what it gives computes on the portable paths."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("c++", "g++", "clang++", "cc", "gcc", "clang", "nvcc"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    for name in ("sh", "uname", "cmake", "ninja"):
        if found := which(name):
            (programs / name).symlink_to(found)
    target = tmp_path / "site"
    broken = {"PATH": str(programs), "CXX": str(programs / "c++"), "CC": str(programs / "cc")}
    pip("install", *HERE, "--no-compile", "--target", target, source(tmp_path / "source"), **broken)
    assert not (target / "exportable_losses" / "lib").exists()
    (tag,) = (
        line for line in next(target.glob("*.dist-info/WHEEL")).read_text().splitlines() if "Tag" in line
    )
    assert tag == "Tag: py3-none-any"

    code = WITHOUT_LIBRARY.format(folder=str(target), file=str(tmp_path / "loss.onnx"))
    assert run(code, site=target, cwd=tmp_path) == "all is well"


def when_compiled(objects: Path) -> dict[Path, float]:
    """The time of each object file."""
    times = {path: path.stat().st_mtime for path in objects.rglob("*.o")}
    assert len(times) >= 4
    return times


def from_another_environment(objects: Path) -> None:
    """Leave `objects` as if an environment that pip made for one build had filled them, and was gone."""
    (info,) = objects.glob(".skbuild-info.json")
    said = json.loads(info.read_text())
    assert "skbuild_path" in said
    info.write_text(json.dumps({**said, "skbuild_path": "/gone"}))


@pytest.mark.skipif(COMPILER is None, reason="this machine has no C++ compiler")
def test_with_a_compiler(tmp_path: Path) -> None:
    """One wheel for every Python of a platform, and in it the library once and small.

    Installed, it brings the library to a Python that runs in the source tree, too, whose code is found first.
    CMake finds its objects of the last run, for which the sources lie where they lay, as old as they are;
    also where pip built them in an environment that is gone. No symbol is of a glibc later than 2.28.
    """
    folder = kept("wheel", "objects", lambda _: None)
    tree, site = folder / "source", tmp_path / "site"
    with FileLock(folder / "lock"):
        shutil.rmtree(tree, ignore_errors=True)
        command = (
            *("wheel", *HERE, "--wheel-dir", tmp_path, source(tree)),
            f"--config-settings=build-dir={folder / 'objects'}",
            "--config-settings=cmake.define.EXPORTABLE_LOSSES_CUDA=OFF",
        )
        pip(*command)
        compiled = when_compiled(folder / "objects")
        from_another_environment(folder / "objects")
        pip(*command)
        assert when_compiled(folder / "objects") == compiled
    (wheel,) = tmp_path.glob("*.whl")
    if sys.platform == "linux":
        said = subprocess.run(
            [sys.executable, "-m", "auditwheel", "show", wheel], capture_output=True, text=True
        )
        (minor,) = re.findall(r'platform tag:\s+"manylinux_2_(\d+)_', said.stdout)
        assert int(minor) <= 28, said.stdout
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    if sys.platform == "darwin":
        platform = "macosx_"
    assert "-py3-none-" + platform in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    libraries = [name for name in sizes if name.endswith((".so", ".dylib", ".dll"))]
    (library,) = libraries
    assert library.startswith("exportable_losses/lib/")
    assert sizes[library] < MOST_BYTES, (
        f"the library has {sizes[library]} bytes, expected {MOST_BYTES} at most"
    )
    known = (".py", ".pyi", "py.typed", ".html", ".css", ".js", "web/package.json", "commands/rows.json")
    strange = {name for name in sizes if not name.endswith(known) and ".dist-info/" not in name}
    assert strange == {library, "exportable_losses/include/c_api.h"}  # the header is for programs in C
    print(f"the library: {sizes[library]} bytes; the wheel: {wheel.stat().st_size}")

    pip("install", *HERE, "--no-compile", "--target", site, wheel)
    inside = site / "exportable_losses"
    for cwd, package, parts in ((tree, tree / "exportable_losses", tree), (tmp_path, inside, inside)):
        files = [folder / "__init__.py" for folder in (package, parts / "export", parts / "runtime")]
        found = run(WHERE, site=site, cwd=cwd).splitlines()
        assert found == [str(path) for path in (*files, site / library)]
