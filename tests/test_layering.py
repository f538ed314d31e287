"""Who may import whom: the contracts of pyproject.toml, held by import-linter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def linked_tree(folder: Path) -> Path:
    """The package as one tree: export/ and runtime/ are elsewhere until it is installed."""
    package = folder / "exportable_losses"
    package.mkdir()
    for part in (*(ROOT / "exportable_losses").iterdir(), ROOT / "export", ROOT / "runtime"):
        if part.name != "__pycache__":
            (package / part.name).symlink_to(part)
    return folder


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    # an editable install puts a finder of its own before the path: without it the tree is found
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Redirecting' not in type(f).__name__];"
        "from importlinter.cli import lint_imports_command as main; main()"
    )
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


UNWANTED = ("torch", "onnx", "onnxruntime", "onnxscript", "pyarrow", "matplotlib", "ray")


@pytest.mark.parametrize("unwanted", UNWANTED)
def test_the_runtime_loads_without(unwanted: str) -> None:
    code = f"import sys, exportable_losses.runtime; assert {unwanted!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
