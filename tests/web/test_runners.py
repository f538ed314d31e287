"""The runners under Node and in Chromium give what the graphs give, and say what went wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from exportable_losses.export.checking.runners import RUNNERS, Absent, Case, node
from exportable_losses.export.checking.validate import validate
from exportable_losses.export.checking.web import devtools, npm
from exportable_losses.runtime.testdata import read_test_data

RUNTIMES = ("onnxruntime-node", "onnxruntime-web", "chromium")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """Each that is here."""
    try:
        RUNNERS[request.param].version()
    except Absent as error:
        pytest.skip(f"{request.param} is not here: {error}")
    return request.param


def test_all_is_well(runtime: str, graphs: Path) -> None:
    found = validate(graphs, [runtime])
    assert [check for check in found.checks if not check.ok] == []
    assert sorted((check.row, check.output) for check in found.checks) == [
        ("AutoencoderLoss", "loss"),
        ("AutoencoderLoss", "rec_loss"),
        ("PitWrapper", "loss"),
        ("PitWrapper", "permutations"),
        ("compute_length_mask", "mask"),
        ("ctc_loss", "loss"),
    ]
    assert found.versions[runtime].split()[-1] == npm.version(
        npm.find(runtime) or npm.find("onnxruntime-web")
    )


def test_what_is_broken_is_named_and_the_rest_still_runs(runtime: str, graphs: Path) -> None:
    path = graphs / "PitWrapper" / "PitWrapper.onnx"
    path.write_bytes(path.read_bytes()[:500])
    (graphs / "AutoencoderLoss" / "test_data_set_0" / "input_0.pb").unlink()  # input_1 is now input_0 of one
    output = graphs / "ctc_loss" / "test_data_set_0" / "output_0.pb"
    loss = numpy_helper.to_array(onnx.load_tensor(output))
    onnx.save_tensor(numpy_helper.from_array(loss + np.float32(0.5), "loss"), output)
    checks = {check.row: check for check in validate(graphs, [runtime]).checks}
    assert checks["ctc_loss"].problem == "off by 0.5"
    assert checks["PitWrapper"].problem
    assert checks["AutoencoderLoss"].problem
    assert checks["compute_length_mask"].ok


def test_a_graph_of_another_row_gives_other_outputs(runtime: str, graphs: Path) -> None:
    output = graphs / "ctc_loss" / "test_data_set_0" / "output_0.pb"
    onnx.save_tensor(numpy_helper.from_array(np.zeros(1, np.float32), "another"), output)
    checks = [check for check in validate(graphs, [runtime]).checks if check.row == "ctc_loss"]
    assert [check.problem for check in checks] == ["gave loss, expected another"]


def test_no_cases_are_no_outputs(runtime: str) -> None:
    assert list(RUNNERS[runtime].run([])) == []


def case(graphs: Path, row: str) -> Case:
    data = graphs / row / "test_data_set_0"
    return Case(row, graphs / row / f"{row}.onnx", data, *read_test_data(data))


def test_outputs_are_the_same_to_the_bit_each_time(runtime: str, graphs: Path) -> None:
    cases = [case(graphs, "ctc_loss")] * 2
    one, two = RUNNERS[runtime].run(cases)
    assert one["loss"].tobytes() == two["loss"].tobytes()
    assert one["loss"].dtype == np.float32


@pytest.mark.parametrize("name", RUNTIMES)
def test_where_nothing_is_here_it_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODE_PATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: f"/{name}")
    package = name if name in ("onnxruntime-node", "onnxruntime-web") else "onnxruntime-web"
    with pytest.raises(Absent, match=rf"npm install .*{package}@{npm.VERSION}"):
        RUNNERS[name].version()
    (tmp_path / "node_modules" / package).mkdir(parents=True)
    (tmp_path / "node_modules" / package / "package.json").write_text('{"version": "9.9.9"}')
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        Absent, match=devtools.BROWSERS[-1] if name == "chromium" else "node is not on the path"
    ):
        RUNNERS[name].version()


LIBRARY = """
const loss = { type: "float32", dims: [], data: new Float32Array([7]) };
let runs = 0;
exports.env = { wasm: {} };
exports.Tensor = class {};
exports.InferenceSession = {
  create: async () => {
    if (runs++) { DIES }
    return { run: async () => ({ loss }), release() {} };
  },
};
"""


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("dies", "problem"),
    [
        ("throw new Error('no kernel\\nat line 7')", "no kernel"),
        ("throw 'a word'", "a word"),
        ("console.error('Aborted'); process.exit(9)", "node ended with 9: Aborted"),
        ("process.stdout.write('{\"lo'); process.exit(9)", "node ended with 9: "),
        ("console.log('a word of its own'); throw 'another'", "another"),
        ("await new Promise(() => setTimeout(() => { throw new Error('later') }))", "node ended with 1: "),
    ],
)
def test_where_the_runtime_dies_each_file_behind_says_so(
    graphs: Path, tmp_path: Path, dies: str, problem: str
) -> None:
    """A library that fails from its second graph on."""
    library = tmp_path / "library.cjs"
    library.write_text(LIBRARY.replace("DIES", dies))
    first, *others = node._run(library, [case(graphs, "ctc_loss")] * 3)
    assert float(first["loss"]) == 7
    assert len(others) == 2
    for other in others:
        assert other.startswith(problem), other


def test_a_page_that_cannot_load_its_library_says_so(
    graphs: Path, tmp_path: Path, monkeypatch, browser: str
) -> None:
    package = tmp_path / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": "0"}))
    (package / "dist" / npm.LIBRARY).write_text("no JavaScript")
    (package / "dist" / npm.WASM).write_bytes(b"")
    monkeypatch.setenv("NODE_PATH", str(tmp_path))
    (problem,) = RUNNERS["chromium"].run([case(graphs, "ctc_loss")])
    assert problem.startswith("Could not run: "), problem
