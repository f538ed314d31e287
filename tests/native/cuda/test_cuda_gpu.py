"""The CUDA kernels on a GPU: on the current stream, without waiting, beside plain torch and torch's own."""

import pytest
import torch
from cuda_cases import PICKS, SIZES, build_with_cmake, check, check_picked, lattice, missing

from exportable_losses.ops import cuda

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use here")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.fixture(scope="module", autouse=True)
def library():
    """The installed library, or one built for this GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if cuda.cuda_library_path() is None:
            if missing("nvcc", "cmake"):
                pytest.skip(f"the package was installed without CUDA kernels, and {missing('nvcc', 'cmake')}")
            major, minor = torch.cuda.get_device_capability()
            path = build_with_cmake(f"{major}{minor}")
            patch.setenv("EXPORTABLE_LOSSES_CUDA_LIBRARY", str(path))
        cuda._library.cache_clear()
        yield
    cuda._library.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loss", "sizes"), SIZES)
def test_agrees_with_plain_torch(loss, sizes, dtype):
    check(cuda, loss, sizes, "cuda", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("classes", "kinds"), PICKS)
def test_a_few_classes_of_rows(classes, kinds, dtype):
    check_picked(cuda, classes, kinds, "cuda", dtype)


@pytest.mark.parametrize("loss", ["ctc", "transducer"])
def test_queues_on_the_current_stream_and_does_not_wait(loss):
    scores, *lengths, blank = lattice(loss, (2, 20, 16, 6))
    lengths = [x.cuda() for x in lengths]
    expected, _ = getattr(cuda, loss)(scores.cuda(), *lengths, blank, None)
    late = torch.zeros_like(scores, device="cuda")
    pinned = scores.pin_memory()
    weights = torch.ones(2, device="cuda", dtype=scores.dtype)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # the scores arrive long after the kernels were queued
        late.copy_(pinned, non_blocking=True)
        torch.cuda.set_sync_debug_mode("error")
        try:
            costs, grad = getattr(cuda, loss)(late, *lengths, blank, weights)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert not stream.query(), "the call waited for the device"
    stream.synchronize()
    assert torch.equal(costs, expected)
    assert grad.isfinite().all()


def test_agrees_with_torch_ctc_on_the_gpu():
    log_probs, targets, input_lengths, target_lengths, blank = lattice("ctc", (4, 120, 40, 25))
    log_probs = log_probs.cuda().requires_grad_()
    lengths = [x.cuda() for x in (targets, input_lengths, target_lengths)]
    theirs = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), *lengths, blank, reduction="none", zero_infinity=True
    )
    theirs.sum().backward()
    costs, grad = cuda.ctc(log_probs.detach(), *lengths, blank, torch.ones_like(theirs))
    torch.testing.assert_close(costs, theirs.detach())
    torch.testing.assert_close(grad, log_probs.grad)


@pytest.mark.parametrize("loss", ["ctc", "transducer"])
def test_lengths_and_labels_out_of_range(loss):
    scores, targets, _, _, blank = lattice(loss, (3, 12, 9, 4))
    full = torch.tensor([12, 12, 12]), torch.tensor([4, 4, 4])
    beyond = torch.tensor([12, 99, 12]).cuda(), torch.tensor([4, 4, 2**40]).cuda()
    compute = getattr(cuda, loss)
    expected, _ = compute(scores.cuda(), targets.cuda(), *(x.cuda() for x in full), blank, None)
    costs, _ = compute(scores.cuda(), targets.cuda(), *beyond, blank, None)
    assert torch.equal(costs, expected)
    targets[1, 2] = 9
    costs, grad = compute(scores.cuda(), targets.cuda(), *beyond, blank, torch.ones(3).cuda())
    assert costs.isinf().tolist() == [False, True, False]
    assert grad[1].eq(0).all()


def test_the_same_gradient_every_time():
    scores, *lengths, blank = lattice("ctc", (2, 200, 4, 60))  # labels that come again and again
    lattice_on_device = [x.cuda() for x in (scores.float(), *lengths)]
    first = cuda.ctc(*lattice_on_device, blank, torch.ones(2).cuda())
    for _ in range(5):
        again = cuda.ctc(*lattice_on_device, blank, torch.ones(2).cuda())
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
