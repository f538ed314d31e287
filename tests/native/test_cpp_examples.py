"""The programs of examples/cpp are built, and run exported files on the test data beside them."""

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import building
import exports
import ml_dtypes
import numpy as np
import onnx
import pytest
import torch.utils.cpp_extension
from building import EXAMPLES, ROOT, kept
from onnx import TensorProto, helper, numpy_helper

from exportable_losses import catalog
from exportable_losses.export import attach

ROWS = ("ctc_loss", "transducer_loss", "ctc_loss_kd", "l1_loss", "PitWrapper", "get_mask", "truncate")
LATTICES = ROWS[:3]


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of the programs; each is there if what it needs was found."""
    return building.programs()


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    if not program.exists():
        assert program.name == "onnx_loss", "torch is here, so its programs must be"
        pytest.skip("onnxruntime_cxx_api.h is not here (Debian trixie: libonnxruntime-dev; set CPATH)")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


@dataclass(frozen=True)
class Files:
    """What is exported of one row."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / {"data": "test_data_set_0"}.get(name, name.replace("_", "."))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Files]:
    """The files of a row, test data beside them."""
    folder = tmp_path_factory.mktemp("exported")
    for row in ROWS:
        entry = catalog.get(row)
        graph = exports.onnx(entry.module())
        shutil.copytree(graph.parent, folder / row)
        (folder / row / graph.name).rename(folder / row / "loss.onnx")
        shutil.copy(exports.torchscript(entry.module()), folder / row / "loss.pt")
        custom = exports.torchscript(entry.module(), custom_ops=True)
        shutil.copy(custom, folder / row / "custom.pt")
    return lambda row: Files(folder / row)


def copy_of(files: Files, folder: Path) -> Files:
    return Files(Path(shutil.copytree(files.folder, folder / "copy")))


def change_output(files: Files, change: Callable[[np.ndarray], np.ndarray], i: int = 0) -> None:
    path = files.data / f"output_{i}.pb"
    proto = onnx.TensorProto.FromString(path.read_bytes())
    changed = numpy_helper.from_array(change(numpy_helper.to_array(proto).copy()), proto.name)
    path.write_bytes(changed.SerializeToString())


def check_report(done: subprocess.CompletedProcess[str], data: Path) -> None:
    """Every output stands there by name, with its numbers, and is right."""
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(list(data.glob("output_*.pb")))
    for i, line in enumerate(lines):
        proto = onnx.TensorProto.FromString((data / f"output_{i}.pb").read_bytes())
        found = re.fullmatch(r"(\w+) =((?: \S+)*?)(?: \.\.\.)?, largest difference (\S+)", line)
        assert found is not None, line
        assert found[1] == proto.name
        expected = numpy_helper.to_array(proto).ravel().astype(float)[:8]
        np.testing.assert_allclose([float(x) for x in found[2].split()], expected, rtol=1e-4, atol=1e-4)
        assert float(found[3]) < 1e-3


# What they print


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("with_library", [True, False])
def test_onnx_files(
    programs: Path, exported: Any, libraries: tuple[str, str], row: str, with_library: bool
) -> None:
    files = exported(row)
    done = run(programs / "onnx_loss", files.loss_onnx, *libraries[: int(with_library)])
    check_report(done, files.data)


@pytest.mark.parametrize("row", ROWS)
def test_torchscript_files(programs: Path, exported: Any, row: str) -> None:
    files = exported(row)
    check_report(run(programs / "torch_loss", files.loss_pt, files.data), files.data)


@pytest.mark.parametrize("row", LATTICES)
def test_torchscript_files_with_our_operators(
    programs: Path, exported: Any, libraries: tuple[str, str], row: str
) -> None:
    files = exported(row)
    check_report(run(programs / "torch_loss", files.custom_pt, files.data, libraries[1]), files.data)
    done = run(programs / "torch_loss", files.custom_pt, files.data)
    assert done.returncode == 2
    assert "Unknown builtin op: exportable_losses::" in done.stderr


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_library_computes(programs: Path, libraries: tuple[str, str], tmp_path: Path, dtype: Any) -> None:
    """A node without a body runs with the library alone, and its input and output find each other by name."""
    real = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    scores = torch.randn(2, 6, 4, dtype=torch.float64).log_softmax(-1).numpy().astype(dtype)
    feed = {
        "target_lengths": np.array([2, 1]),  # not in the order of the graph
        "log_probs": scores,
        "targets": np.array([[1, 2], [3, 1]]),
        "input_lengths": np.array([6, 4]),
        "grad_costs": np.array([1, 2], dtype),
    }
    order = ["log_probs", "targets", "input_lengths", "target_lengths", "grad_costs"]
    node = helper.make_node(
        "CTCLossGrad", order, ["costs", "grad"], domain="exportable_losses", blank_index=0
    )
    kinds = {name: real if name in ("log_probs", "grad_costs") else TensorProto.INT64 for name in order}
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [helper.make_tensor_value_info(name, real, None) for name in ("costs", "grad")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("exportable_losses", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "x.onnx")
    costs, grad = torch.ops.exportable_losses.ctc_loss_grad(
        *(torch.from_numpy(feed[name]) for name in order[:4]), 0, torch.from_numpy(feed["grad_costs"])
    )
    data = tmp_path / "test_data_set_0"
    data.mkdir()
    for i, (name, array) in enumerate(feed.items()):
        (data / f"input_{i}.pb").write_bytes(numpy_helper.from_array(array, name).SerializeToString())
    for i, (name, tensor) in enumerate({"costs": costs, "grad": grad}.items()):
        proto = numpy_helper.from_array(tensor.numpy(), name)
        (data / f"output_{i}.pb").write_bytes(proto.SerializeToString())
    check_report(run(programs / "onnx_loss", tmp_path / "x.onnx", libraries[0]), data)
    done = run(programs / "onnx_loss", tmp_path / "x.onnx")
    assert done.returncode == 2
    assert "exportable_losses" in done.stderr


# What they say of what is wrong


def both(programs: Path, files: Files) -> list[subprocess.CompletedProcess[str]]:
    """What each program that was built says of `files`."""
    done = [run(programs / "torch_loss", files.loss_pt, files.data)]
    if (programs / "onnx_loss").exists():
        done.append(run(programs / "onnx_loss", files.loss_onnx))
    return done


def test_a_wrong_number_is_seen(programs: Path, exported: Any, tmp_path: Path) -> None:
    files = copy_of(exported("PitWrapper"), tmp_path)
    change_output(files, lambda loss: loss + 1e-2 * np.eye(1, loss.size, loss.size - 1, dtype=loss.dtype)[0])
    for done in both(programs, files):
        assert done.returncode == 1
        assert re.search(r"^\w+ = .*, largest difference 0\.0(1|0999)", done.stdout)
    for value in (np.nan, np.inf):
        change_output(files, lambda loss, value=value: np.full_like(loss, value))
        for done in both(programs, files):
            assert done.returncode == 1
            assert "largest difference inf" in done.stdout


@pytest.mark.parametrize(("kind", "place"), [(np.float16, 2**-10), (ml_dtypes.bfloat16, 2**-7)])
def test_sixteen_bits(programs: Path, tmp_path: Path, kind: Any, place: float) -> None:
    """Every kind of number there is, as itself, and one that is two places off."""
    numbers = np.array([1.5, -2.25, 0, 2.0**-14, 3 * 2.0**-24, -np.inf, np.nan, 8], kind)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    value = [helper.make_tensor_value_info(name, element, [8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "one", value[:1], value[1:])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "x.onnx")
    (tmp_path / "test_data_set_0").mkdir()
    data = tmp_path / "test_data_set_0"
    onnx.save_tensor(numpy_helper.from_array(numbers, "x"), data / "input_0.pb")
    onnx.save_tensor(numpy_helper.from_array(numbers, "y"), data / "output_0.pb")
    done = run(programs / "onnx_loss", tmp_path / "x.onnx")
    assert done.returncode == 0, done.stderr
    printed = [float(x) for x in done.stdout.partition(" = ")[2].partition(",")[0].split()]
    np.testing.assert_allclose(printed, numbers.astype(np.float64), rtol=1e-5)
    moved = numbers.copy()
    moved[7] += 16 * place  # the largest is 8, whose last place is 8 times `place`
    onnx.save_tensor(numpy_helper.from_array(moved, "y"), data / "output_0.pb")
    assert run(programs / "onnx_loss", tmp_path / "x.onnx").returncode == 1


def test_a_joint_file_has_test_data_of_its_own(programs: Path, exported: Any, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
        m (float[b, t, 7] x) => (float[b, t, 7] y) { y = Identity(x) }"""
    model, files = tmp_path / "model.onnx", copy_of(exported("ctc_loss"), tmp_path)
    onnx.save(onnx.parser.parse_model(text), model)
    joint = files.folder / "joint.onnx"  # beside the loss and its test data
    attach(model, files.loss_onnx, joint, inputs={"log_probs": "y"})
    check_report(run(programs / "onnx_loss", joint), files.folder / "joint_onnx_test_data_set_0")
    check_report(run(programs / "onnx_loss", files.loss_onnx), files.data)


def test_the_second_output_counts_too(programs: Path, exported: Any, tmp_path: Path) -> None:
    files = copy_of(exported("PitWrapper"), tmp_path)
    change_output(files, lambda permutation: permutation[..., ::-1], 1)
    for done in both(programs, files):
        assert done.returncode == 1
        assert len(done.stdout.splitlines()) == 2


def test_equal_infinities_and_nans_are_no_difference(programs: Path, exported: Any, tmp_path: Path) -> None:
    files = copy_of(exported("truncate"), tmp_path)
    for kind in ("input", "output"):
        path = files.data / f"{kind}_0.pb"
        proto = onnx.TensorProto.FromString(path.read_bytes())
        array = numpy_helper.to_array(proto).copy()
        array[0, 0], array[1, 0] = np.nan, -np.inf
        path.write_bytes(numpy_helper.from_array(array, proto.name).SerializeToString())
    for done in both(programs, files):
        assert (done.returncode, "nan" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize("change", [lambda x: x.astype(np.float64), lambda x: x[None]])
def test_another_type_or_shape(programs: Path, exported: Any, tmp_path: Path, change: Any) -> None:
    files = copy_of(exported("l1_loss"), tmp_path)
    change_output(files, change)
    for done in both(programs, files):
        assert done.returncode == 2
        assert "loss: got another shape or type than the test data have" in done.stderr


def test_test_data_that_are_none(programs: Path, exported: Any, tmp_path: Path) -> None:
    files = copy_of(exported("l1_loss"), tmp_path)
    path = files.data / "input_1.pb"
    whole = path.read_bytes()
    negative = onnx.TensorProto(dims=[-1], data_type=TensorProto.FLOAT, raw_data=b"1234")
    for wrong in (
        whole[:-1],
        whole[:5],
        b"",
        b"\xff" * 30,
        b"no protobuf at all",
        negative.SerializeToString(),
    ):
        path.write_bytes(wrong)
        for done in both(programs, files):
            assert done.returncode == 2, done.stdout
            assert str(path) in done.stderr
    as_floats = helper.make_tensor("targets", TensorProto.FLOAT, [2], [1.0, 2.0])  # no raw data
    path.write_bytes(as_floats.SerializeToString())
    for done in both(programs, files):
        assert "got 0 bytes of raw data, expected 8" in done.stderr
    shutil.rmtree(files.data)
    for done in both(programs, files):
        assert done.returncode == 2
        assert "input_0.pb: there is no such file" in done.stderr


def test_files_that_are_none(programs: Path, exported: Any, tmp_path: Path) -> None:
    files = copy_of(exported("l1_loss"), tmp_path)
    for path in (files.loss_pt, files.loss_onnx):
        path.write_bytes(b"neither")
    for done in both(programs, files):
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr
    for path in (files.loss_pt, files.loss_onnx):
        path.unlink()
    for done in both(programs, files):
        assert done.returncode == 2
        assert "loss." in done.stderr


def test_a_library_that_is_none(programs: Path, exported: Any, tmp_path: Path) -> None:
    files, nowhere = exported("ctc_loss"), tmp_path / "nowhere.so"
    done = run(programs / "torch_loss", files.custom_pt, files.data, nowhere)
    assert (done.returncode, str(nowhere) in done.stderr) == (2, True)
    done = run(programs / "onnx_loss", files.loss_onnx, nowhere)
    assert (done.returncode, str(nowhere) in done.stderr) == (2, True)


def test_what_is_wrong_in_the_data_is_named(
    programs: Path, exported: Any, libraries: Any, tmp_path: Path
) -> None:
    """What the operator refuses comes out of the interpreter as a message, by name."""
    files = copy_of(exported("ctc_loss"), tmp_path)
    path = files.data / "input_1.pb"
    proto = onnx.TensorProto.FromString(path.read_bytes())
    wrong = numpy_helper.from_array(np.full_like(numpy_helper.to_array(proto), 10**6), proto.name)
    path.write_bytes(wrong.SerializeToString())
    done = run(programs / "torch_loss", files.custom_pt, files.data, libraries[1])
    assert (done.returncode, "targets: got 1000000 for item 0" in done.stderr) == (2, True), done.stderr
    done = run(programs / "onnx_loss", files.loss_onnx, libraries[0])
    assert (done.returncode, "targets: got 1000000 for item 0" in done.stderr) == (2, True), done.stderr


def test_a_package_that_is_none(programs: Path, exported: Any, tmp_path: Path) -> None:
    files, package = exported("l1_loss"), tmp_path / "package.pt2"
    done = run(programs / "aoti_loss", package, files.data)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(package) in done.stderr
    package.write_bytes(b"neither")
    done = run(programs / "aoti_loss", package, files.data)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_how_they_are_used(programs: Path) -> None:
    assert run(programs / "torch_loss").stderr.startswith("usage: torch_loss FILE.pt TEST_DATA [LIBRARY]")
    assert run(programs / "aoti_loss").stderr.startswith("usage: aoti_loss PACKAGE.pt2 TEST_DATA [--write")
    assert run(programs / "onnx_loss").stderr.startswith("usage: onnx_loss GRAPH.onnx [LIBRARY] [TEST_DATA]")


# What is built


@pytest.mark.skipif(sys.platform == "win32", reason="the Python of this test is a shell script")
@pytest.mark.parametrize(("option", "said"), [("ON", "libtorch cannot be used"), ("OFF", None)])
def test_a_torch_that_stops_cmake(tmp_path: Path, option: str, said: str | None) -> None:
    """As one for CUDA does where the toolkit is missing: `onnx_loss` is configured all the same."""
    cmake = building.which("cmake") or pytest.skip("this machine has no cmake")
    reason = "Your installed Caffe2 version uses CUDA but I cannot find the CUDA libraries."
    (tmp_path / "Torch").mkdir()
    (tmp_path / "Torch" / "TorchConfig.cmake").write_text(f'message(FATAL_ERROR "{reason}")\n')
    (tmp_path / "libonnxruntime.so.1.30.0").touch()
    python = tmp_path / "python"  # whose torch and onnxruntime are in the folder
    python.write_text(f"#!/bin/sh\necho {tmp_path}\n")
    python.chmod(0o755)
    build = tmp_path / "build"
    options = {"PYTHON": python, "ONNXRUNTIME_INCLUDE": tmp_path, "WITH_TORCH": option}
    words = [f"-D{name}={value}" for name, value in options.items()]
    done = subprocess.run([cmake, "-S", EXAMPLES, "-B", build, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (said or "") in done.stdout
    assert ("Your installed Caffe2" in done.stdout) == (option == "ON")
    done = subprocess.run([cmake, "--build", build, "--target", "help"], capture_output=True, text=True)
    assert re.findall(r"\b(\w+_loss)\b(?![./])", done.stdout) == ["onnx_loss"], done.stdout


# What the documentation says


def test_programs_are_short() -> None:
    for program in EXAMPLES.glob("*.cpp"):
        assert len(program.read_text().splitlines()) < 100


def test_the_readme_compiles(programs: Path) -> None:
    """Its lines of C++, with the inputs that they name, and the flags of the program that was built."""
    example, registration = re.findall(
        r"```cpp\n(.*?)```", (ROOT / "docs" / "running.md").read_text(), re.DOTALL
    )
    assert re.match(r"options\.RegisterCustomOpsLibrary\(", registration)
    assert "options.RegisterCustomOpsLibrary(" in (EXAMPLES / "onnx_loss.cpp").read_text()
    include, _, lines = example.partition("\n\n")
    names = re.search(r"forward\({(.*?)}\)", lines)
    assert names is not None
    source = (
        f"{include}\nvoid readme(torch::Tensor {names[1].replace(', ', ', torch::Tensor ')}) {{\n{lines}}}\n"
    )

    def compile_in(folder: Path) -> None:
        (folder / "readme.cpp").write_text(source)
        folders = [f"-I{path}" for path in torch.utils.cpp_extension.include_paths()]
        command = ["c++", "-std=c++20", "-fsyntax-only", *folders, str(folder / "readme.cpp")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    kept("readme", hashlib.sha256(source.encode()).hexdigest(), compile_in)
