"""The documentation as a site builds without warnings and loads nothing from elsewhere; its notebook runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tour.ipynb"


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", site]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = build(ROOT / "mkdocs.yml", tmp_path)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    loads = re.compile(
        r"<(?:script|img|iframe)\b[^>]*\bsrc=.?(?:https?:)?//[^>]*|<link\b[^>]*href=.?(?:https?:)?//[^>]*"
    )
    found = {page.name: loads.findall(page.read_text(encoding="utf-8")) for page in pages}
    assert [name for name, loaded in found.items() if loaded] == [], found


def test_broken_links_are_errors(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    broken = "[to an anchor](rows.md#ctc_los) [to a page](row.md) [to a name][exportable_losses.L2Loss]"
    (tmp_path / "docs" / "index.md").write_text(f"{broken}\n\n::: exportable_losses.CTCLoss\n")
    (tmp_path / "docs" / "rows.md").write_text("### ctc_loss\n")
    config = {
        "INHERIT": str(ROOT / "mkdocs.yml"),
        "hooks": ["hooks.py"],
        "nav": ["index.md", "rows.md"],
        "watch": [],
    }
    (tmp_path / "mkdocs.yml").write_text(json.dumps(config))
    hooks = (ROOT / "docs" / "site_hooks.py").read_text(encoding="utf-8")
    (tmp_path / "hooks.py").write_text(f"{hooks}\nROOT, PAGES = Path({str(ROOT)!r}), ()\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert (done.returncode, done.stderr.count("WARNING -")) == (1, 3), done.stderr


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first cell to its last; what is committed has an output wherever one is shown."""
    committed = nbformat.read(NOTEBOOK, as_version=4)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    run = NotebookClient(
        nbformat.read(NOTEBOOK, as_version=4), timeout=120, resources={"metadata": {"path": tmp_path}}
    ).execute()
    for before, now in zip(committed.cells, run.cells, strict=True):
        kinds = [[output.output_type for output in cell.get("outputs", [])] for cell in (before, now)]
        assert set(kinds[0]) == set(kinds[1]), before.source
        assert "stderr" not in {output.get("name") for output in now.get("outputs", [])}
