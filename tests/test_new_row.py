"""A row added by the steps of CONTRIBUTING.md, in a copy of the repository.

It is there at once, one test says what is left to do, and with that done none fails.
"""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from source_tree import WITHOUT_EDITABLE

from exportable_losses.library import library_path

ROOT = Path(__file__).parent.parent
ROW = "SmoothL1Loss"
# The tests that name rows, or walk the catalog: those of the new row, and those that are about all rows.
TESTS = [
    *(f"tests/losses/test_{name}.py" for name in ("catalog", "recorded", "package", "bad_input", "repr")),
    *(
        f"tests/export/formats/test_parity.py::test_every_way_of_{kind}_gives_the_same[{ROW}-mean]"
        for kind in ("torch", "onnx")
    ),
    *(f"tests/losses/test_{name}.py" for name in ("every_row", "properties", "what_files_say")),
    "tests/runtime/test_session.py",
    *("tests/cli/test_cli_list.py", "tests/cli/test_cli_bench.py", "tests/test_readme.py"),
    *("tests/export/checking/test_record.py", "tests/export/formats/test_half.py"),
]
OF_ALL_ROWS = "announce or thirty or cover_every or reaches_every or in_order or shows_every"
OF_TABLES = "tables_of_rows or every_recorded or table_has_what"

Run = Callable[..., subprocess.CompletedProcess[str]]


def steps() -> list[str]:
    """The code that the book gives: of the module, and of its entry."""
    book = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = book.partition("## How to add a row\n")[2].partition("\n## ")[0]
    return [textwrap.dedent(code) for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL)]


def edit(path: Path, pattern: str, new: str) -> None:
    """Put `new` in front of what matches, which is there once."""
    text, times = re.subn(pattern, lambda found: new + found[0], path.read_text(encoding="utf-8"))
    assert times == 1, f"{path}: {pattern}"
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the repository, with the row."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        built = {"build", "demo", "losses"} if Path(folder) == ROOT else set()
        return {name for name in names if name.startswith(".") or name == "__pycache__"} | built

    copy = shutil.copytree(ROOT, tmp_path_factory.mktemp("new_row") / "copy", ignore=left_out)
    module, entry = steps()
    family = copy / "exportable_losses" / "regression.py"
    edit(family, r"\]\n(?=\nPAIR)", f', "{ROW}"')  # the end of `__all__`
    edit(family, r"\Z", f"\n\n{module}")
    edit(copy / "exportable_losses" / "catalog.py", r"    \)\n\}\n\Z", f"        {entry.rstrip()},\n")
    return copy


@pytest.fixture(scope="module")
def run(copy: Path) -> Run:
    """Runs a command in the copy, where the package is the copy's."""
    (copy / "sitecustomize.py").write_text(WITHOUT_EDITABLE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(copy), "EXPORTABLE_LOSSES_LIBRARY": library_path() or ""}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)

    return run


def failures(run: Run, keyword: str, tests: list[str]) -> tuple[list[str], str]:
    """Which of the tests fail in the copy, and all that pytest says."""
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", keyword)
    assert " passed" in done.stdout, done.stdout + done.stderr
    return re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE), done.stdout


def test_the_row_is_there_and_is_exported(run: Run, copy: Path, tmp_path: Path) -> None:
    code = f"""
import sys, exportable_losses as el
print(el.__file__, el.{ROW}.__name__)
assert "{ROW}" in dir(el)
from exportable_losses.export.cli import main
main()
"""
    words = ("export", ROW, "--format", "onnx", "--out", str(tmp_path))
    done = run(sys.executable, "-c", code, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{copy / 'exportable_losses' / '__init__.py'} {ROW}\n")
    assert (tmp_path / ROW / f"{ROW}.onnx").exists()


def test_one_test_names_the_next_step_and_then_none_fails(run: Run, copy: Path) -> None:
    failed, said = failures(run, f"{ROW} or {OF_ALL_ROWS} or {OF_TABLES}", TESTS)
    assert failed == ["tests/test_readme.py::test_the_tables_of_rows_are_those_of_now"], said
    assert "run `make rows`" in said
    made = run("make", "-o", "venv", f"BIN={Path(sys.executable).parent}", "rows")
    assert made.returncode == 0, made.stdout + made.stderr
    failed, said = failures(run, OF_TABLES, TESTS[-3:])
    assert failed == [], said
    rows, runtimes = (
        (copy / "docs" / name).read_text(encoding="utf-8") for name in ("rows.md", "runtimes.md")
    )
    assert f"| `{ROW}` | `{ROW}` | The squared error where it is below `beta`" in rows
    assert f"| `{ROW}` | not yet recorded |" in runtimes
    assert f"| `{ROW}` | `loss` | 0." in (copy / "docs" / "half-precision.md").read_text(encoding="utf-8")
