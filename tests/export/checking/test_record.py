"""docs/runtimes.json, which the README's table of runtimes is made of, is of what is exported now."""

import json

import onnx
import pytest
import rows
import torch
from export_cases import BY_NAME, Case

from exportable_losses import catalog
from exportable_losses.export.checking import runtimes
from exportable_losses.export.checking.runners import RUNNERS

AGAIN = "run `make record`, on a machine that has every runtime"
recorded = json.loads(rows.RECORD.read_text(encoding="utf-8"))


def case_of(row: str) -> Case:
    """The case of a row with the settings that it has by itself."""
    entry = catalog.get(row)
    usual = entry.settings.get("reduction", "")
    return next(
        case
        for case in BY_NAME.values()
        if case.row == row and not case.without and case.name in ("", usual) and not case.sizes
    )


def test_every_recorded_row_has_run_on_every_runtime() -> None:
    assert set(recorded["rows"]) == set(recorded["graphs"]) <= set(catalog.names()), AGAIN
    assert list(recorded["runtimes"]) == list(RUNNERS), AGAIN


@pytest.mark.parametrize("row", catalog.names())
def test_the_graphs_that_ran_are_those_of_now(row: str) -> None:
    if torch.__version__ != recorded["runtimes"]["torchscript"]:
        pytest.skip(f"recorded with torch {recorded['runtimes']['torchscript']}, whose exporter may differ")
    if row not in recorded["graphs"]:
        pytest.skip(f"not yet recorded: {AGAIN}")
    graph = onnx.load(case_of(row).graph())
    assert runtimes.fingerprint(graph) == recorded["graphs"][row], AGAIN
