"""`validate --on`: rows by runtimes, what is absent, what is recorded."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from exportable_losses.export import runtimes, validate
from exportable_losses.export.runners import RUNNERS, Absent, Runner, cpp, openvino

HERE = ("onnxruntime", "onnxruntime-ort", "onnx-reference", "torchscript")


@pytest.mark.parametrize("name", RUNNERS)
def test_every_runtime_agrees_on_a_lattice_and_on_permutations(cli, exported, name):
    runner = RUNNERS[name]
    try:
        runner.version()
    except Absent as error:
        pytest.skip(f"{name} is not here: {error}")
    result = cli("validate", exported, "--on", name)
    assert result.exit_code == 0, result.output
    assert "3 outputs checked, none off." in result.stdout


@pytest.mark.parametrize("name", RUNNERS)
def test_every_runtime_sees_a_number_that_is_off(cli, losses, name):
    runner = RUNNERS[name]
    try:
        runner.version()
    except Absent as error:
        pytest.skip(f"{name} is not here: {error}")
    path = losses / "PitWrapper" / "test_data_set_0" / "output_0.pb"
    proto = onnx.load_tensor(path)
    onnx.save_tensor(
        numpy_helper.from_array(numpy_helper.to_array(proto) + np.float32(0.01), proto.name), path
    )
    result = cli("validate", losses, "--on", name)
    assert result.exit_code == 1
    assert f"PitWrapper ({name}) loss: off by 0.01" in result.stdout


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-cpp", "onnx-reference", "openvino"])
def test_sixteen_bits(cli, tmp_path, name, dtype):
    try:
        RUNNERS[name].version()
    except Absent as error:
        pytest.skip(f"{name} is not here: {error}")
    cli("export", "l1_loss", "--format", "onnx", "--dtype", dtype, "--out", tmp_path)
    result = cli("validate", tmp_path, "--on", name)
    assert (result.exit_code, "1 outputs checked, none off." in result.stdout) == (0, True), result.output


def test_the_table_has_a_column_for_each_runtime(cli, losses, tmp_path):
    (losses / "PitWrapper" / "PitWrapper.pt").unlink()
    result = cli("validate", losses, "--on", ",".join(HERE), "--json", tmp_path / "new" / "runtimes.json")
    assert result.exit_code == 0, result.output
    head, *lines = [line.split() for line in result.stdout.splitlines()]
    assert head == ["row", *HERE]
    assert [line[0] for line in lines[:2]] == ["ctc_loss", "PitWrapper"]
    assert lines[1][-1] == "-"  # no file for it
    recorded = json.loads((tmp_path / "new" / "runtimes.json").read_text())
    assert list(recorded["runtimes"]) == sorted(HERE)
    assert set(recorded["rows"]["PitWrapper"]) == set(HERE) - {"torchscript"}
    assert all(cell["ulp"] < 10 for cells in recorded["rows"].values() for cell in cells.values())


@pytest.fixture
def nowhere(monkeypatch):
    """A runtime that is not here."""

    def version():
        raise Absent("pip install nothing")

    runner = Runner("nowhere", ".onnx", "nothing", version, lambda cases: [])
    monkeypatch.setitem(RUNNERS, "nowhere", runner)
    for name in RUNNERS.keys() - {"nowhere", "onnxruntime"}:
        monkeypatch.delitem(RUNNERS, name)


@pytest.mark.parametrize(("on", "code"), [("all", 0), ("onnxruntime,nowhere", 1), ("nowhere", 1)])
def test_an_absent_runtime_is_named(cli, graphs, nowhere, on, code, tmp_path):
    result = cli("validate", graphs, "--on", on, "--json", tmp_path / "found.json")
    assert result.exit_code == code, result.output
    assert "nowhere is not here: pip install nothing" in result.stdout
    assert ("units in the last" in " ".join(result.stdout.split())) == (on != "nowhere")  # no empty table
    assert json.loads((tmp_path / "found.json").read_text())["absent"] == {"nowhere": "pip install nothing"}


def test_an_unknown_runtime_is_a_wrong_call(cli, graphs):
    result = cli("validate", graphs, "--on", "onnxruntime,toaster")
    assert (result.exit_code, "got 'toaster', expected some of onnxruntime," in result.stderr) == (2, True)


def test_a_runtime_that_fails_on_one_file_goes_on_with_the_next(graphs):
    shutil.copy(graphs / "PitWrapper" / "PitWrapper.onnx", graphs / "ctc_loss" / "ctc_loss.onnx")
    for name in HERE[:3]:
        checks = validate.validate(graphs, [name]).checks
        assert {check.row: check.ok for check in checks} == {"ctc_loss": False, "PitWrapper": True}


def test_openvino_is_told_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(Absent, match="pip install openvino"):
        openvino.RUNNER.version()


def test_without_sources_or_tools_there_are_no_programs(monkeypatch, tmp_path):
    monkeypatch.setattr(cpp, "SOURCES", tmp_path / "nowhere")
    with pytest.raises(Absent, match="a checkout of the repository"):
        cpp._built("onnx_loss", "host")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Absent, match="aarch64-linux-gnu-g\\+\\+ \\(Debian"):
        cpp._arm_program()


def test_the_markdown_of_a_record(graphs):
    found = validate.validate(graphs, ["onnxruntime", "onnx-reference"])
    recorded = runtimes.to_json(found)
    recorded["rows"]["ctc_loss"]["onnx-reference"] = {"problem": "cannot"}
    del recorded["rows"]["PitWrapper"]["onnx-reference"]
    head, rule, *lines = runtimes.markdown(recorded).splitlines()
    assert (
        head
        == f"| row | onnxruntime {recorded['runtimes']['onnxruntime']} | onnx-reference {onnx.__version__} |"
    )
    assert rule == "|---|---|---|"
    assert [line.split(" | ")[0] for line in lines] == ["| `ctc_loss`", "| `PitWrapper`"]
    assert lines[0].endswith("| cannot |")
    assert lines[1].endswith("| - |")
