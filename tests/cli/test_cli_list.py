"""`list` says what the catalog says."""

import json

import pytest

from exportable_losses import catalog


@pytest.fixture(scope="module")
def rows(cli):
    return {row["row"]: row for row in json.loads(cli("list", "--json").stdout)}


def test_rows_are_the_catalogs_in_order(rows):
    assert list(rows) == catalog.names()


@pytest.mark.parametrize("name", catalog.names())
def test_json_equals_the_catalog(rows, name):
    entry, row = catalog.get(name), rows[name]
    assert row["module"] == entry.type.__name__
    assert row["summary"] == entry.summary
    assert [(i["name"], i["dims"], i["optional"]) for i in row["inputs"]] == [
        (i.name, i.dims, i.optional) for i in entry.inputs
    ]
    assert tuple(row["outputs"]) == entry.outputs
    assert tuple(row["differentiable"]) == entry.differentiable
    assert list(row["settings"]) == list(entry.settings)


@pytest.mark.parametrize(
    ("name", "reductions"),
    [
        ("l1_loss", ["mean", "sum", "batch", "batchmean", "none"]),
        ("LaplacianVarianceLoss", ["mean", "batch"]),
        ("PitWrapper", []),
    ],
)
def test_reductions_are_those_the_module_takes(rows, name, reductions):
    assert rows[name]["reductions"] == reductions


def test_table_shows_every_row_with_its_inputs(cli):
    shown = cli("list").stdout
    for name in catalog.names():
        assert name in shown
        for each in catalog.get(name).inputs:
            assert f"{each.name}{'?' * each.optional} [{each.dims}]" in shown
