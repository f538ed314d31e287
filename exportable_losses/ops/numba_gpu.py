"""The lattices as Numba kernels for a CUDA device, for where the package has no CUDA library.

A block walks the lattice of one item, its threads side by side over the states of a frame (CTC) or over the
labels of a diagonal (transducer). Everything is queued on the current stream. Nothing waits for the device,
so lengths and targets are not checked: a length outside of its size is taken as the nearer end, a target
that is no class has probability zero.
"""

import math
import warnings
from typing import Any

import torch
from numba import cuda
from torch import Tensor

from .numba_cpu import (
    ctc_alpha,
    ctc_beta,
    ctc_class,
    ctc_end,
    ctc_start,
    ctc_total,
    log_sum_exp,
    score_of,
    transducer_alpha,
    transducer_beta,
    transducer_shares,
    transducer_total,
)

_THREADS = 128


@cuda.jit
def _nothing():
    pass


def is_available() -> bool:
    """Whether Numba finds a CUDA driver and a device, and compiles for it.

    Raises:
        Exception: what it compiles with is missing or broken.
    """
    if not cuda.is_available():
        return False
    _nothing.compile(())
    return True


@cuda.jit
def _ctc(log_probs, targets, input_lengths, target_lengths, blank, costs, alpha):
    b, first, step = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    frames = input_lengths[b]
    states = 2 * target_lengths[b] + 1
    rows = alpha.shape[1]
    for s in range(first, states, step):
        alpha[b, 0, s] = ctc_start(s)
    cuda.syncthreads()
    for t in range(frames):
        for s in range(first, states, step):
            before, y = alpha[b, t % rows], log_probs[b, t]
            alpha[b, (t + 1) % rows, s] = ctc_alpha(before, y, targets[b], s, blank)
        cuda.syncthreads()
    if first == 0:
        costs[b] = -ctc_total(alpha[b, frames % rows], states)


@cuda.jit
def _ctc_grad(log_probs, targets, input_lengths, target_lengths, blank, grad_costs, alpha, beta, share, grad):
    b, first, step = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    frames = input_lengths[b]
    states = 2 * target_lengths[b] + 1
    total = ctc_total(alpha[b, frames], states)
    if math.isinf(total):
        return
    for s in range(first, states, step):
        beta[b, frames % 2, s] = ctc_end(s, states)
    cuda.syncthreads()
    for t in range(frames - 1, -1, -1):
        after, y = beta[b, (t + 1) % 2], log_probs[b, t]
        for c in range(first, log_probs.shape[2], step):
            grad[b, t, c] = grad_costs[b] * math.exp(y[c])
        for s in range(first, states, step):
            share[b, t % 2, s] = math.exp(alpha[b, t + 1, s] + after[s] - total)
            beta[b, t % 2, s] = ctc_beta(after, y, targets[b], s, states, blank)
        cuda.syncthreads()
        # one thread adds up all states of a class, in the same order every time
        for s in range(first, states, step):
            if s == 0 or _is_first_of_its_class(targets[b], s, blank):
                c = ctc_class(targets[b], s, blank)
                grad[b, t, c] -= grad_costs[b] * _share_of(c, share[b, t % 2], targets[b], states, blank)


@cuda.jit(device=True)
def _is_first_of_its_class(targets, s, blank):
    if s % 2 == 0 or targets[s // 2] == blank:
        return False
    for i in range(s // 2):  # noqa: SIM110 - a generator does not compile
        if targets[i] == targets[s // 2]:
            return False
    return True


@cuda.jit(device=True)
def _share_of(c, share, targets, states, blank):
    total = 0.0
    for s in range(states):
        if ctc_class(targets, s, blank) == c:
            total += share[s]
    return total


@cuda.jit
def _arcs(logits, targets, input_lengths, target_lengths, blank, norm, stay, emit):
    b, t = cuda.blockIdx.x // logits.shape[1], cuda.blockIdx.x % logits.shape[1]
    labels = target_lengths[b]
    if t >= input_lengths[b]:
        return
    for u in range(cuda.threadIdx.x, labels + 1, cuda.blockDim.x):
        row = logits[b, t, u]
        norm[b, t, u] = log_sum_exp(row)
        stay[b, t, u] = score_of(row, blank) - norm[b, t, u]
        emit[b, t, u] = score_of(row, targets[b, u]) - norm[b, t, u] if u < labels else -math.inf


@cuda.jit
def _transducer(stay, emit, input_lengths, target_lengths, costs, alpha):
    b, first, step = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    frames, labels = input_lengths[b], target_lengths[b]
    for n in range(frames + labels):
        for u in range(first, labels + 1, step):
            if 0 <= n - u < frames:
                alpha[b, n - u, u] = transducer_alpha(alpha[b], stay[b], emit[b], n - u, u)
        cuda.syncthreads()
    if first == 0:
        costs[b] = -transducer_total(alpha[b], stay[b], frames, labels)


@cuda.jit
def _transducer_beta(stay, emit, input_lengths, target_lengths, beta):
    b, first, step = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    frames, labels = input_lengths[b], target_lengths[b]
    for n in range(frames + labels - 1, -1, -1):
        for u in range(first, labels + 1, step):
            if 0 <= n - u < frames:
                beta[b, n - u, u] = transducer_beta(beta[b], stay[b], emit[b], n - u, u, frames, labels)
        cuda.syncthreads()


@cuda.jit
def _transducer_grad(
    logits, targets, input_lengths, target_lengths, blank, grad_costs, norm, stay, emit, alpha, beta, grad
):
    b, t = cuda.blockIdx.x // logits.shape[1], cuda.blockIdx.x % logits.shape[1]
    frames, labels = input_lengths[b], target_lengths[b]
    if t >= frames:
        return
    total = transducer_total(alpha[b], stay[b], frames, labels)
    if math.isinf(total):
        return
    for u in range(labels + 1):
        stays, emits = transducer_shares(alpha[b], beta[b], stay[b], emit[b], t, u, frames, labels, total)
        stays, emits = grad_costs[b] * stays, grad_costs[b] * emits
        for c in range(cuda.threadIdx.x, logits.shape[3], cuda.blockDim.x):
            slope = (stays + emits) * math.exp(logits[b, t, u, c] - norm[b, t, u])
            if c == blank:
                slope -= stays
            if u < labels and c == targets[b, u]:
                slope -= emits
            grad[b, t, u, c] = slope


def ctc(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with `grad_costs` the gradient `[B, T, C]`."""
    batch, frames, classes = log_probs.shape
    on = _Device(log_probs, targets, input_lengths, target_lengths, blank_index, classes)
    states = 2 * targets.shape[1] + 1
    alpha = on.work(batch, frames + 1 if grad_costs is not None else 2, states)
    costs = log_probs.new_empty(batch)
    on.run(_ctc, batch, *on.lattice, blank_index, costs, alpha)
    if grad_costs is None:
        return costs, None
    grad, weights = on.gradient(grad_costs)
    beta, share = on.work(batch, 2, states), on.work(batch, 2, states)
    on.run(_ctc_grad, batch, *on.lattice, blank_index, weights, alpha, beta, share, grad)
    return costs, grad


def transducer(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with `grad_costs` the gradient `[B, T, U+1, V]`."""
    batch, frames, width, classes = logits.shape
    on = _Device(logits, targets, input_lengths, target_lengths, blank_index, classes)
    norm, stay, emit, alpha = (on.work(batch, frames, width) for _ in range(4))
    costs, lengths = logits.new_empty(batch), on.lattice[2:]
    on.run(_arcs, batch * frames, *on.lattice, blank_index, norm, stay, emit)
    on.run(_transducer, batch, stay, emit, *lengths, costs, alpha)
    if grad_costs is None:
        return costs, None
    grad, weights = on.gradient(grad_costs)
    beta = on.work(batch, frames, width)
    on.run(_transducer_beta, batch, stay, emit, *lengths, beta)
    arrays = (weights, norm, stay, emit, alpha, beta, grad)
    on.run(_transducer_grad, batch * frames, *on.lattice, blank_index, *arrays)
    return costs, grad


class _Device:
    """A lattice as the kernels take it, and the current stream of its device to run them on."""

    def __init__(
        self,
        scores: Tensor,
        targets: Tensor,
        input_lengths: Tensor,
        target_lengths: Tensor,
        blank_index: int,
        classes: int,
    ) -> None:
        if not 0 <= blank_index < classes:
            raise ValueError(f"blank_index: got {blank_index}, expected a number in [0, {classes - 1}]")
        self.scores = scores.detach().contiguous()
        targets, input_lengths, target_lengths = (
            x.to(scores.device, torch.int64, non_blocking=True).contiguous()
            for x in (targets, input_lengths, target_lengths)
        )
        frames, labels = input_lengths.clamp(0, scores.shape[1]), target_lengths.clamp(0, targets.shape[1])
        self.lattice = (self.scores, targets, frames, labels)

    def work(self, *shape: int) -> Tensor:
        """Memory for the kernels. Torch gives it to nobody else on this stream before they have run."""
        return torch.empty(shape, dtype=torch.float64, device=self.scores.device)

    def gradient(self, grad_costs: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient, of zeros yet, and that of the costs."""
        weights = grad_costs.detach().to(self.scores.device, self.scores.dtype).contiguous()
        return torch.zeros_like(self.scores), weights

    def run(self, kernel: Any, blocks: int, *arguments: Tensor | int) -> None:
        """Queue so many blocks of `kernel`."""
        if not blocks:
            return
        given = [_array(x) if isinstance(x, Tensor) else x for x in arguments]
        if self.scores.device.type != "cuda":  # Numba's simulator, where there is no stream
            kernel[blocks, _THREADS](*given)
            return
        device = self.scores.device
        stream = cuda.external_stream(torch.cuda.current_stream(device).cuda_stream)
        with warnings.catch_warnings(), cuda.gpus[device.index]:
            warnings.filterwarnings("ignore", message="Grid size")  # a batch is as large as it is
            kernel[blocks, _THREADS, stream](*given)


def _array(x: Tensor) -> Any:
    """The same memory as an array of Numba's; one without an element has no memory, and gets some."""
    x = x if x.numel() else x.new_zeros([max(1, n) for n in x.shape])
    return x.numpy() if x.device.type == "cpu" else cuda.as_cuda_array(x, sync=False)
