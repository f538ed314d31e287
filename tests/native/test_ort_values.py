"""ONNX Runtime's door to the kernels: the numbers of the portable bodies, on any number of threads."""

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from building import built, shared_library
from onnx import TensorProto, helper
from ort_cases import (
    HARD,
    LENGTHS,
    REAL,
    SCORES,
    Arrays,
    assert_close,
    batch,
    both_dtypes,
    both_losses,
    computed_by,
    huge,
    impossible,
    one_operator,
    relative,
    session,
    with_body,
)
from ort_header import official_header

from exportable_losses.ops.transducer import transducer_costs
from exportable_losses.runtime import LossSession

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


TRANSDUCERS = ("transducer_loss", "TransducerPosterior", "TransducerAlign")


# the nodes of the others are those of the losses, whose graphs are run in both dtypes
ONCE = {"ctc_loss_kd": np.float32, "TransducerPosterior": np.float64, "TransducerAlign": np.float32}


@pytest.mark.parametrize(
    ("row", "dtype"),
    [
        pytest.param(row, dtype, marks=() if ONCE.get(row, dtype) == dtype else pytest.mark.thorough)
        for row in ("ctc_loss", "ctc_loss_kd", *TRANSDUCERS)
        for dtype in (np.float32, np.float64)
    ],
)
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


# The host, and the runtime's own door


def test_either_header_makes_the_same_library(library: str) -> None:
    if official_header() is None:
        pytest.skip("onnxruntime_c_api.h is not here (Debian trixie: libonnxruntime-dev; set CPATH)")
    theirs = shared_library(built("official", targets=("exportable_losses",)), "exportable_losses")
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


def test_an_alignment_of_an_older_file_has_no_free_ends(library: str) -> None:
    """Its node lacks the attribute."""
    scores = np.log(np.array([[[0.1, 0.9], [0.8, 0.2], [0.1, 0.9]]], np.float32))
    feed = {"log_probs": scores, "targets": np.array([[1]]), "input_lengths": np.array([3])}
    feed["target_lengths"] = np.array([1])
    found = {}
    for ends in ({}, {"free_ends": 0}, {"free_ends": 1}):
        values = [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT if array.dtype == np.float32 else TensorProto.INT64, array.shape
            )
            for name, array in feed.items()
        ]
        node = helper.make_node(
            "CTCAlign", list(feed), ["states", "scores"], domain="exportable_losses", blank_index=0, **ends
        )
        given = [
            helper.make_tensor_value_info("states", TensorProto.INT64, (1, 3)),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1,)),
        ]
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("exportable_losses", 1)]
        model = helper.make_model(
            helper.make_graph([node], "g", values, given), opset_imports=opsets, ir_version=10
        )
        found[str(ends)] = session(model.SerializeToString(), library).run(None, feed)[1].item()
    assert found["{}"] == found["{'free_ends': 0}"] < found["{'free_ends': 1}"]


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
