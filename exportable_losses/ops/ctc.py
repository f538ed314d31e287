"""The CTC lattice in plain torch: costs by torch's own kernel, occupation and best path by recursion.

Graves et al. 2006, "Connectionist Temporal Classification: Labelling Unsegmented Sequence Data
with Recurrent Neural Networks", https://www.cs.toronto.edu/~graves/icml_2006.pdf.

The lattice of a target has 2S+1 states: blanks at the even ones, the label (s - 1) / 2 at the odd. A
path begins on the first blank, before the first frame, and ends on the last one, behind the last
frame. At each frame it stays, steps to the next state, or skips the blank between two labels.

Costs and occupation are computed in float64: in float32 the logarithms of thousands of frames, and torch's
kernel too, lose the digits that a gradient is made of.
"""

import torch
from torch import Tensor

from .scores import widened


def ctc_costs(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank_index: int
) -> Tensor:
    """Minus the log-probability of each target, summed over its alignments: `[B]`.

    Args:
        log_probs: `[B, T, C]`.
        targets: `[B, S]`; what lies behind an item's length is not read.
        input_lengths: frames per item `[B]`, int64.
        target_lengths: labels per item `[B]`, int64.
        blank_index: the class of the blank.

    A target that cannot be aligned costs infinity, and has no gradient.
    """
    if log_probs.shape[0] == 0:  # which torch refuses
        return widened(log_probs).sum([1, 2])
    frames_first = log_probs.double().transpose(0, 1)
    # torch's last argument is about the gradient alone: without it an infinite cost has a NaN
    costs, _ = torch._ctc_loss(frames_first, targets, input_lengths, target_lengths, blank_index, True)
    costs = costs.to(widened(log_probs).dtype)
    return costs + poison(log_probs, targets, input_lengths, target_lengths, blank_index)


def ctc_costs_and_grad(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor,
) -> tuple[Tensor, Tensor]:
    """The costs `[B]` and the gradient of their sum, weighted by `grad_costs`, in `log_probs`.

    The gradient, in the type of `log_probs`, is torch's: `exp(log_probs) - occupation`, the gradient in
    the logits when `log_probs` come from a log-softmax. It is zero where the cost is infinite, and where a
    log-probability is minus infinity (torch gives NaN there), and a NaN in all frames where the cost is.
    """
    if log_probs.shape[0] == 0:
        return widened(log_probs).sum([1, 2]), torch.zeros_like(log_probs)
    frames_first = log_probs.double().transpose(0, 1)
    costs, log_alpha = torch.ops.aten._ctc_loss.Tensor(
        frames_first, targets, input_lengths, target_lengths, blank_index
    )
    grad = torch.ops.aten._ctc_loss_backward.Tensor(
        grad_costs.double(),
        frames_first,
        targets,
        input_lengths,
        target_lengths,
        costs,
        log_alpha,
        blank_index,
        True,
    ).transpose(0, 1)
    costs = costs.to(widened(log_probs).dtype)
    grad = grad.masked_fill(log_probs.isneginf(), 0.0).to(log_probs.dtype)
    return poisoned(costs, grad, log_probs, targets, input_lengths, target_lengths, blank_index)


def poison(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank_index: int
) -> Tensor:
    """What makes a NaN of an item's cost, and zero for all others `[B]`.

    An item is poisoned by a NaN or +inf among what its target reads, blanks too, whichever path would take
    it: the recursions of different computers, and their sums, lose such a score in different places.
    """
    labels = labels_and_blank(targets, target_lengths, blank_index)
    read = log_probs.detach().gather(2, labels.unsqueeze(1).expand(-1, log_probs.shape[1], -1))
    wrong = ~(read < torch.inf) & within(input_lengths, log_probs.shape[1]).unsqueeze(2)
    nothing = torch.zeros(log_probs.shape[0], dtype=log_probs.dtype, device=log_probs.device)
    return nothing.masked_fill(wrong.flatten(1).any(1), torch.nan)


def poisoned(
    costs: Tensor,
    by_frame: Tensor,
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
) -> tuple[Tensor, Tensor]:
    """`costs` `[B]` and `by_frame` `[B, T, *]`, of poisoned items a NaN and NaN within their frames."""
    bane = poison(log_probs, targets, input_lengths, target_lengths, blank_index)
    inside = within(input_lengths, log_probs.shape[1]) & bane.isnan().unsqueeze(1)
    return costs + bane, by_frame.masked_fill(inside.unsqueeze(2), torch.nan)


def ctc_posterior(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank_index: int
) -> tuple[Tensor, Tensor]:
    """The costs `[B]`, and the probability of each state at each frame given the target: `[B, T, 2S+1]`.

    The arguments are those of `ctc_costs`. Zero behind an item's frames and states, and where the cost
    is infinite. Reversed in time and states, the backward variable obeys the forward recursion, so both
    are one batch of 2B.
    """
    batch, frames = log_probs.shape[0], log_probs.shape[1]
    scores = log_probs.double()
    alpha, emitted, active, skips = both_ways(scores, targets, input_lengths, target_lengths, blank_index)
    before, behind = torch.empty_like(emitted[:batch]), torch.empty_like(emitted[:batch])
    for t in range(frames):
        reached = transition(alpha, skips)
        alpha = torch.where(active[:, t : t + 1], reached + emitted[:, t], alpha)
        before[:, t] = reached[:batch]
        behind[:, frames - 1 - t] = alpha[batch:].flip(1)
    costs, states = occupation(alpha[:batch], before, behind, active[:batch], skips[:batch], target_lengths)
    dtype = widened(log_probs).dtype
    costs, states = costs.to(dtype), states.to(dtype)
    return poisoned(costs, states, log_probs, targets, input_lengths, target_lengths, blank_index)


def ctc_forward(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    alpha: Tensor,
    offset: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk on from where earlier frames have led: the costs `[B]` if this were the end, alpha and offset.

    The other arguments are those of `ctc_costs`, `log_probs` those of the next frames.

    Args:
        alpha: `[B, 2, S+1]`, blanks and labels: the log-probability of each state, without `offset`.
        offset: `[B, 2]`, what all of an item's have in common, as the sum of a number and its rounding.

    The largest of an item's states is taken out at every frame, so that no number grows with time, and here
    how the frames are divided among calls changes no bit.
    """
    emitted, skips = lattice(widened(log_probs), targets, target_lengths, blank_index)
    active = within(input_lengths, log_probs.shape[1])
    states, behind = by_state(alpha, skips, target_lengths)
    high, low = offset[:, 0], offset[:, 1]
    for t in range(log_probs.shape[1]):
        states, high, low = walk_on(states, high, low, emitted[:, t], active[:, t], skips, behind)
    return walked(states, high, low, skips, target_lengths)


def by_state(alpha: Tensor, skips: Tensor, target_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha `[B, 2, S+1]` as `[B, 2S+1]`, -inf behind an item's last state, and which those are."""
    states = torch.arange(skips.shape[1], device=skips.device)
    behind = states > 2 * target_lengths.unsqueeze(1)
    return alpha.transpose(1, 2).flatten(1)[:, :-1].masked_fill(behind, -torch.inf), behind


def walk_on(
    states: Tensor, high: Tensor, low: Tensor, emitted: Tensor, active: Tensor, skips: Tensor, behind: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One frame: the states without their largest, which goes to `high`, its rounding to `low`."""
    reached = (transition(states, skips) + emitted).masked_fill(behind, -torch.inf)
    return without_largest(reached, states, high, low, active)


def without_largest(
    reached: Tensor, states: Tensor, high: Tensor, low: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What active items have `reached` `[B, N]`, less the largest, which is added up; others keep all."""
    most = reached.amax(1)
    most = torch.where(active & ~most.isneginf(), most, 0.0)
    # Knuth's sum of two numbers, and what it has rounded away
    total = high + most
    added = total - high
    low = low + ((high - (total - added)) + (most - added))
    return torch.where(active.unsqueeze(1), reached - most.unsqueeze(1), states), total, low


def walked(
    states: Tensor, high: Tensor, low: Tensor, skips: Tensor, target_lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What `ctc_forward` gives of what its frames have led to."""
    ended = transition(states, skips).gather(1, 2 * target_lengths.unsqueeze(1)).squeeze(1)
    rows = torch.nn.functional.pad(states, [0, 1], value=-torch.inf).unflatten(1, [-1, 2]).transpose(1, 2)
    return -(high + (low + ended)), rows.contiguous(), torch.stack([high, low], 1)


def ctc_align(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    free_ends: bool,
) -> tuple[Tensor, Tensor]:
    """The state of the best path at each frame `[B, T]`, and the path's log-probability `[B]`.

    The other arguments are those of `ctc_costs`. The states, int64, are -1 behind an item's frames and where
    no path has a probability; there the log-probability is -inf. Looking back from the end, a path that
    stayed goes before one as good that stepped, and that before one that skipped.

    Args:
        free_ends: the frames before the first label and behind the last emit anything, of probability one.
    """
    frames = log_probs.shape[1]
    emitted, skips = lattice(log_probs.double(), targets, target_lengths, blank_index)
    active = within(input_lengths, frames)
    last = 2 * target_lengths.unsqueeze(1)
    if free_ends:
        emitted = with_free_ends(emitted, target_lengths)
    alpha = on(torch.zeros_like(last), skips)
    moves = torch.empty_like(emitted, dtype=torch.int8)
    for t in range(frames):
        now = active[:, t : t + 1]
        best, move = best_transition(alpha, skips)
        alpha = torch.where(now, best + emitted[:, t], alpha)
        moves[:, t] = move * now
    best, move = best_transition(alpha, skips)
    scores = best.gather(1, last).squeeze(1).to(widened(log_probs).dtype)
    scores = scores + poison(log_probs, targets, input_lengths, target_lengths, blank_index)
    state = last - move.gather(1, last)
    states = torch.empty_like(active, dtype=torch.int64)
    for t in range(frames - 1, -1, -1):
        states[:, t] = state.squeeze(1)
        state = state - moves[:, t].gather(1, state)
    return states.masked_fill(~active | ~scores.isfinite().unsqueeze(1), -1), scores


# What the recursions are made of, in `scans` too


def within(lengths: Tensor, size: int) -> Tensor:
    """Whether each of `size` places lies within the length of each item `[B, size]`."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def labels_and_blank(targets: Tensor, target_lengths: Tensor, blank_index: int) -> Tensor:
    """The labels of each item, and the blank behind them: `[B, S+1]`, int64."""
    padded = torch.nn.functional.pad(targets.long(), [0, 1])
    return torch.where(within(target_lengths, padded.shape[1]), padded, blank_index)


def lattice(
    log_probs: Tensor, targets: Tensor, target_lengths: Tensor, blank_index: int
) -> tuple[Tensor, Tensor]:
    """What each state emits at each frame `[B, T, 2S+1]`, and each arc over a blank `[B, 2S+1]`: 0 or -inf.

    Such an arc leads from one label to the next, unless they are equal; two blanks are.
    """
    padded = labels_and_blank(targets, target_lengths, blank_index)
    labels = torch.stack([torch.full_like(padded, blank_index), padded], 2).flatten(1)[:, :-1]
    two_before = torch.nn.functional.pad(labels, [2, 0], value=float(blank_index))[:, :-2]
    skips = torch.zeros_like(labels, dtype=log_probs.dtype).masked_fill(labels == two_before, -torch.inf)
    return log_probs.gather(2, labels.unsqueeze(1).expand(-1, log_probs.shape[1], -1)), skips


def with_free_ends(emitted: Tensor, target_lengths: Tensor) -> Tensor:
    """What each state emits `[B, T, 2S+1]`; the first and the last anything, of probability one."""
    states = torch.arange(emitted.shape[2], device=emitted.device)
    ends = (states == 0) | (states == 2 * target_lengths.unsqueeze(1))
    return emitted.masked_fill(ends.unsqueeze(1), 0.0)


def both_ways(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The lattice of each target, and reversed in time and states, as one batch of 2B.

    Alpha before the first frame `[2B, 2S+1]`, what each state emits `[2B, T, 2S+1]`, which frames there
    are `[2B, T]`, and the arcs over blanks `[2B, 2S+1]`.
    """
    emitted, skips = lattice(log_probs, targets, target_lengths, blank_index)
    active = within(input_lengths, log_probs.shape[1])
    last = 2 * target_lengths.unsqueeze(1)
    start = torch.cat([on(torch.zeros_like(last), skips), on(last, skips).flip(1)])
    # the arc that skips into s + 2 comes from s: reversed, it leads into s
    reversed_skips = torch.nn.functional.pad(skips, [0, 2], value=-torch.inf)[:, 2:].flip(1)
    return (
        start,
        torch.cat([emitted, emitted.flip(1, 2)]),
        torch.cat([active, active.flip(1)]),
        torch.cat([skips, reversed_skips]),
    )


def occupation(
    alpha: Tensor, before: Tensor, behind: Tensor, active: Tensor, skips: Tensor, target_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """What `ctc_posterior` gives, of the variables before and behind each emission `[B, T, 2S+1]`."""
    costs = -transition(alpha, skips).gather(1, 2 * target_lengths.unsqueeze(1)).squeeze(1)
    # every frame adds up to the same; divided by its own sum it has the rounding of that frame alone
    held = active & ~costs.isinf().unsqueeze(1)
    return costs, (before + behind).softmax(2).masked_fill(~held.unsqueeze(2), 0.0)


def on(state: Tensor, like: Tensor) -> Tensor:
    """Probability one on a state of each item `[B, 1]`, none on the others: logarithms like `[B, 2S+1]`."""
    return torch.full_like(like, -torch.inf).scatter(1, state, 0.0)


def _arrivals(alpha: Tensor, skips: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha one state before each, and two before where an arc leads over the blank."""
    before = torch.nn.functional.pad(alpha, [2, 0], value=-torch.inf)
    return before[:, 1:-1], before[:, :-2] + skips


def transition(alpha: Tensor, skips: Tensor) -> Tensor:
    """alpha(s) + alpha(s-1) + alpha(s-2) where it may skip, in logarithms."""
    one, two = _arrivals(alpha, skips)
    return torch.logaddexp(torch.logaddexp(alpha, one), two)


def best_transition(alpha: Tensor, skips: Tensor) -> tuple[Tensor, Tensor]:
    """The best of what `transition` adds up, and how many states it came over; of equals the fewest."""
    one, two = _arrivals(alpha, skips)
    nearer = torch.maximum(alpha, one)
    return torch.maximum(nearer, two), (one > alpha).to(torch.int8).masked_fill(two > nearer, 2)
