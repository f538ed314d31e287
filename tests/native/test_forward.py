"""CTC of frames in pieces in the native library: plain torch's numbers, through torch, C and ONNX Runtime."""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from computer_cases import SETS, native_on
from onnx import TensorProto, helper
from ort_cases import REAL, both_dtypes, computed_by, session
from torch import Tensor

from exportable_losses.export.nodes.functions import function_protos
from exportable_losses.ops import ctc_forward as plain
from exportable_losses.ops import native, using
from exportable_losses.ops import transducer_forward as plain_transducer
from exportable_losses.ops.structures import Batch

FORWARD = torch.ops.exportable_losses.ctc_forward
TRANSDUCER = torch.ops.exportable_losses.transducer_forward
NAMES = ("log_probs", "targets", "input_lengths", "target_lengths", "alpha", "offset")


@pytest.fixture(scope="module", params=SETS)
def isa(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with native_on(request.param, tmp_path_factory.mktemp(request.param)):
        yield


def fuzz(seed: int, dtype: torch.dtype) -> list[Tensor]:
    """Frames that come after others, of any sizes; many scores are impossible, many states too."""
    rng = np.random.default_rng(seed)
    ranges = ((1, 5), (1, 40), (0, 40), (2, 9))
    items, frames, labels, classes = (int(rng.integers(*each)) for each in ranges)
    logits = rng.choice([0.5, 5.0, 200.0]) * rng.standard_normal((items, frames, classes))
    log_probs = torch.from_numpy(logits).log_softmax(-1)
    log_probs[torch.from_numpy(rng.random(log_probs.shape) < rng.choice([0.0, 0.2]))] = -torch.inf
    alpha = torch.from_numpy(-30 * rng.random((items, 2, labels + 1)))
    alpha[torch.from_numpy(rng.random(alpha.shape) < 0.3)] = -torch.inf
    lengths = rng.integers(0, frames + 1, items), rng.integers(0, labels + 1, items)
    return [
        log_probs.to(dtype),
        torch.from_numpy(rng.integers(1, classes, (items, labels))),
        *map(torch.from_numpy, lengths),
        alpha.to(dtype),
        torch.from_numpy(1e3 * rng.standard_normal((items, 2)) * [1, 1e-6]).to(dtype),
    ]


def fuzz_arcs(seed: int, dtype: torch.dtype) -> list[Tensor]:
    """The same of a transducer's arcs."""
    rng = np.random.default_rng(seed)
    items, frames, places = (int(rng.integers(*each)) for each in ((1, 5), (1, 40), (1, 40)))
    arcs = torch.from_numpy(-rng.choice([0.5, 5.0, 20.0]) * rng.random((items, frames, places, 2)))
    arcs[torch.from_numpy(rng.random(arcs.shape) < rng.choice([0.0, 0.2]))] = -torch.inf
    alpha = torch.from_numpy(-30 * rng.random((items, places)))
    alpha[torch.from_numpy(rng.random(alpha.shape) < 0.3)] = -torch.inf
    lengths = rng.integers(0, frames + 1, items), rng.integers(0, places, items)
    offset = torch.from_numpy(1e3 * rng.standard_normal((items, 2)) * [1, 1e-6])
    return [arcs.to(dtype), *map(torch.from_numpy, lengths), alpha.to(dtype), offset.to(dtype)]


def assert_same(got: Any, given: list[Tensor], dtype: torch.dtype) -> None:
    """As plain torch has them in float64, up to the rounding of `dtype`."""
    exact = [x.double() if x.is_floating_point() else x for x in given]
    of_arcs = len(given) == 5
    costs, alpha, offset = plain_transducer(*exact) if of_arcs else plain(*exact[:4], 0, *exact[4:])
    alpha = alpha.reshape(len(costs), -1)
    got = [got[0], torch.as_tensor(got[1]).reshape(alpha.shape), got[2]]
    room = {torch.float32: 2e-6, torch.float64: 1e-14}[dtype]
    got = [torch.as_tensor(x).double() for x in got]
    torch.testing.assert_close(got[0], costs, rtol=room, atol=room)
    torch.testing.assert_close(got[1], alpha, rtol=room, atol=50 * room)
    possible = alpha.amax(1) > -torch.inf  # what all of nothing have in common may be anything
    torch.testing.assert_close(got[2].sum(1)[possible], offset.sum(1)[possible], rtol=room, atol=room)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_batch(isa: None, dtype: torch.dtype) -> None:
    for seed in range(150):
        given = fuzz(seed, dtype)
        before = [x.clone() for x in given]
        with using("native"):
            got = FORWARD(*given[:4], 0, *given[4:])
        assert_same(got, given, dtype)
        assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_batch_of_arcs(isa: None, dtype: torch.dtype) -> None:
    for seed in range(150):
        given = fuzz_arcs(seed, dtype)
        before = [x.clone() for x in given]
        with using("native"):
            got = TRANSDUCER(*given)
        assert_same(got, given, dtype)
        assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True))


def test_a_nan_is_one_where_it_leads(isa: None) -> None:
    arcs = torch.full((2, 3, 3, 2), 0.5).log()
    arcs[0, 1, 0, 1] = torch.nan
    given = (
        arcs,
        torch.tensor([3, 3]),
        torch.tensor([2, 2]),
        torch.tensor([[0.0, -torch.inf, -torch.inf]] * 2),
    )
    for computer in ("native", "torch"):
        with using(computer):
            costs, alpha, _ = TRANSDUCER(*given, torch.zeros(2, 2))
        assert costs.isnan().tolist() == [True, False]
        assert alpha[1].isfinite().all()


def test_the_state_may_be_replaced_where_it_is(isa: None) -> None:
    for seed in range(20):
        given = [x.contiguous() for x in fuzz(seed, torch.float32)]
        expected = native.ctc_forward(*given[:4], 0, *given[4:])
        *lattice, alpha, offset = given
        state = (ctypes.c_void_p * 4)(*(x.data_ptr() for x in (alpha, offset, alpha, offset)))
        costs = torch.empty(len(alpha))
        library = native._library()
        assert library is not None
        batch = Batch.of(*lattice, 0)
        assert not library.exportable_losses_ctc_forward_float(
            ctypes.byref(batch), state, costs.data_ptr(), 2
        )
        for got, want in zip((costs, alpha, offset), expected, strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("missing", ["walk", *range(4)])
def test_what_is_null_is_refused(isa: None, missing: Any) -> None:
    *lattice, alpha, offset = fuzz(1, torch.float32)
    state = (ctypes.c_void_p * 4)(*(x.data_ptr() for x in (alpha, offset, alpha, offset)))
    if missing != "walk":
        state[missing] = None
    library = native._library()
    assert library is not None
    batch, costs = Batch.of(*lattice, 0), torch.empty(len(alpha))
    said = library.exportable_losses_ctc_forward_float(
        ctypes.byref(batch), None if missing == "walk" else state, costs.data_ptr(), 1
    )
    assert said.startswith(b"walk: got null")


def model(dtype: Any, functions: Any = (), names: tuple[str, ...] = NAMES) -> bytes:
    integers = ("targets", "input_lengths", "target_lengths")
    kinds = {name: TensorProto.INT64 if name in integers else REAL[dtype] for name in names}
    outputs = ["costs", "alpha_out", "offset_out"]
    row, more = ("CTCForward", {"blank_index": 0}) if names is NAMES else ("TransducerForward", {})
    graph = helper.make_graph(
        [helper.make_node(row, list(kinds), outputs, domain="exportable_losses", **more)],
        "one",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [helper.make_tensor_value_info(name, REAL[dtype], None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("exportable_losses", 1)]
    made = helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)
    return made.SerializeToString()


@both_dtypes
def test_in_onnx_runtime(library: str, dtype: Any, tmp_path: Path) -> None:
    kind = torch.from_numpy(np.zeros(0, dtype)).dtype
    portable = model(dtype, function_protos("CTCForward", REAL[dtype]))
    ours, body = session(portable, library), session(portable, None)
    for seed in range(40):
        given = fuzz(seed, kind)
        if not given[1].shape[1]:
            continue
        feed = dict(zip(NAMES, (x.numpy() for x in given), strict=True))
        assert_same(ours.run(None, feed), given, kind)
        assert_same(body.run(None, feed), given, kind)
    assert "CTCForward" in computed_by(portable, library, feed, tmp_path)


@both_dtypes
def test_arcs_in_onnx_runtime(library: str, dtype: Any, tmp_path: Path) -> None:
    kind = torch.from_numpy(np.zeros(0, dtype)).dtype
    names = ("arcs", *NAMES[2:])
    portable = model(dtype, function_protos("TransducerForward", REAL[dtype]), names)
    ours, body = session(portable, library), session(portable, None)
    for seed in range(40):
        given = fuzz_arcs(seed, kind)
        feed = dict(zip(names, (x.numpy() for x in given), strict=True))
        assert_same(ours.run(None, feed), given, kind)
        assert_same(body.run(None, feed), given, kind)
    assert "TransducerForward" in computed_by(portable, library, feed, tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("alpha", lambda x: x[:, :1], r"alpha: got shape \[\d, 1, \d+\], expected \[\d, 2, \d+\]"),
        ("offset", lambda x: x[:, :1], r"offset: got shape \[\d, 1\], expected \[\d, 2\]"),
        ("targets", lambda x: x + 100, r"targets: got 10\d for item 0, expected a number in"),
        ("input_lengths", lambda x: x + 100, r"input_lengths: got \d+ for item 0, expected a number in"),
    ],
)
def test_what_does_not_fit_is_refused(library: str, name: str, change: Any, message: str) -> None:
    given = fuzz(4, torch.float32)
    given[3][:] = given[1].shape[1]
    feed = dict(zip(NAMES, (x.numpy() for x in given), strict=True))
    feed[name] = np.ascontiguousarray(change(feed[name]))
    with pytest.raises(Exception, match=message):
        session(model(np.float32), library).run(None, feed)
