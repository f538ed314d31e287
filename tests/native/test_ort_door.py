"""ONNX Runtime's door to the kernels: the numbers of the portable bodies, and no way to crash it."""

import ctypes
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from building import cmake
from onnx import TensorProto, helper
from ort_header import official_header

import exportable_losses as el
from exportable_losses.export import to_onnx
from exportable_losses.export.functions import function_protos
from exportable_losses.library import library_path
from exportable_losses.ops.transducer import transducer_costs
from exportable_losses.runtime import LossSession

ROOT = Path(__file__).parents[2]
Arrays = dict[str, np.ndarray]
REAL = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE}
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}
SCORES = {"CTCLoss": "log_probs", "TransducerLoss": "logits"}
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
both_losses = pytest.mark.parametrize("loss", ["CTCLoss", "TransducerLoss"])


# The library


def build(folder: Path, flags: str = "") -> str:
    """The path of the library, built in `folder`."""
    cmake(folder, f"-DCMAKE_CXX_FLAGS={flags} -Wall -Wextra -Werror", targets=("exportable_losses",))
    (path,) = (
        str(p) for p in folder.iterdir() if p.name.endswith(("losses.so", "losses.dylib", "losses.dll"))
    )
    return path


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The library that every session here finds, built with our header."""
    path = build(tmp_path_factory.mktemp("build"), "-DEXPORTABLE_LOSSES_OWN_ORT_ABI")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPORTABLE_LOSSES_LIBRARY", path)
        yield path


# Models: one operator with absolute lengths, or a file of the exporter


def one_operator(
    op: str, dtype: Any = np.float32, blank: int | None = 0, functions: Any = (), grad_dtype: Any = None
) -> bytes:
    """A model of one node of our domain; its inputs have no shapes, so that any shape gets to the node."""
    loss = op.removesuffix("Grad")
    inputs = {SCORES[loss]: REAL[dtype], **dict.fromkeys(LENGTHS, TensorProto.INT64)}
    outputs = ["costs"]
    if op.endswith("Grad"):
        inputs["grad_costs"] = REAL[grad_dtype or dtype]
        outputs.append("grad")
    attributes = {} if blank is None else {"blank_index": blank}
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), outputs, domain="exportable_losses", **attributes)],
        "one",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, REAL[dtype], None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("exportable_losses", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)
    return model.SerializeToString()


def with_body(loss: str, dtype: Any, blank: int = 0) -> bytes:
    return one_operator(loss, dtype, blank, function_protos(loss, REAL[dtype]))


def session(model: bytes | str, library: str | None, threads: int = 2, **options: Any) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = threads
    for name, value in options.items():
        setattr(settings, name, value)
    if library is not None:
        settings.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def computed_by(model: bytes | str, library: str | None, feed: Arrays, folder: Path) -> set[str]:
    """The names of the operators that ONNX Runtime says it ran."""
    profiled = session(model, library, enable_profiling=True, profile_file_prefix=str(folder / "profile"))
    profiled.run(None, feed)
    events = json.loads(Path(profiled.end_profiling()).read_text())
    return {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}


# Batches

LENGTHS = ("targets", "input_lengths", "target_lengths")


def batch(
    loss: str,
    dtype: Any = np.float32,
    sizes: tuple[int, int, int, int] = (3, 7, 4, 5),
    seed: int = 0,
    blank: int = 0,
    scale: float = 1.0,
) -> Arrays:
    """Scores, targets and absolute lengths of sizes (B, T, labels, classes); one label often repeats."""
    items, frames, labels, classes = sizes
    rng = np.random.default_rng(seed)
    shape = (items, frames, classes) if loss == "CTCLoss" else (items, frames, labels + 1, classes)
    scores = scale * rng.normal(size=shape)
    if loss == "CTCLoss":
        scores = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    targets = rng.integers(0, max(classes - 1, 1), (items, labels))
    targets += targets >= blank
    return {
        SCORES[loss]: scores.astype(dtype),
        "targets": targets,
        "input_lengths": rng.integers(1, frames + 1, items),
        "target_lengths": rng.integers(0, labels + 1, items),
    }


def empty_targets(feed: Arrays) -> None:
    feed["target_lengths"][:] = 0


def no_room_for_labels(feed: Arrays) -> None:
    scores = next(iter(feed))
    feed["targets"] = feed["targets"][:, :0]
    feed["target_lengths"][:] = 0
    if scores == "logits":
        feed[scores] = feed[scores][:, :, :1]


def one_frame(feed: Arrays) -> None:
    scores = next(iter(feed))
    feed[scores] = np.ascontiguousarray(feed[scores][:, :1])
    feed["input_lengths"][:] = 1


def repeated_labels(feed: Arrays) -> None:
    feed["targets"][:] = 1
    feed["target_lengths"][:] = feed["targets"].shape[1]
    feed["input_lengths"][:] = feed[next(iter(feed))].shape[1]


def impossible(feed: Arrays) -> None:
    """More labels than frames (CTC), or a label that never is (the transducer)."""
    repeated_labels(feed)
    scores = next(iter(feed))
    if scores == "log_probs":
        feed["input_lengths"][:] = 2
    else:
        feed[scores][..., 1] = -np.inf


def some_never(feed: Arrays) -> None:
    scores = feed[next(iter(feed))]
    scores[np.random.default_rng(5).random(scores.shape) < 0.2] = -np.inf
    scores[..., 0] = -1.0  # the blank stays possible, so that no row is empty


def huge(feed: Arrays) -> None:
    scores = feed[next(iter(feed))]
    scores[...] = np.where(np.random.default_rng(6).random(scores.shape) < 0.5, -1e4, 1e4)


def garbage_behind(feed: Arrays) -> None:
    """What lies behind an item's frames and labels is not read."""
    scores = feed[next(iter(feed))]
    for b, (frames, labels) in enumerate(zip(feed["input_lengths"], feed["target_lengths"], strict=True)):
        scores[b, frames:] = np.nan
        if scores.ndim == 4:
            scores[b, :, labels + 1 :] = np.nan
        feed["targets"][b, labels:] = [-7, 99, 2**60, -(2**60)][: feed["targets"].shape[1] - labels]


HARD: list[Callable[[Arrays], None]] = [
    empty_targets,
    no_room_for_labels,
    one_frame,
    repeated_labels,
    impossible,
    some_never,
    huge,
    garbage_behind,
]


def assert_close(got: np.ndarray, expected: np.ndarray, dtype: Any, times: float = 1.0) -> None:
    assert got.dtype == dtype
    tolerance = times * TOLERANCE[dtype]
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


# The same numbers as the portable body


@both_losses
@both_dtypes
@pytest.mark.parametrize("sizes", [(1, 1, 0, 2), (1, 30, 7, 40), (5, 3, 9, 4), (4, 11, 1, 65), (9, 17, 6, 3)])
@pytest.mark.parametrize("blank", ["first", "middle", "last"])
def test_random_shapes(library: str, loss: str, dtype: Any, sizes: Any, blank: str) -> None:
    index = {"first": 0, "middle": sizes[3] // 2, "last": sizes[3] - 1}[blank]
    model = with_body(loss, dtype, index)
    ours, portable = session(model, library), session(model, None)
    for seed in range(3):
        feed = batch(loss, dtype, sizes, seed, index, scale=3.0)
        assert_close(ours.run(None, feed)[0], portable.run(None, feed)[0], dtype)


@both_losses
@both_dtypes
@pytest.mark.parametrize("case", HARD, ids=lambda case: case.__name__)
def test_hard_cases(library: str, loss: str, dtype: Any, case: Callable[[Arrays], None]) -> None:
    feed = batch(loss, dtype, seed=1)
    case(feed)
    model = with_body(loss, dtype)
    costs = session(model, library).run(None, feed)[0]
    assert_close(costs, session(model, None).run(None, feed)[0], dtype)
    assert not np.isnan(costs).any()
    if case is impossible:
        assert np.isposinf(costs).all()


@both_losses
def test_no_items(library: str, loss: str) -> None:
    feed = batch(loss, sizes=(0, 4, 2, 5))
    assert session(with_body(loss, np.float32), library).run(None, feed)[0].shape == (0,)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Any, int], str]:
    """The path of an exported row, by name, dtype and blank."""
    folder = tmp_path_factory.mktemp("exported")
    rows: dict[str, Any] = {
        "ctc_loss": lambda blank: el.CTCLoss(blank, "none", zero_infinity=False),
        "ctc_loss_kd": lambda blank: el.CTCDistillationLoss(blank),
        "transducer_loss": lambda blank: el.TransducerLoss(blank, "none"),
        "TransducerPosterior": el.TransducerPosterior,
        "TransducerAlign": el.TransducerAlign,
    }

    def path(row: str, dtype: Any, blank: int) -> str:
        file = folder / f"{row}_{np.dtype(dtype)}_{blank}" / f"{row}.onnx"
        if not file.exists():
            file.parent.mkdir()
            example = {
                k: torch.from_numpy(v) for k, v in relative(row, dtype, (3, 7, 4, 5), 0, blank).items()
            }
            to_onnx(rows[row](blank), file, example)
        return str(file)

    return path


def relative(row: str, dtype: Any, sizes: Any, seed: int, blank: int) -> Arrays:
    """The inputs of a row of the catalog, lengths relative."""
    loss = "TransducerLoss" if row.lower().startswith("transducer") else "CTCLoss"
    feed = batch(loss, dtype, sizes, seed, blank)
    scores = feed[SCORES[loss]]
    input_lens = (feed["input_lengths"] / scores.shape[1]).astype(dtype)
    if row == "ctc_loss_kd":
        teacher = np.random.default_rng(seed + 99).random(scores.shape).astype(dtype)
        return {"log_probs": scores, "targets": teacher, "input_lens": input_lens}
    target_lens = (feed["target_lengths"] / max(feed["targets"].shape[1], 1)).astype(dtype)
    return {
        SCORES[loss]: scores,
        "targets": feed["targets"],
        "input_lens": input_lens,
        "target_lens": target_lens,
    }


TRANSDUCERS = ("transducer_loss", "TransducerPosterior", "TransducerAlign")


@pytest.mark.parametrize("row", ["ctc_loss", "ctc_loss_kd", *TRANSDUCERS])
@both_dtypes
def test_exported_files(library: str, exported: Any, row: str, dtype: Any) -> None:
    """One file, two speeds, at any size, with the cases that relative lengths can say."""
    blank = 0 if dtype == np.float32 else 3
    path = exported(row, dtype, blank)
    with_library, without = LossSession(path, native=True), LossSession(path, native=False)
    assert (with_library.library, without.library) == (library, None)
    for seed, sizes in enumerate([(1, 1, 1, 5), (3, 7, 4, 5), (2, 40, 9, 4), (6, 13, 5, 50), (2, 3, 7, 6)]):
        feed = relative(row, dtype, sizes, seed, blank)
        for _ in range(2):
            expected = without(**feed)
            for name, got in with_library(**feed).items():
                if got.dtype == np.int64:
                    np.testing.assert_array_equal(got, expected[name])
                else:
                    assert_close(got, expected[name], dtype, times=2)
            feed[next(iter(feed))][..., -1] = -np.inf


# Gradients, which have no body


@both_losses
@both_dtypes
@pytest.mark.parametrize("blank", [0, 2, 4])
def test_gradients_are_torchs(library: str, loss: str, dtype: Any, blank: int) -> None:
    """`sum(grad_costs * costs)`, differentiated by autograd in float64; infinite costs count nothing."""
    ours = session(one_operator(f"{loss}Grad", dtype, blank), library)
    for seed in range(6):
        feed = batch(loss, dtype, (5, 9, 6, 5), seed, blank)
        feed["grad_costs"] = np.random.default_rng(seed).normal(size=5).astype(dtype)
        costs, grad = ours.run(None, feed)
        expected_costs, expected = by_autograd(loss, feed, blank)
        assert_close(costs, expected_costs, dtype)
        assert_close(grad, expected, dtype, times=4)
        assert grad.shape == feed[SCORES[loss]].shape


def by_autograd(loss: str, feed: Arrays, blank: int) -> tuple[np.ndarray, np.ndarray]:
    scores, *lengths, weights = (torch.from_numpy(array) for array in feed.values())
    scores = scores.double().requires_grad_()
    if loss == "CTCLoss":
        costs = torch.nn.functional.ctc_loss(
            scores.transpose(0, 1), *lengths, blank=blank, reduction="none", zero_infinity=False
        )
        finite = torch.nn.functional.ctc_loss(
            scores.transpose(0, 1), *lengths, blank=blank, reduction="none", zero_infinity=True
        )
    else:
        costs = finite = transducer_costs(scores, *lengths, blank)
    (grad,) = torch.autograd.grad((finite * weights).sum(), scores)
    return costs.detach().numpy(), grad.numpy()


@both_losses
@both_dtypes
@pytest.mark.parametrize("case", HARD, ids=lambda case: case.__name__)
def test_gradients_of_hard_cases(library: str, loss: str, dtype: Any, case: Callable[[Arrays], None]) -> None:
    """Finite, zero behind each item's lengths and for infinite costs, linear in `grad_costs`."""
    feed = batch(loss, dtype, seed=1)
    case(feed)
    ours = session(one_operator(f"{loss}Grad", dtype), library)
    costs, grad = ours.run(None, {**feed, "grad_costs": np.ones(3, dtype)})
    if case is not huge or loss == "TransducerLoss":  # exp(1e4) is what torch's convention asks for there
        assert np.isfinite(grad).all()
    for b, (frames, labels) in enumerate(zip(feed["input_lengths"], feed["target_lengths"], strict=True)):
        assert not grad[b, frames:].any()
        if loss == "TransducerLoss":
            assert not grad[b, :, labels + 1 :].any()
    assert not grad[np.isinf(costs)].any()
    body = session(with_body(loss, dtype), None).run(None, feed)[0]
    assert_close(costs, body, dtype)
    if np.isfinite(grad).all():
        weights = np.array([0.0, -2.0, 0.5], dtype)
        weighted = ours.run(None, {**feed, "grad_costs": weights})[1]
        assert_close(weighted, grad * weights.reshape(-1, *(1,) * (grad.ndim - 1)), dtype)


# The kernel runs, and not the body


@both_losses
@both_dtypes
def test_the_kernel_wins_over_the_body(library: str, tmp_path: Path, loss: str, dtype: Any) -> None:
    model, feed = with_body(loss, dtype), batch(loss, dtype)
    without = computed_by(model, None, feed, tmp_path)
    assert "Scan" in without
    assert loss not in without
    assert computed_by(model, library, feed, tmp_path) == {loss}


@both_losses
def test_a_wrong_body_is_not_asked(library: str, loss: str) -> None:
    wrong = helper.make_function(
        "exportable_losses",
        loss,
        [SCORES[loss], *LENGTHS],
        ["costs"],
        [helper.make_node("Cast", ["input_lengths"], ["costs"], to=TensorProto.FLOAT)],
        [helper.make_opsetid("", 18)],
        ["blank_index"],
    )
    model, feed = one_operator(loss, functions=[wrong]), batch(loss)
    assert (session(model, None).run(None, feed)[0] == feed["input_lengths"]).all()
    expected = session(with_body(loss, np.float32), None).run(None, feed)[0]
    assert_close(session(model, library).run(None, feed)[0], expected, np.float32)


def test_an_exported_file_gets_the_kernel(library: str, exported: Any, tmp_path: Path) -> None:
    names = {"ctc_loss": "CTCLoss", "ctc_loss_kd": "CTCLoss", "transducer_loss": "TransducerLoss"}
    for row, name in names.items():
        feed = relative(row, np.float32, (2, 9, 3, 5), 0, 0)
        ran = computed_by(exported(row, np.float32, 0), library, feed, tmp_path)
        assert name in ran
        assert "Scan" not in ran


def test_both_types_in_one_graph(library: str) -> None:
    double, feed = batch("CTCLoss", np.float64, seed=3), batch("CTCLoss", np.float32, seed=3)
    nodes = [
        helper.make_node("CTCLoss", [scores, *LENGTHS], [out], domain="exportable_losses", blank_index=0)
        for scores, out in (("single", "a"), ("double", "b"))
    ]
    kinds = {
        "single": TensorProto.FLOAT,
        "double": TensorProto.DOUBLE,
        **dict.fromkeys(LENGTHS, TensorProto.INT64),
    }
    graph = helper.make_graph(
        nodes,
        "both",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [
            helper.make_tensor_value_info(*out, None)
            for out in (("a", TensorProto.FLOAT), ("b", TensorProto.DOUBLE))
        ],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("exportable_losses", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    lengths = {name: feed[name] for name in LENGTHS}
    a, b = session(model, library).run(
        None, {"single": feed["log_probs"], "double": double["log_probs"], **lengths}
    )
    assert_close(a, b, np.float32)
    assert b.dtype == np.float64


# What does not fit


@both_losses
@pytest.mark.parametrize("grad", ["", "Grad"])
@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("scores", lambda a: a[0], r"got shape \[7, .*5\], expected \[B, T"),
        ("scores", lambda a: a[..., None], "expected .B, T"),
        ("scores", lambda a: a[:2], "targets: got shape .3, 4., expected .2, 4., for"),
        ("targets", lambda a: a[:, 0], r"got shape \[3\], expected \[B, [SU]\]"),
        ("targets", lambda a: a[..., None], r"got shape \[3, 4, 1\], expected \[B, [SU]\]"),
        ("targets", lambda a: a[:2], r"got shape \[2, 4\], expected \[3, 4\]"),
        ("input_lengths", lambda a: a[:2], r"got shape \[2\], expected \[3\]"),
        ("input_lengths", lambda a: a[:, None], r"got shape \[3, 1\], expected \[3\]"),
        ("input_lengths", lambda a: a.sum(), r"got shape \[\], expected \[3\]"),
        ("target_lengths", lambda a: np.append(a, 0), r"got shape \[4\], expected \[3\]"),
        ("target_lengths", lambda a: a[None], r"got shape \[1, 3\], expected \[3\]"),
        ("input_lengths", lambda a: np.array([1, 8, 1]), r"got 8 for item 1, expected a number in \[0, 7\]"),
        (
            "input_lengths",
            lambda a: np.array([1, 1, -1]),
            r"got -1 for item 2, expected a number in \[0, 7\]",
        ),
        ("target_lengths", lambda a: np.array([5, 1, 1]), r"got 5 for item 0, expected a number in \[0, 4\]"),
        ("target_lengths", lambda a: np.array([0, -(2**62), 1]), "for item 1, expected a number in"),
        ("targets", lambda a: np.full_like(a, 5), r"got 5 for item 0, expected a number in \[0, 4\]"),
        ("targets", lambda a: np.full_like(a, -1), r"got -1 for item 0, expected a number in \[0, 4\]"),
        ("targets", lambda a: np.full_like(a, 2**40), "for item 0, expected a number in"),
    ],
)
def test_what_does_not_fit_is_named(
    library: str, loss: str, grad: str, name: str, change: Callable[[np.ndarray], Any], says: str
) -> None:
    feed = batch(loss)
    feed["input_lengths"][:], feed["target_lengths"][:] = 7, 4
    right = dict(feed)
    name = SCORES[loss] if name == "scores" else name
    feed[name] = np.ascontiguousarray(change(feed[name])) if feed[name].ndim else feed[name]
    if name == "input_lengths" and "got shape \\[\\]" in says:
        feed[name] = np.array(7)
    weights = {"grad_costs": np.ones(3, np.float32)} if grad else {}
    ours = session(one_operator(loss + grad), library)
    message = says if says.startswith("targets:") else f"{name}: .*{says}"
    with pytest.raises(Exception, match=f"INVALID_ARGUMENT.*{message}"):
        ours.run(None, {**feed, **weights})
    assert np.isfinite(ours.run(None, {**right, **weights})[-1]).all()  # the session is as good as new


@both_losses
def test_grad_costs_that_do_not_fit_are_named(library: str, loss: str) -> None:
    ours = session(one_operator(f"{loss}Grad"), library)
    for shape in ((2,), (3, 1), ()):
        with pytest.raises(Exception, match=r"INVALID_ARGUMENT.*grad_costs: got shape .*, expected \[3\]"):
            ours.run(None, {**batch(loss), "grad_costs": np.ones(shape, np.float32)})


def test_logits_agree_with_targets(library: str) -> None:
    """A transducer's logits have one more place than there are labels."""
    ours, feed = session(one_operator("TransducerLoss"), library), batch("TransducerLoss")
    feed["logits"] = feed["logits"][:, :, :4].copy()
    with pytest.raises(
        Exception, match=r"targets: got shape \[3, 4\], expected \[3, 3\], for logits of shape"
    ):
        ours.run(None, feed)
    feed["logits"] = feed["logits"][:, :, :0].copy()
    with pytest.raises(
        Exception, match=r"logits: got shape \[3, 7, 0, 5\], expected .* with U\+1 at least 1"
    ):
        ours.run(None, feed)


@both_losses
@pytest.mark.parametrize("blank", [5, -1, 2**62])
def test_a_blank_out_of_range_is_named(library: str, loss: str, blank: int) -> None:
    with pytest.raises(Exception, match=rf"INVALID_ARGUMENT.*blank_index: got {blank}, expected .*\[0, 4\]"):
        session(one_operator(loss, blank=blank), library).run(None, batch(loss))


@both_losses
def test_no_classes(library: str, loss: str) -> None:
    feed = batch(loss)
    feed[SCORES[loss]] = feed[SCORES[loss]][..., :0].copy()
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT.*blank_index"):
        session(one_operator(loss), library).run(None, feed)


@both_losses
@pytest.mark.parametrize("grad", ["", "Grad"])
def test_a_missing_blank_is_named(library: str, loss: str, grad: str) -> None:
    with pytest.raises(Exception, match="blank_index: got no such attribute, expected an integer"):
        session(one_operator(loss + grad, blank=None), library)


@both_losses
def test_mixed_types_do_not_load(library: str, loss: str) -> None:
    with pytest.raises(Exception, match=f"{loss}Grad"):
        session(one_operator(f"{loss}Grad", np.float32, grad_dtype=np.float64), library)


# Threads


@both_losses
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("items", [1, 8])
def test_any_number_of_threads(library: str, loss: str, threads: int, items: int) -> None:
    feed = batch(loss, sizes=(items, 60, 12, 30))
    feed["grad_costs"] = np.linspace(1, 2, items, dtype=np.float32)
    model = one_operator(f"{loss}Grad")
    for got, expected in zip(
        session(model, library, threads).run(None, feed),
        session(model, library, 1).run(None, feed),
        strict=True,
    ):
        np.testing.assert_array_equal(got, expected)


def test_the_sessions_own_threads_do_the_work(library: str) -> None:
    """A session of one thread starts none; one of many has them before it runs, and starts no more."""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("no /proc to count threads in")
    feed = batch("TransducerLoss", sizes=(4, 300, 20, 50))
    count = lambda: len(os.listdir("/proc/self/task"))  # noqa: E731
    for threads in (1, 3):
        ours = session(one_operator("TransducerLoss"), library, threads)
        before, most, done = count(), 0, threading.Event()

        def watch(done: threading.Event = done) -> None:
            nonlocal most
            while not done.is_set():
                most = max(most, count())

        watcher = threading.Thread(target=watch)
        watcher.start()
        for _ in range(30):
            ours.run(None, feed)
        done.set()
        watcher.join()
        assert most <= before + 1  # the watcher


def test_two_threads_at_once(library: str) -> None:
    """Each with a session of its own, and both with one; four operators, sizes that differ."""
    models = {op: one_operator(op) for op in ("CTCLossGrad", "TransducerLossGrad")}
    shared = {op: session(model, library) for op, model in models.items()}
    feeds = {
        (op, seed): {
            **batch(op.removesuffix("Grad"), sizes=(3, 20 + seed, 5, 11), seed=seed),
            "grad_costs": np.ones(3, np.float32),
        }
        for op, seed in itertools.product(models, range(6))
    }
    expected = {key: session(models[key[0]], library, 1).run(None, feed) for key, feed in feeds.items()}
    failures: list[BaseException] = []

    def work(own: bool) -> None:
        try:
            sessions = {op: session(model, library) for op, model in models.items()} if own else shared
            for _ in range(20):
                for key, feed in feeds.items():
                    for got, want in zip(sessions[key[0]].run(None, feed), expected[key], strict=True):
                        np.testing.assert_array_equal(got, want)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in (True, True, False, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_no_memory_is_an_error_too(library: str) -> None:
    """What a thread of the pool throws comes back as a status, and the process lives."""
    if not sys.platform.startswith("linux"):
        pytest.skip("limits memory as Linux does")
    code = f"""
import numpy as np, onnxruntime, resource
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
options.log_severity_level = 4
options.register_custom_ops_library({library!r})
model, providers = {one_operator("CTCLoss")!r}, ["CPUExecutionProvider"]
session = onnxruntime.InferenceSession(model, options, providers=providers)
labels = 8_000_000
small = lambda n: dict(log_probs=np.zeros((4, 1, 3), np.float32), targets=np.ones((4, n), np.int64),
                       input_lengths=np.ones(4, np.int64), target_lengths=np.full(4, n))
big = small(labels)
session.run(None, small(1))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20), -1))
try:
    session.run(None, big)
    print("no error")
except Exception as error:
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    print("error:", error)
print("then", abs(session.run(None, small(1))[0]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bad_alloc" in done.stdout
    assert "then [0. 0. 0. 0.]" in done.stdout


# The host, and the runtime's own door


def test_either_header_makes_the_same_library(library: str, tmp_path: Path) -> None:
    if official_header() is None:
        pytest.skip("onnxruntime_c_api.h is not here (Debian trixie: libonnxruntime-dev; set CPATH)")
    theirs = build(tmp_path)
    for loss, dtype, case in itertools.product(SCORES, REAL, [lambda _feed: None, *HARD]):
        feed = batch(loss, dtype, seed=4)
        case(feed)
        feed["grad_costs"] = np.ones(3, dtype)
        model = one_operator(f"{loss}Grad", dtype)
        outputs = (session(model, path).run(None, feed) for path in (library, theirs))
        for ours, other in zip(*outputs, strict=True):
            np.testing.assert_array_equal(ours, other)
        refusals = []
        for path in (library, theirs):
            with pytest.raises(Exception, match=r"INVALID_ARGUMENT.*target_lengths") as refusal:
                session(model, path).run(None, {**feed, "target_lengths": np.ones(2, np.int64)})
            refusals.append(str(refusal.value))
        assert refusals[0] == refusals[1]


def test_an_old_host_is_told(library: str) -> None:
    """ONNX Runtime 1.16 has no version 17 of the interface; the status says so, and nothing crashes."""
    create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    get_version = ctypes.CFUNCTYPE(ctypes.c_void_p)
    said: list[bytes] = []
    asked: list[int] = []
    version = ctypes.create_string_buffer(b"1.16.3")
    entries = (ctypes.c_void_p * 1)()
    on_create = create(lambda _code, message: said.append(message) or 1)
    entries[0] = ctypes.cast(on_create, ctypes.c_void_p)
    on_api = get_api(lambda n: asked.append(n) or (ctypes.addressof(entries) if n <= 16 else None))
    on_version = get_version(lambda: ctypes.addressof(version))
    base = (ctypes.c_void_p * 2)(
        ctypes.cast(on_api, ctypes.c_void_p), ctypes.cast(on_version, ctypes.c_void_p)
    )
    register = ctypes.CDLL(library).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(base)) == 1
    assert said == [b"exportable_losses: got ONNX Runtime 1.16.3, expected 1.17 or later"]
    assert asked == [17, 1]


def test_native_takes_refuses_and_demands(
    library: str, exported: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = exported("ctc_loss", np.float32, 0)
    feed = relative("ctc_loss", np.float32, (2, 9, 3, 5), 0, 0)
    assert LossSession(path).library == library
    assert LossSession(path, native=False).library is None
    with pytest.raises(ValueError, match="native: got 'always', expected True, False or 'auto'"):
        LossSession(path, native="always")  # type: ignore[arg-type]

    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setenv("EXPORTABLE_LOSSES_LIBRARY", str(broken))
    with pytest.raises(RuntimeError, match=r"native: got True, but .*broken\.so does not load"):
        LossSession(path, native=True)
    with pytest.warns(RuntimeWarning, match=r"broken\.so does not load, so sessions run without it"):
        without = LossSession(path)
    assert without.library is None
    assert np.isfinite(without(**feed)["loss"]).all()

    monkeypatch.setenv("EXPORTABLE_LOSSES_LIBRARY", str(tmp_path / "nowhere.so"))
    with pytest.raises(FileNotFoundError, match=r"EXPORTABLE_LOSSES_LIBRARY: got .*nowhere\.so"):
        LossSession(path)
    LossSession(path, native=False)

    monkeypatch.delenv("EXPORTABLE_LOSSES_LIBRARY")
    monkeypatch.setattr(el, "__path__", [str(tmp_path)])
    assert library_path() is None
    assert LossSession(path).library is None
    with pytest.raises(RuntimeError, match="native: got True, but no operator library is installed"):
        LossSession(path, native=True)
    (tmp_path / "lib").mkdir()
    installed = tmp_path / "lib" / Path(library).name
    shutil.copy(library, installed)
    assert library_path() == str(installed)
    assert LossSession(path, native=True).library == str(installed)


def test_a_session_needs_no_torch(library: str, exported: Any, tmp_path: Path) -> None:
    code = (
        "import sys; from exportable_losses.runtime import LossSession;"
        f"print(LossSession({exported('ctc_loss', np.float32, 0)!r}, native=True).library);"
        "assert not {'torch', 'onnx'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == library, done.stderr


def test_sessions_come_and_go(library: str) -> None:
    """The library may be unloaded with its last session; the next loads it again."""
    feed, expected = batch("CTCLoss"), None
    for _ in range(20):
        costs = session(with_body("CTCLoss", np.float32), library).run(None, feed)[0]
        expected = costs if expected is None else expected
        np.testing.assert_array_equal(costs, expected)
