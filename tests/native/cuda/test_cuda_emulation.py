"""The CUDA kernels without a GPU: their sources run on the CPU (see host_emulation/cuda_runtime.h)."""

import contextlib
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from arc_shapes import SHAPES, drawn, expected
from arc_shapes import SIZES as ARC_SIZES
from building import CSRC
from cuda_cases import SIZES, check, compile_emulated, emulated_kernels, lattice, missing

from exportable_losses.ops import cuda

pytestmark = pytest.mark.skipif(bool(missing("g++")), reason=missing("g++"))


def test_the_kernels_agree_with_the_core():
    core = [str(CSRC / name) for name in ("lattice_isa.cc", "dispatch.cc", "c_api.cc")]
    sanitizers = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    source = Path(__file__).with_name("emulated.cc")
    program = compile_emulated(source, "-DISA=baseline", *core, *sanitizers)
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


def test_what_the_binding_cannot_do():
    assert cuda.unavailable(torch.zeros(1)) == "it computes on CUDA devices, not on cpu"
