"""The recursions of the papers, a state or a node at a time, and the lattices as Numba kernels for the CPU.

The recursions serve the kernels for a GPU as well. They stand in one file with the kernels because Numba's
cache looks at the file of a kernel alone to see whether it is out of date.

Everything is in logarithms and in float64, whatever the scores are. Log 0 is minus infinity, and a NaN stays
a NaN.
"""

import math
import threading
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from numba.extending import register_jitable
from torch import Tensor


@register_jitable
def log_add(a: float, b: float) -> float:
    """The logarithm of the sum of two numbers, given their logarithms."""
    if a == -math.inf:
        return b
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


@register_jitable
def score_of(row: Any, index: int) -> float:
    """The score of a class; one that is no class has no probability."""
    return float(row[index]) if 0 <= index < row.shape[0] else -math.inf


# CTC: Graves et al. 2006, section 4.1. State s of 0..2S stands for a blank where it is even and for label
# s // 2 where it is odd.


@register_jitable
def ctc_class(targets: Any, s: int, blank: int) -> int:
    """The class that state s emits."""
    return targets[s // 2] if s % 2 else blank


@register_jitable
def ctc_skips(targets: Any, s: int) -> bool:
    """Whether state s may follow s - 2: two labels that differ need no blank between them."""
    return s % 2 == 1 and s > 1 and targets[s // 2] != targets[s // 2 - 1]


@register_jitable
def ctc_start(s: int) -> float:
    """Before the first frame: all probability is on the blank in front of everything."""
    return 0.0 if s == 0 else -math.inf


@register_jitable
def ctc_end(s: int, states: int) -> float:
    """Behind the last frame an alignment is complete on the last blank or the last label."""
    return 0.0 if s >= states - 2 else -math.inf


@register_jitable
def ctc_alpha(alpha: Any, log_probs: Any, targets: Any, s: int, blank: int) -> float:
    """alpha'(s) = y(s) [alpha(s) + alpha(s-1) + alpha(s-2) where it may skip]."""
    total = alpha[s]
    if s > 0:
        total = log_add(total, alpha[s - 1])
    if ctc_skips(targets, s):
        total = log_add(total, alpha[s - 2])
    return total + score_of(log_probs, ctc_class(targets, s, blank))


@register_jitable
def ctc_beta(beta: Any, log_probs: Any, targets: Any, s: int, states: int, blank: int) -> float:
    """beta(s) = the sum of y(r) beta'(r) over the states r = s, s+1 and s+2 that may follow s.

    Unlike the paper's it has no y of the frame of s, so that alpha beta is the probability of all that
    goes through s.
    """
    total = beta[s] + score_of(log_probs, ctc_class(targets, s, blank))
    if s + 1 < states:
        total = log_add(total, beta[s + 1] + score_of(log_probs, ctc_class(targets, s + 1, blank)))
    if s + 2 < states and ctc_skips(targets, s + 2):
        total = log_add(total, beta[s + 2] + score_of(log_probs, ctc_class(targets, s + 2, blank)))
    return total


@register_jitable
def ctc_total(alpha: Any, states: int) -> float:
    """The probability of all alignments, given what is behind the last frame."""
    return log_add(alpha[states - 1], alpha[states - 2]) if states > 1 else alpha[0]


# The transducer: Graves 2012, section 2.4. `stay` and `emit` are the log-probabilities of the two arcs out
# of a node (t, u): the blank to (t + 1, u), and the next label to (t, u + 1).


@register_jitable
def log_sum_exp(logits: Any) -> float:
    """What turns the logits of a node into log-probabilities when it is subtracted."""
    top = -math.inf
    for c in range(logits.shape[0]):
        top = max(top, float(logits[c]))
    total = 0.0
    for c in range(logits.shape[0]):
        total += math.exp(float(logits[c]) - top)
    return top + math.log(total)


@register_jitable
def transducer_alpha(alpha: Any, stay: Any, emit: Any, t: int, u: int) -> float:
    """alpha(t, u) = alpha(t-1, u) stay(t-1, u) + alpha(t, u-1) emit(t, u-1)."""
    if t == 0 and u == 0:
        return 0.0
    stayed = alpha[t - 1, u] + stay[t - 1, u] if t > 0 else -math.inf
    emitted = alpha[t, u - 1] + emit[t, u - 1] if u > 0 else -math.inf
    return log_add(stayed, emitted)


@register_jitable
def behind(beta: Any, t: int, u: int, frames: int, labels: int) -> float:
    """beta(t, u), and outside of the lattice that nothing is left to do or that there is no way to go."""
    if t < frames:
        return beta[t, u] if u <= labels else -math.inf
    return 0.0 if u == labels else -math.inf


@register_jitable
def transducer_beta(beta: Any, stay: Any, emit: Any, t: int, u: int, frames: int, labels: int) -> float:
    """beta(t, u) = stay(t, u) beta(t+1, u) + emit(t, u) beta(t, u+1)."""
    stays = stay[t, u] + behind(beta, t + 1, u, frames, labels)
    return log_add(stays, emit[t, u] + behind(beta, t, u + 1, frames, labels))


@register_jitable
def transducer_total(alpha: Any, stay: Any, frames: int, labels: int) -> float:
    """The probability of all alignments; without a frame only the empty target has one."""
    if frames == 0:
        return 0.0 if labels == 0 else -math.inf
    return alpha[frames - 1, labels] + stay[frames - 1, labels]


@register_jitable
def transducer_shares(
    alpha: Any, beta: Any, stay: Any, emit: Any, t: int, u: int, frames: int, labels: int, total: float
) -> tuple[float, float]:
    """Of all alignments the shares that leave the node (t, u) by a blank and by the next label."""
    stays = alpha[t, u] + stay[t, u] + behind(beta, t + 1, u, frames, labels)
    emits = alpha[t, u] + emit[t, u] + behind(beta, t, u + 1, frames, labels)
    return math.exp(stays - total), math.exp(emits - total)


_one_at_a_time = threading.Lock()  # the threads that Numba falls back to end the process if two callers meet


def _kernel(function: Any) -> Any:
    """`function`, compiled when it is first called and kept on disk where there is a place for it."""
    try:
        return numba.njit(parallel=True, cache=True, nogil=True)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache may it write
        return numba.njit(parallel=True, nogil=True)(function)


@_kernel
def _ctc(log_probs, targets, input_lengths, target_lengths, blank, grad_costs, costs, grad):
    with_grad = len(grad_costs) > 0
    for b in prange(len(costs)):
        frames, states = input_lengths[b], 2 * target_lengths[b] + 1
        label, y = targets[b], log_probs[b]
        rows = frames + 1 if with_grad else 2  # costs alone need the frame before and no other
        alpha = np.empty((rows, states))
        for s in range(states):
            alpha[0, s] = ctc_start(s)
        for t in range(frames):
            for s in range(states):
                alpha[(t + 1) % rows, s] = ctc_alpha(alpha[t % rows], y[t], label, s, blank)
        total = ctc_total(alpha[frames % rows], states)
        costs[b] = -total
        if not with_grad:
            continue
        if math.isinf(total):
            continue
        beta = np.empty((2, states))
        for s in range(states):
            beta[frames % 2, s] = ctc_end(s, states)
        for t in range(frames - 1, -1, -1):
            after = beta[(t + 1) % 2]
            for c in range(y.shape[1]):
                grad[b, t, c] = grad_costs[b] * math.exp(y[t, c])
            for s in range(states):
                share = math.exp(alpha[t + 1, s] + after[s] - total)
                grad[b, t, ctc_class(label, s, blank)] -= grad_costs[b] * share
                beta[t % 2, s] = ctc_beta(after, y[t], label, s, states, blank)


@_kernel
def _transducer(logits, targets, input_lengths, target_lengths, blank, grad_costs, costs, grad):
    with_grad = len(grad_costs) > 0
    for b in prange(len(costs)):
        frames, labels = input_lengths[b], target_lengths[b]
        norm, stay = np.empty((frames, labels + 1)), np.empty((frames, labels + 1))
        emit, alpha = np.empty((frames, labels + 1)), np.empty((frames, labels + 1))
        for t in range(frames):
            for u in range(labels + 1):
                norm[t, u] = log_sum_exp(logits[b, t, u])
                stay[t, u] = logits[b, t, u, blank] - norm[t, u]
                emit[t, u] = logits[b, t, u, targets[b, u]] - norm[t, u] if u < labels else -math.inf
                alpha[t, u] = transducer_alpha(alpha, stay, emit, t, u)
        total = transducer_total(alpha, stay, frames, labels)
        costs[b] = -total
        if not with_grad:
            continue
        if math.isinf(total):
            continue
        beta = np.empty((frames, labels + 1))
        for t in range(frames - 1, -1, -1):
            for u in range(labels, -1, -1):
                beta[t, u] = transducer_beta(beta, stay, emit, t, u, frames, labels)
                stays, emits = transducer_shares(alpha, beta, stay, emit, t, u, frames, labels, total)
                stays, emits = grad_costs[b] * stays, grad_costs[b] * emits
                for c in range(logits.shape[3]):
                    grad[b, t, u, c] = (stays + emits) * math.exp(logits[b, t, u, c] - norm[t, u])
                grad[b, t, u, blank] -= stays
                if u < labels:
                    grad[b, t, u, targets[b, u]] -= emits


@_kernel
def _arcs(arcs, durations, blanks, label_ends, input_lengths, target_lengths, grad_costs, costs, grad):
    with_grad = len(grad_costs) > 0
    for b in prange(len(costs)):
        frames, labels = input_lengths[b], target_lengths[b]
        alpha = np.full((frames + 1, labels + 1), -math.inf)
        alpha[0, 0] = 0.0
        for t in range(frames + 1):
            for u in range(labels + 1):
                for k in range(len(durations)):
                    right = 1 if k >= blanks else 0
                    before = t - durations[k]
                    if before < 0 or before >= frames or u < right:
                        continue
                    if right and t == frames and not label_ends:
                        continue
                    reached = alpha[before, u - right] + arcs[b, before, u - right, k]
                    alpha[t, u] = log_add(alpha[t, u], reached)
        total = alpha[frames, labels]
        costs[b] = -total
        if not with_grad or math.isinf(total):
            continue
        beta = np.full((frames + 1, labels + 1), -math.inf)
        beta[frames, labels] = 0.0
        for t in range(frames - 1, -1, -1):
            for u in range(labels, -1, -1):
                for k in range(len(durations)):
                    right = 1 if k >= blanks else 0
                    behind_ = t + durations[k]
                    if behind_ > frames or u + right > labels:
                        continue
                    if right and behind_ == frames and not label_ends:
                        continue
                    through = arcs[b, t, u, k] + beta[behind_, u + right]
                    beta[t, u] = log_add(beta[t, u], through)
                    grad[b, t, u, k] = -grad_costs[b] * math.exp(alpha[t, u] + through - total)


def arcs(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with `grad_costs` the gradient in the shape of `arcs`."""
    arcs = arcs.detach().contiguous()
    durations = np.array([*blank_durations, *label_durations], np.int64)
    input_lengths, target_lengths = (x.to(torch.int64).contiguous() for x in (input_lengths, target_lengths))
    _check_lengths(input_lengths, target_lengths, arcs.shape[1], arcs.shape[2] - 1)
    costs = arcs.new_empty(arcs.shape[0])
    weights = arcs.new_empty(0) if grad_costs is None else grad_costs.detach().to(arcs.dtype).contiguous()
    grad = arcs.new_zeros([0] * 4 if grad_costs is None else arcs.shape)
    lengths = input_lengths.numpy(), target_lengths.numpy()
    given = (arcs.numpy(), durations, len(blank_durations), bool(label_ends), *lengths)
    _on_threads(_arcs, *given, weights.numpy(), costs.numpy(), grad.numpy())
    return costs, None if grad_costs is None else grad


def ctc(*lattice: Any) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with `grad_costs` the gradient `[B, T, C]`."""
    return _run(_ctc, *lattice)


def transducer(*lattice: Any) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with `grad_costs` the gradient `[B, T, U+1, V]`."""
    return _run(_transducer, *lattice)


def _run(
    kernel: Any,
    scores: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    scores = scores.detach().contiguous()  # other strides would be compiled for anew
    targets, input_lengths, target_lengths = (
        x.to(torch.int64).contiguous() for x in (targets, input_lengths, target_lengths)
    )
    _check(scores, targets, input_lengths, target_lengths, blank_index)
    costs = scores.new_empty(scores.shape[0])
    # without a gradient of the costs both are empty: one kernel then serves either call
    weights = scores.new_empty(0) if grad_costs is None else grad_costs.detach().to(scores.dtype).contiguous()
    grad = scores.new_zeros([0] * scores.dim() if grad_costs is None else scores.shape)
    lattice = (scores.numpy(), targets.numpy(), input_lengths.numpy(), target_lengths.numpy(), blank_index)
    _on_threads(kernel, *lattice, weights.numpy(), costs.numpy(), grad.numpy())
    return costs, None if grad_costs is None else grad


def _on_threads(kernel: Any, *arguments: Any) -> None:
    """Run a kernel on as many threads as torch has."""
    with _one_at_a_time:
        before = numba.get_num_threads()
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        try:
            kernel(*arguments)
        finally:
            numba.set_num_threads(before)


def _check(
    scores: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank_index: int
) -> None:
    """Refuse what would be read from outside of the arrays, in the words of the native library."""
    classes, labels = scores.shape[-1], targets.shape[1]
    if not 0 <= blank_index < classes:
        raise ValueError(f"blank_index: got {blank_index}, expected a number in [0, {classes - 1}]")
    _check_lengths(input_lengths, target_lengths, scores.shape[1], labels)
    emitted = torch.arange(labels) < target_lengths.unsqueeze(1)
    _refuse("targets", targets.masked_fill(~emitted, 0), classes - 1)


def _check_lengths(input_lengths: Tensor, target_lengths: Tensor, frames: int, labels: int) -> None:
    _refuse("input_lengths", input_lengths.unsqueeze(1), frames)
    _refuse("target_lengths", target_lengths.unsqueeze(1), labels)


def _refuse(name: str, values: Tensor, most: int) -> None:
    """Say which of `values` `[B, N]` is outside of its range, if one is."""
    for item, place in ((values < 0) | (values > most)).nonzero().tolist():
        got = f"{name}: got {int(values[item, place])} for item {item}"
        raise ValueError(f"{got}, expected a number in [0, {most}]")
