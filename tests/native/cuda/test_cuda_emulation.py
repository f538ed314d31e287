"""The CUDA kernels without a GPU: their sources run on the CPU (see host_emulation/cuda_runtime.h)."""

import contextlib
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from arc_shapes import SHAPES, drawn, expected
from arc_shapes import SIZES as ARC_SIZES
from building import core_objects
from cuda_cases import (
    PICKS,
    SIZES,
    check,
    check_picked,
    compile_emulated,
    emulated_kernels,
    lattice,
    missing,
)

import exportable_losses as el
from exportable_losses.ops import cuda, layers, native, plain, using
from exportable_losses.ops.computers import only_native_of

pytestmark = pytest.mark.skipif(bool(missing("g++")), reason=missing("g++"))


def test_the_kernels_agree_with_the_core():
    sanitizers = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    source = Path(__file__).with_name("emulated.cc")
    program = compile_emulated(source, "-x", "none", *map(str, core_objects()), *sanitizers)
    run = subprocess.run([program, "300"], capture_output=True, text=True, timeout=600)
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def emulated_device(monkeypatch):
    """`ops.cuda` with the emulated library, for tensors on the CPU."""
    monkeypatch.setenv("EXPORTABLE_LOSSES_CUDA_LIBRARY", str(emulated_kernels()))
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=0))
    cuda._library.cache_clear()
    yield
    cuda._library.cache_clear()


def test_the_binding_agrees_with_plain_torch(emulated_device):
    for loss, sizes in SIZES:
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            check(cuda, loss, sizes, "cpu", dtype)
    assert cuda.about()["architectures"] == "unknown"  # it was not built by CMake
    with pytest.raises(ValueError, match=r"blank_index: got 9, expected a number in \[0, 4\]"):
        cuda.ctc(torch.zeros(1, 2, 5), torch.ones(1, 1), torch.ones(1), torch.ones(1), 9, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SHAPES)
def test_every_path_over_given_arcs(emulated_device, name: str, dtype: torch.dtype) -> None:
    shape = SHAPES[name]
    close = {"rtol": 2e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    for frames, labels in ARC_SIZES:
        arcs, t, u = drawn(shape, frames, labels)
        costs, occupations = expected(shape, arcs, t, u)
        weights = torch.linspace(0.5, 2, len(costs), dtype=torch.float64)
        given = (arcs.to(dtype), t, u, list(shape.blanks), list(shape.labels), shape.label_ends)
        alone, none = cuda.arcs(*given, None)
        found, grad = cuda.arcs(*given, weights.to(dtype))
        assert none is None
        torch.testing.assert_close(alone.double(), costs, **close)
        torch.testing.assert_close(found.double(), costs, **close)
        torch.testing.assert_close(grad.double(), -occupations * weights[:, None, None, None], **close)


def test_arcs_that_a_kernel_does_not_take(emulated_device) -> None:
    arcs, one = torch.zeros(1, 3, 2, 2), torch.ones(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"duration: got 0, expected a number in \[1,"):
        cuda.arcs(arcs, one, one, [0], [0], False, None)
    many = torch.zeros(1, 3, 2, 80)
    costs, _ = cuda.arcs(many, 3 * one, one, list(range(1, 41)), list(range(40)), False, None)
    assert costs.isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("loss", ["ctc", "transducer"])
def test_no_logarithm_of_a_probability(emulated_device, loss: str, bad: float) -> None:
    """A NaN or +inf that the target reads, a last frame's too: a NaN, in that item alone."""
    scores, targets, *rest = lattice(loss, (2, 9, 8, 4))
    scores = scores.to(torch.bfloat16)
    compute = getattr(cuda, loss)
    costs, grad = compute(scores, targets, *rest, torch.ones(2))
    for frame in (3, 8):
        for label in (0, *targets[0].tolist()):
            spoiled = scores.clone()
            spoiled[0, frame, ..., label] = bad
            got, got_grad = compute(spoiled, targets, *rest, torch.ones(2))
            assert got[0].isnan()
            assert got_grad[0].isnan().all()
            assert torch.equal(got[1], costs[1])
            assert torch.equal(got_grad[1], grad[1])


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("classes", "kinds"), PICKS)
def test_a_few_classes_of_rows(emulated_device, classes: int, kinds: int, dtype: torch.dtype) -> None:
    check_picked(cuda, classes, kinds, "cpu", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_no_numbers_are_as_on_the_cpu(emulated_device, dtype: torch.dtype) -> None:
    rows = torch.linspace(-3, 3, 9 * 40).reshape(9, 40).to(dtype)
    rows[0], rows[1, 7], rows[2, 30], rows[3, :20] = -torch.inf, torch.nan, torch.inf, -torch.inf
    rows[4], rows[5, :39], rows[6] = torch.nan, -torch.inf, torch.inf
    picked = torch.tensor([[3, 30], [-1, 39]]).repeat(5, 1)[:9]
    weights = torch.linspace(-1, 2, 18).reshape(9, 2)
    weights[8, 1] = torch.nan
    rows[7], weights[7] = torch.nan, 0  # a row of which nothing is wanted
    close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-6, "equal_nan": True}
    torch.testing.assert_close(cuda.picked(rows, picked), native.picked(rows, picked), **close)
    found, expected = (computer.picked(rows, picked, weights) for computer in (cuda, native))
    torch.testing.assert_close(found, expected, **close)
    assert found.isnan().all(1).tolist() == [True, True, True, False, True, False, True, False, True]


def test_a_class_out_of_range_is_none_and_the_device_says_so(emulated_device) -> None:
    rows, grad = torch.randn(3, 5), torch.ones(3, 2)
    beyond, none = torch.tensor([[1, 5], [-2, 3], [1 << 40, -9]]), torch.tensor([[1, -1], [-1, 3], [-1, -1]])
    assert torch.equal(cuda.picked(rows, beyond), cuda.picked(rows, none))
    assert torch.equal(cuda.picked(rows, beyond, grad), cuda.picked(rows, none, grad))
    layers.assert_classes(none, 5)
    for one in (5, -2):
        with pytest.raises(
            RuntimeError, match=r"classes: got one out of range, expected numbers in \[-1, 4\]"
        ):
            layers.assert_classes(torch.tensor([[0, one]]), 5)


@pytest.mark.parametrize("computer", [cuda, native])
def test_of_no_class_there_is_no_gradient(emulated_device, computer) -> None:
    nothing = torch.zeros(3, 0)
    assert computer.picked(torch.randn(3, 5), nothing.long()).shape == (3, 0)
    assert computer.picked(torch.randn(3, 5), nothing.long(), nothing).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_whose_scores_are_never_in_memory(emulated_device, monkeypatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(cuda, "unavailable", lambda scores: "")
    draw = torch.Generator().manual_seed(0)
    sizes = ((2, 9, 6), (2, 4, 6), (11, 6), (11,))
    inputs = [torch.randn(size, generator=draw, dtype=dtype).requires_grad_() for size in sizes]
    rest = torch.tensor([[1, 2, 3], [4, 4, 0]]), torch.tensor([9, 7]), torch.tensor([3, 2])
    linear = [inputs[0], *inputs[2:]]
    tdt = el.FusedTransducerLoss(0, durations=(0, 1, 2))
    for loss, layer in ((el.FusedTransducerLoss(0), inputs), (tdt, inputs), (el.LinearCTCLoss(0), linear)):
        costs, slopes = {}, {}
        for name in ("cuda", "torch"):
            with using(name):
                costs[name] = loss(*layer, *rest)
                slopes[name] = torch.autograd.grad(costs[name], layer)
        torch.testing.assert_close(costs["cuda"], costs["torch"])
        torch.testing.assert_close(slopes["cuda"], slopes["torch"], rtol=1e-4, atol=1e-5)


def test_who_picks_on_a_gpu(emulated_device, monkeypatch) -> None:
    on_gpu = SimpleNamespace(
        device=torch.device("cuda", 0), dtype=torch.float16, is_floating_point=lambda: True
    )
    assert only_native_of(on_gpu, "picked") is cuda
    assert only_native_of(on_gpu, "arcs_align") is plain
    assert only_native_of(torch.zeros(1), "picked") is native
    with using("torch"):
        assert only_native_of(on_gpu, "picked") is plain
    with using("native"), pytest.raises(RuntimeError, match="'native' was asked for: it computes on the CPU"):
        only_native_of(on_gpu, "picked")
    with using("cuda"):
        assert only_native_of(on_gpu) is plain
        with pytest.raises(RuntimeError, match="'cuda' was asked for: it computes on CUDA devices"):
            only_native_of(torch.zeros(1), "picked")
    monkeypatch.setenv("EXPORTABLE_LOSSES_CUDA_LIBRARY", "")
    cuda._library.cache_clear()
    assert only_native_of(on_gpu, "picked") is plain


def test_what_the_binding_cannot_do():
    assert cuda.unavailable(torch.zeros(1)) == "it computes on CUDA devices, not on cpu"
