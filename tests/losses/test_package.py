"""The package itself: its documentation runs, importing it is cheap, its names are there."""

import ast
import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import exportable_losses as el
from exportable_losses import catalog, functional

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
    lines = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    names = {alias.asname for line in lines for alias in line.names} - {None}
    for line in lines:
        if line.module:  # a family
            names |= set(importlib.import_module(f"exportable_losses.{line.module}").__all__)
    assert names | {"__version__"} == set(el.__all__), "a line for each family in __init__.pyi"
    assert names <= set(dir(el))
    assert all(getattr(el, name) is not None for name in names)
    with pytest.raises(AttributeError, match="L2Loss"):
        el.L2Loss  # noqa: B018


@pytest.mark.parametrize("family", sorted({catalog.get(row).type.__module__ for row in catalog.names()}))
def test_a_family_announces_its_classes(family: str) -> None:
    module = importlib.import_module(family)
    defined = [name for name, value in vars(module).items() if isinstance(value, type)]
    public = [name for name in defined if getattr(module, name).__module__ == family and name[0] != "_"]
    assert sorted(public) == sorted(module.__all__), f"{family}.__all__ names what the package shows"


def test_star_imports_bring_every_name() -> None:
    names: dict[str, object] = {}
    exec("from exportable_losses import *", names)
    assert set(el.__all__) <= set(names)


def test_names_are_listed_without_torch() -> None:
    """And what is looked for in vain is an AttributeError there too."""
    code = """
import sys, exportable_losses
sys.modules["torch"] = None
print(hasattr(exportable_losses, "library_path"), "catalog" in dir(exportable_losses))
"""
    assert run(code) == "False True"


def test_type_checkers_see_the_names(tmp_path: Path) -> None:
    lines = ("loss: el.CTCLoss = el.CTCLoss(0)", "el.CTCLoss('blank')", "el.L2Loss", "el.l1_loss")
    (tmp_path / "user.py").write_text("\n".join(["import exportable_losses as el", *lines]))
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\ndisallow_subclassing_any = False\n"  # a module is Any where torch is skipped
        "[mypy-torch.*,numpy.*]\nfollow_imports = skip\nfollow_imports_for_stubs = True\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--no-error-summary", "user.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(FOLDER.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"^user.py:(\d): error: .*\[(.*)\]$", done.stdout, re.MULTILINE)
    assert found == [("3", "arg-type"), ("4", "attr-defined"), ("5", "attr-defined")], done.stdout


def test_every_function_is_there() -> None:
    assert functional.__all__ == sorted(functional.__all__)
    assert all(callable(getattr(functional, name)) for name in functional.__all__)
