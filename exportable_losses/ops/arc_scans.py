"""The lattices of given arcs as programs that `torch.export` keeps, by scans over their diagonals."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import arcs as lattice
from . import ctc, transducer
from .emissions import emitted_arcs
from .forward import frame_on, frames_on
from .scan import scan


def arcs_costs(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
) -> Tensor:
    """`arcs.arcs_costs`."""
    shape = (blank_durations, label_durations, label_ends)
    _, alphas, scales, _ = _forward(lattice.forward, arcs, input_lengths, target_lengths, *shape)
    return lattice.costs_of(alphas, scales, input_lengths, target_lengths)


def emissions_costs(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
    *emissions: Any,
) -> Tensor:
    """`arcs_costs` of the arcs that `emissions.emitted_arcs` makes of logits."""
    arcs = emitted_arcs(logits, targets, input_lengths, target_lengths, *emissions)
    return arcs_costs(arcs, input_lengths, target_lengths, blank_durations, label_durations, label_ends)


def arcs_costs_and_grad(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
    grad_costs: Tensor,
) -> tuple[Tensor, Tensor]:
    """`arcs.arcs_costs_and_grad`."""
    steps, labels = lattice.steps_of(blank_durations, label_durations), len(label_durations)
    shape = (blank_durations, label_durations, label_ends)
    leaving, alphas, scales, _ = _forward(lattice.forward, arcs, input_lengths, target_lengths, *shape)
    costs = lattice.costs_of(alphas, scales, input_lengths, target_lengths)

    def step(beta: Tensor, leaving: Tensor, alpha: Tensor, last: Tensor, scale: Tensor) -> Sequence[Tensor]:
        return lattice.backward(beta, leaving, alpha, last, scale, steps, labels)

    sequences = (
        leaving,
        alphas,
        lattice.ends_of(alphas, input_lengths, target_lengths),
        torch.nn.functional.pad(scales[:, 1:], [0, 1]),
    )
    behind = torch.full_like(lattice.start(arcs, max(steps)), transducer.log_zero())
    reversed_ = [each.transpose(0, 1).flip(0) for each in sequences]
    _, (taken,) = scan(step, [behind], reversed_, sizes=_sizes(arcs))
    taken = taken.flip(0).transpose(0, 1)
    return costs, lattice.gradient_of(taken, steps, costs, arcs, input_lengths, target_lengths, grad_costs)


def _forward(
    step: Callable[..., Any],
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The arcs by diagonal, alpha of each `[B, T+U+1, U+1]`, and what it has lost there `[B, T+U+1]`.

    Last is what else `step`, one of `arcs`, gives of each diagonal.
    """
    steps, labels = lattice.steps_of(blank_durations, label_durations), len(label_durations)
    shape = (blank_durations, label_durations, label_ends)
    leaving = lattice.by_diagonal(lattice.legal(arcs, input_lengths, target_lengths, *shape))
    entering = lattice.by_target(leaving, steps, labels)

    def body(alpha: Tensor, entering: Tensor) -> Sequence[Tensor]:
        alpha, scale, *more = step(alpha, entering, steps, labels)
        return alpha, alpha[:, 0].clone(), scale, *more

    first = lattice.start(arcs, max(steps))
    _, (rows, scales, *more) = scan(body, [first], [entering[:, 1:].transpose(0, 1)], sizes=_sizes(arcs))
    alphas = torch.cat([first[:, :1], rows.transpose(0, 1)], 1)
    return leaving, alphas, torch.nn.functional.pad(scales.t(), [1, 0]), more


def arcs_align(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`arcs.arcs_align`."""
    steps, labels = lattice.steps_of(blank_durations, label_durations), len(label_durations)
    shape = (blank_durations, label_durations, label_ends)
    _, alphas, scales, (chosen,) = _forward(lattice.forward_best, arcs, input_lengths, target_lengths, *shape)
    scores = -lattice.costs_of(alphas, scales, input_lengths, target_lengths)

    def back(u: Tensor, at: Tensor, chosen: Tensor, n: Tensor) -> Sequence[Tensor]:
        return lattice.back(u, at, chosen, n, steps, labels)

    n = torch.arange(chosen.shape[0], device=arcs.device) + 1
    u = target_lengths.unsqueeze(1)
    _, path = scan(back, [u, u + input_lengths.unsqueeze(1)], [chosen.flip(0), n.flip(0)], sizes=_sizes(arcs))
    emitted, since, arc = (each.squeeze(2).t() for each in path)
    return (
        *lattice.path_of(emitted, since, arc, scores, target_lengths, arcs.shape[2], steps, labels),
        scores,
    )


def arcs_walk(
    arcs: Tensor, input_lengths: Tensor, target_lengths: Tensor, *shape: Any
) -> tuple[Tensor, Tensor]:
    """Costs `[B]` and the occupation of the arcs."""
    blanks, labels, label_ends = shape
    each = -torch.ones_like(input_lengths, dtype=arcs.dtype)
    return arcs_costs_and_grad(arcs, input_lengths, target_lengths, blanks, labels, label_ends, each)


def _sizes(arcs: Tensor) -> Sequence[int]:
    """B, T, U, U+1: a size plus one is not known from the other."""
    return (*arcs.shape[:2], arcs.shape[2] - 1, arcs.shape[2])


def transducer_forward(
    arcs: Tensor, input_lengths: Tensor, target_lengths: Tensor, alpha: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`forward.transducer_forward`."""
    active = ctc.within(input_lengths, arcs.shape[1])
    behind = ~ctc.within(target_lengths + 1, arcs.shape[2])

    def step(
        alpha: Tensor, high: Tensor, low: Tensor, arcs: Tensor, active: Tensor, behind: Tensor
    ) -> Sequence[Tensor]:
        return frame_on(alpha, high, low, arcs, active, behind)

    start = [alpha.masked_fill(behind, -torch.inf), offset[:, 0].clone(), offset[:, 1].clone()]
    (alpha, high, low), _ = scan(step, start, [arcs.transpose(0, 1), active.t()], [behind])
    return frames_on(alpha, high, low, target_lengths)
