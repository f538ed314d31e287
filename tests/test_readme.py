"""The README says what is true: its tables are the catalog's, and what it names exists."""

import re
from pathlib import Path
from typing import Any

import rows
import torch
from typer.testing import CliRunner

from exportable_losses.export.commands import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_tables_of_rows_are_those_of_now() -> None:
    """The README's and those of the documentation: each row of the catalog has its line."""
    for page, name, table in rows.tables():
        assert rows.written(page, name) == table, f"{page.name}, {name}: run `make rows`"
    printed = CliRunner().invoke(app, ["list", "--markdown"]).output.strip()
    assert rows.written(ROOT / "README.md", "rows") == printed


def test_the_files_that_hold_promises_exist() -> None:
    named = re.findall(r"`((?:tests|examples|benchmarks|export)/[\w/.]*)`", README)
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_its_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`?make (\w+)`?$", README, re.MULTILINE)) <= set(targets)


def test_its_examples_of_training_and_streaming_run() -> None:
    """And the pieces cost what the whole does."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (training,) = [block for block in blocks if block.startswith("import torch,")]
    (streaming,) = [block for block in blocks if "initial_state" in block]
    names: dict[str, Any] = {}
    exec(training + streaming, names)
    ones = torch.ones(2)
    whole = names["el"].CTCLoss(reduction="none")(names["log_probs"], names["targets"], ones, ones)
    torch.testing.assert_close(names["costs"], whole, rtol=1e-6, atol=1e-6)


def test_its_links_and_those_of_the_documentation_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == [], page
