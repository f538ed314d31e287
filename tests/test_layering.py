"""Who may import whom: the contracts of pyproject.toml, held by import-linter. And how long a file may be."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import WITHOUT_EDITABLE

ROOT = Path(__file__).parent.parent
SOURCE = {".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".cu", ".cuh", ".js"}
MOST_LINES = 450


def linked_tree(folder: Path) -> Path:
    """The package as one folder, which import-linter reads: it imports nothing and knows no `__path__`."""
    package = folder / "exportable_losses"
    package.mkdir()
    for part in (*(ROOT / "exportable_losses").iterdir(), ROOT / "export", ROOT / "runtime"):
        if part.name != "__pycache__":
            (package / part.name).symlink_to(part)
    return folder


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    code = f"{WITHOUT_EDITABLE}; from importlinter.cli import lint_imports_command as main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        env={**os.environ, "PYTHONPATH": str(tree)},
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contracts_hold(tmp_path: Path) -> None:
    done = lint(linked_tree(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_a_runtime_that_imports_torch_is_noticed(tmp_path: Path) -> None:
    package = linked_tree(tmp_path) / "exportable_losses"
    (package / "runtime").unlink()
    (package / "runtime").mkdir()
    (package / "runtime" / "__init__.py").write_text("import torch\n")
    done = lint(tmp_path)
    assert done.returncode != 0
    assert "runtime" in done.stdout


@pytest.mark.parametrize(
    ("floor", "line"),
    [
        ("nodes", "from ..formats import plan"),
        ("formats", "from ..checking.runners import RUNNERS"),
        ("joint", "from ..checking import validate"),
        ("checking", "from ..commands import app"),
    ],
)
def test_an_import_that_runs_upwards_is_noticed(floor: str, line: str, tmp_path: Path) -> None:
    package = linked_tree(tmp_path) / "exportable_losses"
    (package / "export").unlink()
    shutil.copytree(ROOT / "export", package / "export", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "export" / floor / "upwards.py").write_text(f"{line}\n")
    done = lint(tmp_path)
    assert done.returncode != 0
    assert "imports run downwards BROKEN" in done.stdout


UNWANTED = ("torch", "onnx", "onnxruntime", "onnxscript", "pyarrow", "matplotlib", "ray")


@pytest.mark.parametrize("unwanted", UNWANTED)
def test_the_runtime_loads_without(unwanted: str) -> None:
    code = f"import sys, exportable_losses.runtime; assert {unwanted!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def sources() -> list[Path]:
    """The files of this tree that people wrote: none of an environment, a build or a cache."""
    found = []
    for folder, inner, names in os.walk(ROOT):
        inner[:] = [name for name in inner if not name.startswith((".", "__")) and name != "build"]
        found += [Path(folder, name) for name in names if Path(name).suffix in SOURCE]
    return found


def test_no_file_is_long() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in sources()}
    assert Path("tests", "test_layering.py") in map(Path, lines)
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}
