"""ONNX Runtime's door to the CUDA kernels, without a GPU.

The kernels are emulated on the CPU. One door registers them for CUDA beside those for the CPU, as users
have it: a session on the CPU must not notice. Another registers them for the CPU instead, so that what
the door does for CUDA runs.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from building import CSRC, core_objects, kept, plain, shared_library
from cuda_cases import emulated_kernels, gpp, missing
from onnx import TensorProto, helper

import exportable_losses as el

pytestmark = pytest.mark.skipif(bool(missing("g++")), reason=missing("g++"))
Arrays = dict[str, np.ndarray]
REAL = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE}
OPERATORS = ("CTCLoss", "CTCLossGrad", "TransducerLoss", "TransducerLossGrad")


@pytest.fixture(scope="session")
def doors() -> dict[str, str]:
    """Libraries by name: alone; with the CUDA kernels beside it; with them in the CPU's place."""

    def build(folder: Path) -> None:
        for name in ("alone", "beside", "instead"):
            (folder / name).mkdir()
        for name in ("alone", "beside"):
            shutil.copy(shared_library(plain(), "exportable_losses"), folder / name)
        for name in ("beside", "instead"):
            shutil.copy(emulated_kernels(), folder / name / "libexportable_losses_cuda.so")
        flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread"]
        sources = [CSRC / "ort_door.cc", *core_objects()]
        settings = {"CUDA_PROVIDER": "CPUExecutionProvider", "VERSION": el.__version__}
        define = [f'-DEXPORTABLE_LOSSES_{name}="{value}"' for name, value in settings.items()]
        gpp(*flags, *define, *sources, "-o", folder / "instead" / "libexportable_losses.so", "-ldl")

    folder = kept("cuda_doors", "all", build)
    return {
        name: shared_library(folder / name, "exportable_losses") for name in ("alone", "beside", "instead")
    }


def session(op: str, dtype: Any, library: str) -> Any:
    names = ["scores", "targets", "input_lengths", "target_lengths", "grad_costs"]
    outputs = ["costs", "grad"]
    if not op.endswith("Grad"):
        names, outputs = names[:-1], outputs[:-1]
    kinds = [REAL[dtype] if name in ("scores", "grad_costs") else TensorProto.INT64 for name in names]
    graph = helper.make_graph(
        [helper.make_node(op, names, outputs, domain="exportable_losses", blank_index=0)],
        "one",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(names, kinds, strict=True)],
        [helper.make_tensor_value_info(name, REAL[dtype], None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("exportable_losses", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def batch(op: str, dtype: Any, sizes: tuple[int, int, int, int], seed: int = 0) -> Arrays:
    items, frames, labels, classes = sizes
    rng = np.random.default_rng(seed)
    shape = (items, frames, classes) if op.startswith("CTC") else (items, frames, labels + 1, classes)
    scores = rng.normal(size=shape)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    feed = {
        "scores": scores.astype(dtype),
        "targets": rng.integers(1, classes, (items, labels)),
        "input_lengths": rng.integers(1, frames + 1, items),
        "target_lengths": rng.integers(0, labels + 1, items),
    }
    if op.endswith("Grad"):
        feed["grad_costs"] = rng.normal(size=items).astype(dtype)
    return feed


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("sizes", [(3, 9, 4, 6), (1, 1, 0, 2), (2, 20, 7, 40), (2, 3, 6, 5), (0, 4, 2, 5)])
def test_the_kernels_for_cuda_compute_the_same(
    doors: dict[str, str], op: str, dtype: Any, sizes: Any
) -> None:
    feed = batch(op, dtype, sizes)
    tolerance = 2e-5 if dtype is np.float32 else 1e-11
    expected = session(op, dtype, doors["alone"]).run(None, feed)
    got = session(op, dtype, doors["instead"]).run(None, feed)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("dtype", REAL)
def test_a_session_on_the_cpu_does_not_notice_them(doors: dict[str, str], op: str, dtype: Any) -> None:
    feed = batch(op, dtype, (3, 9, 4, 6))
    expected = session(op, dtype, doors["alone"]).run(None, feed)
    for got, other in zip(session(op, dtype, doors["beside"]).run(None, feed), expected, strict=True):
        np.testing.assert_array_equal(got, other)
    feed["target_lengths"][0] = 99  # which kernels on a GPU would take for the nearer end
    with pytest.raises(Exception, match="target_lengths: got 99 for item 0"):
        session(op, dtype, doors["beside"]).run(None, feed)


@pytest.mark.parametrize("op", OPERATORS)
def test_what_the_host_can_see_is_checked(doors: dict[str, str], op: str) -> None:
    feed = batch(op, np.float32, (3, 9, 4, 6))
    ours = session(op, np.float32, doors["instead"])
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT.*input_lengths: got shape \[2\], expected \[3\]"):
        ours.run(None, {**feed, "input_lengths": feed["input_lengths"][:2]})
    with pytest.raises(Exception, match="classes: got 0"):  # what the kernels' own door refuses
        ours.run(None, {**feed, "scores": feed["scores"][..., :0]})
    feed["target_lengths"][0] = 99
    ours.run(None, feed)  # what it cannot see harms nobody


def test_a_library_that_does_not_load_is_as_none(
    doors: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a broken file nor one of another version keeps the kernels for the CPU from working."""
    feed = batch("CTCLoss", np.float32, (3, 9, 4, 6))
    expected = session("CTCLoss", np.float32, doors["alone"]).run(None, feed)
    for name in ("broken", "other"):
        folder = tmp_path / name
        shutil.copytree(Path(doors["alone"]).parent, folder)
        beside = folder / "libexportable_losses_cuda.so"
        if name == "broken":
            beside.write_bytes(b"no library")
        else:
            shutil.copy(doors["alone"], beside)
        library = shared_library(folder, "exportable_losses")
        got = session("CTCLoss", np.float32, library).run(None, feed)
        np.testing.assert_array_equal(got, expected)
    # where they take the CPU's place, there is nothing left
    monkeypatch.setenv("EXPORTABLE_LOSSES_CUDA_LIBRARY", "")
    folder = tmp_path / "nothing"
    shutil.copytree(Path(doors["instead"]).parent, folder)
    with pytest.raises(Exception, match="CTCLoss"):
        session("CTCLoss", np.float32, shared_library(folder, "exportable_losses"))
