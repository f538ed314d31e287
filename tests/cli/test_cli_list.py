"""`list` says what the catalog says, without loading it."""

import json
import subprocess
import sys

import pytest

from exportable_losses import catalog
from exportable_losses.export.commands.listing import as_json, facts, written

# That the file is that of now is told by tests/test_readme.py: "run `make rows`".


@pytest.mark.parametrize("name", catalog.names())
def test_facts_equal_the_catalog(name):
    entry, row = catalog.get(name), facts(name)
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
def test_reductions_are_those_the_module_takes(name, reductions):
    assert facts(name)["reductions"] == reductions


def test_json_is_the_file(cli):
    assert json.loads(cli("list", "--json").stdout) == written()
    assert json.loads(as_json(written())) == written()


def test_table_shows_every_row_with_its_inputs(cli):
    shown = cli("list").stdout
    assert len(written()) > 40
    for row in written():
        assert row["row"] in shown
        for each in row["inputs"]:
            assert f"{each['name']}{'?' * each['optional']} [{each['dims']}]" in shown


@pytest.mark.parametrize("form", [[], ["--json"], ["--markdown"]])
def test_it_needs_neither_torch_nor_numpy(form):
    code = f"""
import sys
sys.modules |= dict.fromkeys(("torch", "onnx", "onnxruntime", "numpy"))
from exportable_losses.export import cli
sys.argv = ["exportable-losses", "list", *{form!r}]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ctc_loss" in done.stdout
