"""The README says what is true: its table is the catalog's, and what it names exists."""

import re
from pathlib import Path

from typer.testing import CliRunner

from exportable_losses.export.commands import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_of_rows_is_the_catalog() -> None:
    printed = CliRunner().invoke(app, ["list", "--markdown"]).output.strip()
    between = README.partition("list --markdown -->")[2].partition("<!-- end of rows -->")[0].strip()
    assert between == printed, "put what `exportable-losses list --markdown` prints into the README"


def test_the_files_that_hold_promises_exist() -> None:
    named = re.findall(r"`((?:tests|examples|benchmarks|export)/[\w/.]*)`", README)
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_its_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`?make (\w+)`?$", README, re.MULTILINE)) <= set(targets)
