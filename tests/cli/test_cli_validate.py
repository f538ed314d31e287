"""`validate` passes good files and no others."""

import json
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from exportable_losses.export import to_pt2
from exportable_losses.export.checking.validate import validate

pytestmark = pytest.mark.usefixtures("torch_is_loaded")


def _add(path, amount, at=0):
    """Add to one number of a tensor file."""
    proto = onnx.load_tensor(path)
    array = numpy_helper.to_array(proto).copy()
    array.flat[at] += amount
    onnx.save_tensor(numpy_helper.from_array(array, proto.name), path)


def test_good_files_pass(cli, exported, tmp_path, monkeypatch):
    monkeypatch.undo()  # in a process of its own, as users have it
    report = tmp_path / "reports" / "junit.xml"
    result = cli("validate", exported, "--junit", report)
    assert result.exit_code == 0, result.output
    assert "6 outputs checked, none off." in result.stdout
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("6", "0")
    named = {(case.get("classname"), case.get("name")) for case in suite}
    outputs = ("ctc_loss loss", "PitWrapper loss", "PitWrapper permutations")
    assert named == {(kind, name) for kind in ("onnxruntime", "torchscript") for name in outputs}


def test_a_number_that_is_off_fails_in_both_formats(cli, losses, tmp_path):
    _add(losses / "PitWrapper" / "test_data_set_0" / "output_0.pb", 0.001, at=1)
    report = tmp_path / "junit.xml"
    result = cli("validate", losses, "--junit", report)
    assert result.exit_code == 1
    assert "6 outputs checked, 2 off." in result.stdout
    assert "PitWrapper (onnxruntime) loss: off by 0.001" in result.stdout
    failures = ElementTree.parse(report).getroot().findall(".//failure")
    assert [failure.get("message") for failure in failures] == ["off by 0.001"] * 2


def test_a_whole_number_that_is_off_by_one_fails(graphs):
    _add(graphs / "PitWrapper" / "test_data_set_0" / "output_1.pb", 1)
    off = [check for check in validate(graphs).checks if not check.ok]
    assert [(check.output, check.problem) for check in off] == [("permutations", "off by 1")]


def test_tolerances_decide(cli, graphs):
    _add(graphs / "ctc_loss" / "test_data_set_0" / "output_0.pb", 0.01)
    assert cli("validate", graphs).exit_code == 1
    assert cli("validate", graphs, "--atol", "0.02").exit_code == 0
    assert cli("validate", graphs, "--rtol", "0.1").exit_code == 0
    _add(graphs / "PitWrapper" / "test_data_set_0" / "output_0.pb", 0.001)
    off = [(check.row, check.output) for check in validate(graphs).checks if not check.ok]
    assert off == [("ctc_loss", "loss"), ("PitWrapper", "loss")]


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros(2, np.float32), "has the shape []"),
        (np.zeros((), np.float64), "is float32, expected float64"),
    ],
)
def test_another_shape_or_dtype_fails(graphs, array, problem):
    path = graphs / "ctc_loss" / "test_data_set_0" / "output_0.pb"
    onnx.save_tensor(numpy_helper.from_array(array, "loss"), path)
    (off,) = [check for check in validate(graphs).checks if not check.ok]
    assert problem in off.problem


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"\7" * len(b)])
def test_a_broken_graph_fails_and_the_others_are_still_checked(cli, graphs, damage):
    path = graphs / "ctc_loss" / "ctc_loss.onnx"
    path.write_bytes(damage(path.read_bytes()))
    result = cli("validate", graphs)
    assert result.exit_code == 1
    assert "3 outputs checked, 1 off." in result.stdout
    assert "ctc_loss (onnxruntime) file: " in result.stdout


def test_a_broken_script_fails_and_the_others_are_still_checked(cli, losses):
    path = losses / "ctc_loss" / "ctc_loss.pt"
    path.write_bytes(path.read_bytes()[:1000])
    result = cli("validate", losses)
    assert result.exit_code == 1
    assert "6 outputs checked, 1 off." in result.stdout
    assert "ctc_loss (torchscript) file: " in result.stdout


def test_a_good_graph_beside_the_test_data_of_another_fails(graphs):
    shutil.copy(graphs / "ctc_loss" / "ctc_loss.onnx", graphs / "PitWrapper" / "PitWrapper.onnx")
    (off,) = [check for check in validate(graphs).checks if not check.ok]
    assert (off.row, off.problem[:21]) == ("PitWrapper", "inputs: got preds, ex")


def test_a_constant_changed_inside_a_graph_fails(graphs):
    path = graphs / "PitWrapper" / "PitWrapper.onnx"
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "Sub":  # the squared error of predictions and targets
            node.op_type = "Add"
    onnx.save(model, path)
    assert any(check.output == "loss" and not check.ok for check in validate(graphs).checks)


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_a_file_alone(cli, losses, suffix):
    path = losses / "ctc_loss" / f"ctc_loss{suffix}"
    result = cli("validate", path)
    assert (result.exit_code, "1 output checked, none off." in result.stdout) == (0, True), result.output
    (check,) = validate(path).checks
    assert (check.row, check.runtime) == ("ctc_loss", {".onnx": "onnxruntime", ".pt": "torchscript"}[suffix])
    _add(path.parent / "test_data_set_0" / "output_0.pb", 0.001)
    assert "ctc_loss (" in cli("validate", path).stdout


def test_a_file_of_another_kind(cli, losses, tmp_path):
    (tmp_path / "readme.txt").touch()
    result = cli("validate", tmp_path / "readme.txt")
    assert (result.exit_code, "readme.txt, expected a file to run (.onnx," in result.stderr) == (1, True)
    result = cli("validate", losses / "ctc_loss" / "ctc_loss.pt", "--on", "onnxruntime")
    assert (result.exit_code, "ctc_loss.pt, expected a file to run (.onnx)" in result.stderr) == (1, True)


def test_a_kind_of_file_that_nothing_here_runs_is_named(cli, graphs, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch", None)
    monkeypatch.delenv("EXPORTABLE_LOSSES_EXECUTORCH", raising=False)
    (graphs / "ctc_loss" / "ctc_loss.pte").touch()
    result = cli("validate", graphs)
    assert (result.exit_code, "3 outputs checked, none off." in result.stdout) == (1, True)
    assert "executorch is not here: pip install executorch" in result.stdout


def test_graphs_need_no_exporter(graphs, tmp_path):
    code = """
import sys
unwanted = ("torch", "onnx", "onnx_ir", "onnxscript", "ml_dtypes", "filelock")
sys.modules |= dict.fromkeys(unwanted)
from exportable_losses.export import cli
sys.argv = ["exportable-losses", "validate", *sys.argv[1:]]
cli.main()
"""

    def run(*words):
        command = [sys.executable, "-c", code, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True)

    done = run(graphs, "--json", tmp_path / "found.json", "--junit", tmp_path / "junit.xml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 outputs checked, none off." in done.stdout
    assert json.loads((tmp_path / "found.json").read_text())["graphs"] == {}  # no onnx to read them
    done = run(graphs, "--on", "all")
    assert done.returncode == 0, done.stderr
    assert "torchscript is not here: pip install '.[torch]' in a clone of exportable-losses\n" in done.stdout
    assert "onnx-reference is not here: pip install '.[export]' in" in done.stdout
    (graphs / "ctc_loss" / "ctc_loss.pt").touch()
    done = run(graphs)
    assert done.returncode == 1
    assert "torchscript is not here: pip install '.[torch]'" in done.stdout


def test_a_file_without_test_data_is_counted_apart(cli, graphs, tmp_path):
    shutil.rmtree(graphs / "ctc_loss" / "test_data_set_0")
    without = graphs / "ctc_loss" / "ctc_loss.onnx"
    result = cli("validate", graphs, "--junit", tmp_path / "found.xml", "--json", tmp_path / "found.json")
    assert result.exit_code == 0, result.output
    assert f"{without}: no test data beside it, not checked.\n" in result.stdout
    assert ", none off; 1 file without test data.\n" in result.stdout
    assert without.as_posix() in json.loads((tmp_path / "found.json").read_text())["untested"]
    suites = ElementTree.parse(tmp_path / "found.xml").getroot()
    assert (suites.get("failures"), suites.get("skipped")) == ("0", "1")
    assert [case.get("name") for case in suites.iter("testcase") if case.find("skipped") is not None] == [
        str(without)
    ]
    result = cli("validate", without)
    assert (result.exit_code, result.stdout.splitlines()) == (
        1,
        [
            f"{without}: no test data beside it, not checked.",
            "0 outputs checked, none off; 1 file without test data.",
        ],
    )


def test_test_data_without_outputs_fail(graphs):
    (graphs / "ctc_loss" / "test_data_set_0" / "output_0.pb").unlink()
    (off,) = [check for check in validate(graphs).checks if not check.ok]
    assert (off.row, off.problem) == ("ctc_loss", "gave loss, expected none")


def test_broken_test_data_fail(graphs):
    (graphs / "ctc_loss" / "test_data_set_0" / "output_0.pb").write_bytes(b"\xff\xff")
    (off,) = [check for check in validate(graphs).checks if not check.ok]
    assert off.problem.startswith("test_data_set_0: ")


def test_nothing_to_validate_is_an_error(cli, tmp_path):
    result = cli("validate", tmp_path)
    assert (
        result.exit_code,
        "expected a file to run (.onnx, .pt, .pt2, .pte) or a folder of them" in result.stderr,
    ) == (1, True)


def test_a_missing_folder_is_a_wrong_call(cli, tmp_path):
    result = cli("validate", tmp_path / "nowhere")
    assert (result.exit_code, "does not exist" in result.stderr) == (2, True)


def test_reads_the_files_only(graphs):
    """No catalog and no module is loaded: the files may come from another version."""
    code = """
import pathlib, sys
from exportable_losses.export.checking.validate import validate
assert all(check.ok for check in validate(pathlib.Path(sys.argv[1])).checks)
assert not {"exportable_losses.catalog", "exportable_losses.ops"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(graphs)], check=True)


def test_a_script_that_needs_this_package_fails(losses):
    """The process that runs TorchScript knows torch alone."""
    from exportable_losses import CTCLoss
    from exportable_losses.export import to_torchscript

    to_torchscript(CTCLoss(), losses / "ctc_loss" / "ctc_loss.pt", custom_ops=True)
    off = [check for check in validate(losses).checks if not check.ok]
    assert [(check.row, check.runtime) for check in off] == [("ctc_loss", "torchscript")]
    assert "exportable_losses::ctc_loss" in off[0].problem


def test_programs_of_torch_export(cli, tmp_path):
    assert cli("export", "ctc_loss", "--format", "pt2", "--out", tmp_path).exit_code == 0
    result = cli("validate", tmp_path)
    assert (result.exit_code, "1 output checked, none off." in result.stdout) == (0, True), result.output
    broken = shutil.copytree(tmp_path / "ctc_loss", tmp_path / "broken") / "broken.pt2"
    broken.write_bytes((broken.parent / "ctc_loss.pt2").read_bytes()[:1000])
    (broken.parent / "ctc_loss.pt2").unlink()
    _add(tmp_path / "ctc_loss" / "test_data_set_0" / "output_0.pb", 0.001)
    result = cli("validate", tmp_path, "--on", "pt2")
    assert (result.exit_code, "ctc_loss (pt2) loss: off by 0.001" in result.stdout) == (1, True)
    assert "broken (pt2) file: " in result.stdout


class Weighed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x


def test_a_model_with_weights(tmp_path):
    """Its outputs have a gradient."""
    to_pt2(Weighed(), tmp_path / "model.pt2", {"x": torch.ones(3)})
    torch.jit.script(Weighed()).save(tmp_path / "model.pt")
    checks = validate(tmp_path, ["pt2", "torchscript"]).checks
    assert [(check.runtime, check.problem) for check in checks] == [("pt2", ""), ("torchscript", "")]


def test_gradients_of_the_graph_are_nothing_to_a_program(cli, tmp_path):
    words = ("--gradients", "all", "--format", "onnx,pt2", "--out", tmp_path)
    assert cli("export", "ctc_loss", *words).exit_code == 0
    result = cli("validate", tmp_path, "--on", "onnxruntime,pt2")
    assert (result.exit_code, "3 outputs checked, none off." in result.stdout) == (0, True), result.output


def test_without_a_compiler_there_is_no_aotinductor(cli, graphs, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = cli("validate", graphs, "--on", "aotinductor")
    assert result.exit_code == 1
    assert (
        "aotinductor is not here: AOTInductor compiles with a C++ compiler, and there is no no-such-compiler"
        in result.stdout
    )
