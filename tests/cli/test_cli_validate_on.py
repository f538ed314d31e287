"""`validate --on`: rows by runtimes, what is absent, what is recorded."""

import functools
import json
import os
import shutil
from dataclasses import replace
from unittest import mock

import building
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from exportable_losses.export.checking import runtimes, validate
from exportable_losses.export.checking.runners import (
    RUNNERS,
    Absent,
    Case,
    Runner,
    cpp,
    openvino,
    torch_alone,
)
from exportable_losses.runtime.parity import Difference

pytestmark = pytest.mark.usefixtures("torch_is_loaded")
COMPILED = ("aotinductor", "aotinductor-cpp")  # for half a minute a row: they share one, below
HERE = ("onnxruntime", "onnxruntime-ort", "onnx-reference", "torchscript")


@functools.cache  # it may take a build to find out
def why_absent(name):
    try:
        RUNNERS[name].version()
    except Absent as error:
        return str(error)
    return None


@pytest.fixture(scope="module", autouse=True)
def _programs():
    """Runners in C++ find the programs of the examples built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpp, "BUILD", building.KEPT)
        yield


def skip_without(name):
    if RUNNERS[name].run.__module__ == cpp.__name__ and "arm" not in name:
        building.programs()
    if why_absent(name):
        pytest.skip(f"{name} is not here: {why_absent(name)}")


@pytest.fixture(scope="module")
def everywhere(cli, exported, tmp_path_factory):
    """A folder of two rows in the formats that a runtime reads; only to be read."""

    @functools.cache
    def folder_of(name):
        skip_without(name)
        kind = {".pt2": "pt2", ".pte": "executorch"}.get(RUNNERS[name].suffix)
        if kind is None:
            return exported
        folder = tmp_path_factory.mktemp(kind)
        result = cli("export", "ctc_loss", "PitWrapper", "--format", kind, "--out", folder)
        assert result.exit_code == 0, result.output
        return folder

    return folder_of


@pytest.mark.parametrize("name", [name for name in RUNNERS if name not in COMPILED])
def test_every_runtime_agrees_on_a_lattice_and_on_permutations(cli, everywhere, name):
    result = cli("validate", everywhere(name), "--on", name)
    assert result.exit_code == 0, result.output
    assert "3 outputs checked, none off." in result.stdout


def put_off(row):
    """Change what is expected of the first output by 0.01."""
    path = row / "test_data_set_0" / "output_0.pb"
    proto = onnx.load_tensor(path)
    onnx.save_tensor(
        numpy_helper.from_array(numpy_helper.to_array(proto) + np.float32(0.01), proto.name), path
    )


@pytest.mark.parametrize("name", [name for name in RUNNERS if name not in COMPILED])
def test_every_runtime_sees_a_number_that_is_off(cli, everywhere, tmp_path, name):
    """In whatever set of test data it is."""
    losses = shutil.copytree(everywhere(name), tmp_path / "losses")
    put_off(losses / "PitWrapper")
    (losses / "PitWrapper" / "test_data_set_0").rename(losses / "PitWrapper" / "test_data_set_3")
    result = cli("validate", losses, "--on", name)
    assert result.exit_code == 1
    assert f"PitWrapper ({name}) loss: off by 0.01" in result.stdout
    assert "3 outputs checked, 1 off." in result.stdout


@pytest.mark.thorough  # slow: the next test covers a failure, test_upstream a package that compiles
@pytest.mark.parametrize("row", ["l1_loss", "ctc_loss"])
def test_aotinductor_compiles_a_file_once_for_python_and_cpp(cli, tmp_path, monkeypatch, row):
    for name in COMPILED:
        skip_without(name)
    assert cli("export", row, "--format", "pt2", "--out", tmp_path).exit_code == 0
    shutil.copytree(tmp_path / row, tmp_path / "off")
    (tmp_path / "off" / f"{row}.pt2").rename(tmp_path / "off" / "off.pt2")
    put_off(tmp_path / "off")
    compiled = []
    call = torch_alone.call

    def counted(what, jobs):
        compiled.extend(jobs if what == "compile" else [])
        return call(what, jobs)

    monkeypatch.setattr(torch_alone, "call", counted)
    checks = validate.validate(tmp_path, COMPILED).checks
    assert len(compiled) == 1
    found = {(check.row, check.runtime): check.problem for check in checks}
    expected = {row: "", "off": "off by 0.01"}
    assert found == {(file, name): problem for file, problem in expected.items() for name in COMPILED}


def test_what_aotinductor_cannot_compile_is_said_for_python_and_cpp(graphs, monkeypatch):
    skip_without("aotinductor-cpp")
    monkeypatch.setattr(torch_alone, "call", lambda what, jobs: ["no such kernel\nat all"] * len(jobs))
    path = graphs / "ctc_loss" / "ctc_loss.onnx"
    case = Case("ctc_loss", path, path.parent / "test_data_set_0", {}, {})
    for name in COMPILED:
        assert list(RUNNERS[name].run([case])) == ["no such kernel"]


@pytest.fixture(scope="module", params=["float16", "bfloat16"])
def halved(cli, tmp_path_factory, request):
    """A folder of a graph in 16 bits; only to be read."""
    folder = tmp_path_factory.mktemp(request.param)
    cli("export", "l1_loss", "--format", "onnx", "--dtype", request.param, "--out", folder)
    return folder


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-cpp", "onnx-reference", "openvino"])
def test_sixteen_bits(cli, halved, name):
    skip_without(name)
    result = cli("validate", halved, "--on", name)
    assert (result.exit_code, "1 output checked, none off." in result.stdout) == (0, True), result.output


def test_the_table_has_a_column_for_each_runtime(cli, losses, tmp_path):
    (losses / "PitWrapper" / "PitWrapper.pt").unlink()
    result = cli("validate", losses, "--on", ",".join(HERE), "--json", tmp_path / "new" / "runtimes.json")
    assert result.exit_code == 0, result.output
    head, *lines = [line.split() for line in result.stdout.splitlines()]
    assert head == ["row", *HERE]
    assert [line[0] for line in lines[:2]] == ["ctc_loss", "PitWrapper"]
    assert lines[1][-1] == "-"  # no file for it
    recorded = json.loads((tmp_path / "new" / "runtimes.json").read_text())
    assert list(recorded["runtimes"]) == list(HERE)
    assert set(recorded["rows"]["PitWrapper"]) == set(HERE) - {"torchscript"}
    assert all(cell["ulp"] < 10 for cells in recorded["rows"].values() for cell in cells.values())


@pytest.fixture
def nowhere():
    """A runtime that is not here."""

    def version():
        raise Absent("pip install nothing")

    runner = Runner("nowhere", ".onnx", "nothing", version, lambda cases: [])
    here = {"onnxruntime": RUNNERS["onnxruntime"], "nowhere": runner}
    with mock.patch.dict(RUNNERS, here, clear=True):  # which leaves them in their order
        yield


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
    with pytest.raises(Absent, match=r"pip install '\.\[openvino\]'"):
        openvino.RUNNER.version()


def test_without_sources_or_tools_there_are_no_programs(monkeypatch, tmp_path):
    monkeypatch.setattr(cpp, "SOURCES", tmp_path / "nowhere")
    with pytest.raises(Absent, match=r"there is no .*nowhere: install a clone with pip install -e"):
        cpp._built("onnx_loss", "host")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Absent, match="aarch64-linux-gnu-g\\+\\+ \\(Debian"):
        cpp._arm_program()


@pytest.mark.skipif(os.name == "nt", reason="the program that stands in is a shell script")
@pytest.mark.parametrize(("code", "problem"), [(0, None), (1, None), (139, "ended with 139")])
def test_what_a_program_has_written_before_it_died_is_no_output(graphs, tmp_path, code, problem):
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\ncp "$2"/output_*.pb "$4"\nexit {code}\n')
    program.chmod(0o755)
    runner = cpp._runner("stand-in", ".onnx", "", "1", lambda: program, cpp._words)
    path = graphs / "ctc_loss" / "ctc_loss.onnx"
    (outputs,) = runner.run([Case("ctc_loss", path, path.parent / "test_data_set_0", {}, {})])
    assert outputs == problem if problem else list(outputs) == ["loss"]


def test_a_broken_graph_is_recorded_as_a_problem_and_has_no_fingerprint(cli, graphs, tmp_path):
    (graphs / "ctc_loss" / "ctc_loss.onnx").write_bytes(b"\7")
    result = cli("validate", graphs, "--on", "onnxruntime", "--json", tmp_path / "found.json")
    assert result.exit_code == 1
    recorded = json.loads((tmp_path / "found.json").read_text())
    assert recorded["rows"]["ctc_loss"]["onnxruntime"]["problem"]
    assert list(recorded["graphs"]) == ["PitWrapper"]


def test_the_markdown_of_a_record(graphs):
    found = validate.validate(graphs, ["onnxruntime", "onnx-reference"])
    recorded = runtimes.to_json(found)
    assert recorded["rows"]["ctc_loss"]["onnx-reference"]["ulp"] < 10
    recorded["rows"]["ctc_loss"] = {"onnx-reference": {"problem": "cannot"}}
    recorded["rows"]["PitWrapper"]["onnxruntime"]["ulp"] = 12.345
    recorded["rows"]["PitWrapper"]["onnx-reference"] = {"problem": "cannot"}
    version = recorded["runtimes"]["onnxruntime"]
    assert runtimes.markdown(recorded, ["ctc_loss", "l1_loss"]).splitlines() == [
        "| row | onnxruntime | onnx-reference |",
        "|---|---:|---:|",
        "| `ctc_loss` | - | off (1) |",
        "| `PitWrapper` | 12 | off (1) |",
        "| `l1_loss` | not yet recorded | |",
        "",
        f"Versions: onnxruntime {version}; onnx-reference {onnx.__version__}.",
        "",
        "1. cannot",
    ]


def test_a_fingerprint_is_of_what_a_graph_computes(graphs):
    graph = onnx.load(graphs / "ctc_loss" / "ctc_loss.onnx")
    found = runtimes.fingerprint(graph)
    graph.doc_string = graph.graph.doc_string = graph.functions[0].doc_string = "other words"
    graph.metadata_props[0].value = "{}"
    assert runtimes.fingerprint(graph) == found
    for node in (graph.functions[0].node[0], graph.graph.node[0]):
        before, node.output[0] = node.output[0], "another"
        assert runtimes.fingerprint(graph) != found
        node.output[0] = before
    graph.graph.initializer.append(numpy_helper.from_array(np.zeros(1), "weight"))
    assert runtimes.fingerprint(graph) != found


def test_a_cell_is_of_the_worst_output_and_the_first_problem():
    def check(output, ulp, problem=""):
        difference = Difference(output, ulp / 8, 0.0, ulp, 1.0)
        return validate.Check("row", "here", output, difference, problem)

    checks = [check("a", 2.0), check("b", 7.0, "off"), check("c", 5.0, "other")]
    cell = runtimes.to_json(validate.Validation({"here": "1"}, {}, checks))["rows"]["row"]["here"]
    assert cell == {"ulp": 7.0, "absolute": 0.875, "problem": "b: off"}


def test_a_runtime_that_is_named_twice_runs_once(graphs):
    checks = validate.validate(graphs, ["onnxruntime", "onnxruntime"]).checks
    assert [(check.row, check.output) for check in checks] == [
        ("ctc_loss", "loss"),
        ("PitWrapper", "loss"),
        ("PitWrapper", "permutations"),
    ]


def test_a_difference_without_bounds_is_json_too(tmp_path):
    """An output that is infinite or NaN on one side alone."""
    check = validate.Check(
        "row", "here", "loss", Difference("loss", np.inf, np.inf, np.inf, 1.0), "off by inf"
    )
    path = tmp_path / "found.json"
    runtimes.write_json(validate.Validation({"here": "1"}, {}, [check]), tmp_path, path)
    json.loads(path.read_text(), parse_constant=pytest.fail)  # Infinity is no JSON
    cell = runtimes.read_json(path)["rows"]["row"]["here"]
    assert cell == {"ulp": np.inf, "absolute": np.inf, "problem": "loss: off by inf"}


@pytest.mark.parametrize("said", ["No rule to make target 'x'", "ninja: error: unknown target 'x'"])
def test_a_program_without_its_headers_is_named_whoever_builds_it(said):
    assert "onnxruntime_cxx_api.h" in cpp._why_not_built("onnx_loss", said)
    assert cpp._why_not_built("torch_loss", said) == "it needs a C++ compiler and libtorch"
    assert (
        cpp._why_not_built("torch_loss", "no space left") == "its program could not be built: no space left"
    )


def test_a_runtime_that_does_not_load_leaves_the_others(graphs, monkeypatch):
    def fails(cases):
        raise ImportError("libtbb.so: cannot open")
        yield

    broken = replace(validate.RUNNERS["onnx-reference"], run=fails)
    monkeypatch.setitem(validate.RUNNERS, "onnx-reference", broken)
    found = validate.validate(graphs, ["onnx-reference", "onnxruntime"])
    assert found.absent == {"onnx-reference": "it does not load: libtbb.so: cannot open"}
    assert list(found.versions) == ["onnxruntime"]
    assert found.checks
