"""The package itself: its documentation runs, importing it is cheap, its names are there."""

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import exportable_losses as el
from exportable_losses import functional

FOLDER = Path(el.__file__).parent
MODULES = sorted(
    ".".join(("exportable_losses", *path.relative_to(FOLDER).with_suffix("").parts)).removesuffix(".__init__")
    for path in FOLDER.rglob("*.py")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_documentation(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = sum(len(t.examples) for m in MODULES for t in finder.find(importlib.import_module(m)))
    assert examples > 80


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_loads_no_torch() -> None:
    code = """
import sys, exportable_losses
before = "torch" in sys.modules, "numpy" in sys.modules
exportable_losses.CTCLoss
print(*before, "torch" in sys.modules)
"""
    assert run(code) == "False False True"


def test_the_contract_of_a_row_needs_no_torch() -> None:
    assert run("import sys, exportable_losses.contract; print('torch' in sys.modules)") == "False"


def test_every_announced_name_is_there() -> None:
    stub = ast.parse((FOLDER / "__init__.pyi").read_text())
    names = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names | {"__version__"} == set(el.__all__)
    assert names <= set(dir(el))
    assert all(getattr(el, name) is not None for name in names)
    with pytest.raises(AttributeError, match="L2Loss"):
        el.L2Loss  # noqa: B018


def test_every_function_is_there() -> None:
    assert functional.__all__ == sorted(functional.__all__)
    assert all(callable(getattr(functional, name)) for name in functional.__all__)
