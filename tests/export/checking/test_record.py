"""The README's table of runtimes is that of docs/runtimes.json, which is of what is exported now."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from export_cases import BY_NAME, Case

from exportable_losses import catalog
from exportable_losses.export.checking import runtimes
from exportable_losses.export.checking.runners import RUNNERS

ROOT = Path(__file__).parents[3]
RECORD = ROOT / "docs" / "runtimes.json"
AGAIN = "run `make record`, on a machine that has every runtime"
recorded = json.loads(RECORD.read_text(encoding="utf-8"))


def case_of(row: str) -> Case:
    """The case of a row with the settings that it has by itself."""
    entry = catalog.get(row)
    usual = entry.settings.get("reduction", "")
    return next(
        case
        for case in BY_NAME.values()
        if case.row == row and not case.without and case.name in ("", usual) and not case.sizes
    )


def test_every_row_has_run_on_every_runtime() -> None:
    assert set(recorded["rows"]) == set(recorded["graphs"]) == set(catalog.names()), AGAIN
    assert list(recorded["runtimes"]) == list(RUNNERS), AGAIN


@pytest.mark.parametrize("row", catalog.names())
def test_the_graphs_that_ran_are_those_of_now(row: str) -> None:
    if torch.__version__ != recorded["runtimes"]["torchscript"]:
        pytest.skip(f"recorded with torch {recorded['runtimes']['torchscript']}, whose exporter may differ")
    graph = onnx.load(case_of(row).graph())
    assert runtimes.fingerprint(graph) == recorded["graphs"][row], AGAIN


def test_the_table_of_the_readme_is_that_of_the_record() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    between = readme.partition("<!-- runtimes: make record -->\n")[2].partition("\n<!-- end of runtimes -->")[
        0
    ]
    assert between == runtimes.markdown(runtimes.read_json(RECORD)), "run docs/record.py's `put_into`"
