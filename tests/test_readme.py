"""The documentation says what is true: tables are the catalog's, examples run, links lead somewhere."""

import re
from pathlib import Path
from typing import Any

import pytest
import rows
import torch
from typer.testing import CliRunner

from exportable_losses.export.commands import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GIVEN = ("log_probs", "targets", "frames", "labels")


def test_the_tables_of_rows_are_those_of_now() -> None:
    for page, name, table in rows.tables():
        assert rows.written(page, name) == table, f"{page.name}, {name}: run `make rows`"
    printed = CliRunner().invoke(app, ["list", "--markdown"]).output.strip()
    assert rows.written(rows.ROWS, "rows") == printed


def test_the_files_that_hold_promises_exist() -> None:
    promises = (ROOT / "docs" / "promises.md").read_text()
    named = re.findall(r"`((?:tests|examples|benchmarks|export)/[\w/.]*)`", promises)
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_its_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`?make (\w+)`?$", README, re.MULTILINE)) <= set(targets)


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_its_examples_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks("README.md"):
        exec(block, names)
    expected = names["el"].CTCLoss(reduction="none")(*(names[each] for each in GIVEN))
    torch.testing.assert_close(torch.from_numpy(names["costs"]), expected.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(names["value"], names["loss"](*(names[each] for each in GIVEN)))
    assert {path.name for path in tmp_path.glob("*.*")} == {"ctc_loss.onnx", "adapt.onnx", "ctc_loss.pt2"}


def test_the_first_page_is_one_page() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert next(i for i, line in enumerate(lines) if line.startswith("pip install")) < 20
    assert next(i for i, line in enumerate(lines) if re.search(r"twelfth|\d/\d", line)) < 10


def test_its_links_and_those_of_the_documentation_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == [], page
