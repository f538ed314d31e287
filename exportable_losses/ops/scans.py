"""The operators as programs that `torch.export` keeps: each loop is one node, torch's ``scan``.

A scan's body is traced once, however many steps it takes, so that every size stays open. It sees what is
carried, a slice of each sequence, and constants; it must not return what it was given. The recursions are
those of `ctc` and `transducer`, where a loop of Python stands in the scan's place.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import arc_scans, ctc, edits, transducer
from .fused import activated
from .joint import joint_arcs
from .picked import picked
from .scan import scan
from .scores import widened


def table() -> dict[Any, Callable[..., Any]]:
    """From each operator to its program, as `torch.export.ExportedProgram.run_decompositions` takes it."""
    ours = torch.ops.exportable_losses
    return {
        ours.arcs_loss.default: arc_scans.arcs_costs,
        ours.arcs_loss_grad.default: arc_scans.arcs_costs_and_grad,
        ours.arcs_align.default: arc_scans.arcs_align,
        ours.arcs_walk.default: arc_scans.arcs_walk,
        ours.emissions_loss.default: arc_scans.emissions_costs,
        ours.picked.default: picked,
        ours.joint_arcs.default: joint_arcs,
        ours.fused_joint.default: fused_joint,
        ours.fused_best.default: fused_best,
        ours.ctc_loss.default: _wide(ctc_costs),
        ours.ctc_posterior.default: _wide(ctc_posterior),
        ours.ctc_forward.default: _wide(ctc_forward),
        ours.ctc_align.default: _wide(ctc_align),
        ours.transducer_forward.default: arc_scans.transducer_forward,
        ours.transducer_loss.default: transducer_costs,
        ours.transducer_loss_grad.default: transducer_costs_and_grad,
        ours.best_permutation.default: best_permutation,
        ours.edit_counts.default: edit_counts,
    }


def _wide(program: Callable[..., Any]) -> Callable[..., Any]:
    """`program` of scores, which are cast where they have 16 bits."""
    return lambda scores, *rest: program(widened(scores), *rest)


def fused_joint(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    classes: Tensor,
    input_lengths: Tensor,
    node_lengths: Tensor,
    others: int,
    activation: str,
) -> Tensor:
    """`fused.fused_joint`, a frame of all items at a time."""

    def step(
        t: Tensor, frame: Tensor, predictor: Tensor, weight: Tensor, bias: Tensor, classes: Tensor
    ) -> Sequence[Tensor]:
        hidden = activated(frame.unsqueeze(1) + predictor, activation)
        scores = torch.matmul(hidden, weight.t()) + bias
        of_tokens, behind = scores.split([scores.shape[2] - others, others], 2)
        found = picked(of_tokens.flatten(0, 1), classes.flatten(0, 1)).view(classes.shape)
        return t + 1, torch.cat([found, behind.to(found.dtype)], 2)

    start = torch.zeros_like(input_lengths)
    constants = [predictor, weight, bias, classes]
    batch, nodes, kinds = classes.shape  # a size less one is not known from the other
    sizes = (batch, nodes, nodes - 1, kinds, kinds - 1)
    _, (found,) = scan(step, [start], [encoder.transpose(0, 1)], constants, sizes)
    found = found.transpose(0, 1)
    return found.masked_fill(
        transducer.behind(found[..., 0], input_lengths, node_lengths - 1).unsqueeze(3), 0.0
    )


def fused_best(hidden: Tensor, weight: Tensor, bias: Tensor, input_lengths: Tensor) -> Tensor:
    """`fused.fused_best`, a frame of all items at a time."""

    def step(t: Tensor, frame: Tensor, weight: Tensor, bias: Tensor) -> Sequence[Tensor]:
        return t + 1, torch.addmm(bias, frame, weight.t()).argmax(1)

    start = torch.zeros_like(input_lengths)
    _, (best,) = scan(step, [start], [hidden.transpose(0, 1)], [weight, bias], hidden.shape[:1])
    return torch.where(ctc.within(input_lengths, hidden.shape[1]), best.t(), 0)


def ctc_costs(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank_index: int
) -> Tensor:
    """`ctc.ctc_costs`, by the recursion."""
    emitted, skips = ctc.lattice(log_probs.double(), targets, target_lengths, blank_index)
    active = ctc.within(input_lengths, log_probs.shape[1])
    last = 2 * target_lengths.unsqueeze(1)

    def step(alpha: Tensor, t: Tensor, emitted: Tensor, active: Tensor, skips: Tensor) -> Sequence[Tensor]:
        return torch.where(active, ctc.transition(alpha, skips) + emitted, alpha), t + 1

    start = ctc.on(torch.zeros_like(last), skips)
    (alpha, _), _ = scan(step, [start, last], [emitted.transpose(0, 1), active.t().unsqueeze(2)], [skips])
    return -ctc.transition(alpha, skips).gather(1, last).squeeze(1).to(log_probs.dtype)


def ctc_posterior(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank_index: int
) -> tuple[Tensor, Tensor]:
    """`ctc.ctc_posterior`."""
    batch = log_probs.shape[0]
    start, emitted, active, skips = ctc.both_ways(
        log_probs.double(), targets, input_lengths, target_lengths, blank_index
    )

    def step(alpha: Tensor, emitted: Tensor, active: Tensor, skips: Tensor) -> Sequence[Tensor]:
        reached = ctc.transition(alpha, skips)
        alpha = torch.where(active, reached + emitted, alpha)
        return alpha, reached, alpha.clone()

    sequences = [emitted.transpose(0, 1), active.t().unsqueeze(2)]
    (alpha,), (reached, stepped) = scan(step, [start], sequences, [skips], targets.shape)
    before, behind = reached[:, :batch].transpose(0, 1), stepped[:, batch:].flip(0, 2).transpose(0, 1)
    costs, states = ctc.occupation(
        alpha[:batch], before, behind, active[:batch], skips[:batch], target_lengths
    )
    return costs.to(log_probs.dtype), states.to(log_probs.dtype)


def ctc_forward(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    alpha: Tensor,
    offset: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`ctc.ctc_forward`."""
    emitted, skips = ctc.lattice(log_probs, targets, target_lengths, blank_index)
    active = ctc.within(input_lengths, log_probs.shape[1])
    states, behind = ctc.by_state(alpha, skips, target_lengths)

    def step(
        states: Tensor,
        high: Tensor,
        low: Tensor,
        emitted: Tensor,
        active: Tensor,
        skips: Tensor,
        behind: Tensor,
    ) -> Sequence[Tensor]:
        return ctc.walk_on(states, high, low, emitted, active, skips, behind)

    start = [states, offset[:, 0].clone(), offset[:, 1].clone()]
    (states, high, low), _ = scan(step, start, [emitted.transpose(0, 1), active.t()], [skips, behind])
    return ctc.walked(states, high, low, skips, target_lengths)


def ctc_align(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    free_ends: bool,
) -> tuple[Tensor, Tensor]:
    """`ctc.ctc_align`."""
    emitted, skips = ctc.lattice(log_probs.double(), targets, target_lengths, blank_index)
    if free_ends:
        emitted = ctc.with_free_ends(emitted, target_lengths)
    active = ctc.within(input_lengths, log_probs.shape[1])
    last = 2 * target_lengths.unsqueeze(1)

    def forward(alpha: Tensor, emitted: Tensor, active: Tensor, skips: Tensor) -> Sequence[Tensor]:
        best, move = ctc.best_transition(alpha, skips)
        return torch.where(active, best + emitted, alpha), move * active

    start = ctc.on(torch.zeros_like(last), skips)
    sequences = [emitted.transpose(0, 1), active.t().unsqueeze(2)]
    (alpha,), (moves,) = scan(forward, [start], sequences, [skips], targets.shape)
    best, move = ctc.best_transition(alpha, skips)
    scores = best.gather(1, last).squeeze(1)

    def backward(state: Tensor, moves: Tensor) -> Sequence[Tensor]:
        return state - moves.gather(1, state), state.clone()

    _, (backwards,) = scan(backward, [last - move.gather(1, last)], [moves.flip(0)], sizes=targets.shape)
    states = backwards.flip(0).squeeze(2).t()
    states = states.masked_fill(~active | scores.isneginf().unsqueeze(1), -1)
    return states, scores.to(log_probs.dtype)


def transducer_costs(
    logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank_index: int
) -> Tensor:
    """`transducer.transducer_costs`."""
    labels = transducer.next_labels(targets, target_lengths, blank_index)
    log_probs = transducer.normalised(logits)
    stay, emit = transducer.arcs_by_diagonal(log_probs, labels, input_lengths, target_lengths, blank_index)
    alpha, _, scales = _forward(transducer.start(labels, stay), stay, emit, _sizes(logits, targets))
    return transducer.cost_of(alpha + scales, target_lengths)


def transducer_costs_and_grad(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor,
) -> tuple[Tensor, Tensor]:
    """`transducer.transducer_costs_and_grad`."""
    log_probs = transducer.normalised(logits)
    labels = transducer.next_labels(targets, target_lengths, blank_index)
    stay, emit = transducer.arcs_by_diagonal(log_probs, labels, input_lengths, target_lengths, blank_index)
    ended, alpha, scales = _forward(transducer.start(labels, stay), stay, emit, _sizes(logits, targets))

    def backward(beta: Tensor, stay: Tensor, emit: Tensor) -> Sequence[Tensor]:
        reached = torch.logaddexp(beta + stay, transducer.shift_left(beta) + emit)
        return transducer.rescaled(reached)[0], beta.clone()

    sequences = [stay.transpose(0, 1).flip(0), emit.transpose(0, 1).flip(0)]
    end = transducer.end(stay, target_lengths)
    _, (backwards,) = scan(backward, [end], sequences, sizes=_sizes(logits, targets))
    beta = backwards.flip(0).transpose(0, 1)
    costs = transducer.cost_of(ended + scales, target_lengths)
    stays, emits = transducer.occupations(alpha, beta, stay, emit, log_probs.shape[1])
    padding = transducer.behind(stays, input_lengths, target_lengths) | costs.isinf()[:, None, None]
    weight = grad_costs[:, None, None]
    stays, emits = stays.masked_fill(padding, 0.0) * weight, emits.masked_fill(padding, 0.0) * weight
    grad = (log_probs.exp() * (stays + emits).unsqueeze(-1)).masked_fill(padding.unsqueeze(-1), 0.0)
    blank = torch.full_like(labels, blank_index)
    arcs = torch.stack([blank, labels], -1).unsqueeze(1).expand(-1, log_probs.shape[1], -1, -1)
    return costs, grad.scatter_add(-1, arcs, -torch.stack([stays, emits], -1)).to(logits.dtype)


def _sizes(logits: Tensor, targets: Tensor) -> Sequence[int]:
    """B, T, U."""
    return (*logits.shape[:2], targets.shape[1])


def _forward(
    start: Tensor, stay: Tensor, emit: Tensor, sizes: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Alpha behind the last diagonal `[B, U+1]`, and before each `[B, T+U, U+1]`, and the scale `[B, 1]`."""

    def step(alpha: Tensor, stay: Tensor, emit: Tensor) -> Sequence[Tensor]:
        reached, scale = transducer.rescaled(transducer.forward(alpha, stay, emit))
        return reached, alpha.clone(), scale

    sequences = [stay.transpose(0, 1), emit.transpose(0, 1)]
    (alpha,), (alphas, scales) = scan(step, [start], sequences, sizes=sizes)
    return alpha, alphas.transpose(0, 1), scales.sum(0)


def best_permutation(costs: Tensor) -> Tensor:
    """`assignment.best_permutation`; a row looks at all subsets, those that cannot be before it, too."""
    sources = costs.shape[1]
    column = torch.arange(sources, device=costs.device)
    bit = torch.full_like(column, 2) ** column  # AOTInductor makes a number a float: of 2**column too
    subsets = torch.arange(2**sources, device=costs.device).unsqueeze(1)
    taken = (subsets & bit) != 0
    joined = subsets | bit
    rows = costs.transpose(0, 1)

    def rest_of(rest: Tensor, row: Tensor, joined: Tensor, taken: Tensor) -> Sequence[Tensor]:
        cost = row.unsqueeze(1) + rest[:, joined]
        return cost.masked_fill(taken, torch.inf).amin(2), rest.clone()

    nothing = torch.zeros_like(subsets.t(), dtype=costs.dtype).repeat(costs.shape[0], 1)
    _, (rests,) = scan(rest_of, [nothing], [rows.flip(0)], [joined, taken], costs.shape[:2])

    def pick(chosen: Tensor, row: Tensor, rest: Tensor, bit: Tensor) -> Sequence[Tensor]:
        cost = row + rest.gather(1, chosen | bit)
        best = cost.masked_fill((chosen & bit) != 0, torch.inf).argmin(1, keepdim=True)
        return chosen | bit[best], best

    none = torch.zeros_like(costs[:, :1, 0], dtype=torch.int64)
    _, (picked,) = scan(pick, [none], [rows, rests.flip(0)], [bit], costs.shape[:2])
    return picked.squeeze(2).t()


def edit_counts(
    predictions: Tensor, targets: Tensor, prediction_lengths: Tensor, target_lengths: Tensor
) -> Tensor:
    """`edits.edit_counts`, by the anti-diagonals of the table: no running minimum in a step.

    Cell (i, j) of anti-diagonal i + j stands at j; those with a negative i are out of reach.
    """
    number, size = predictions.shape[1], targets.shape[1]
    weight = number + size + 1
    targets = targets.long()
    nothing = torch.zeros_like(targets)
    tokens = torch.cat([predictions.long(), nothing], 1)
    at = torch.arange(1, weight, device=targets.device)
    goal = (prediction_lengths + target_lengths).unsqueeze(1)

    def step(
        before: Tensor, last: Tensor, seen: Tensor, cost: Tensor,
        token: Tensor, at: Tensor, targets: Tensor, place: Tensor, goal: Tensor, weight: Tensor,
    ) -> Sequence[Tensor]:  # fmt: skip
        kept = before[:, :-1] + (seen != targets) * weight
        gap = torch.minimum(last[:, :-1], last[:, 1:]) + (weight + 1)
        now = torch.cat([last[:, :1] + (weight + 1), torch.minimum(kept, gap)], 1)
        seen = torch.cat([token.unsqueeze(1), seen[:, :-1]], 1)
        return last.clone(), now, seen, torch.where(goal == at, now.gather(1, place), cost)

    behind = torch.full_like(torch.cat([nothing, goal], 1), 1 << 40)
    first = torch.where(torch.arange(size + 1, device=targets.device) == 0, 0, behind)
    place = target_lengths.unsqueeze(1)
    carried = [behind, first, nothing, torch.zeros_like(goal)]
    (_, _, _, cost), _ = scan(
        step, carried, [tokens.t(), at], [targets, place, goal, torch.full_like(place[:1], weight)]
    )
    return edits.counts_of(cost.squeeze(1), weight, prediction_lengths - target_lengths)
