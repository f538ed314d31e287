"""Any transducer's lattice in plain torch, given its arcs: one diagonal at a time.

A node (t, u) says that u labels were emitted before frame t; every path leads from (0, 0) to (T, U). A blank
arc of duration d > 0 leads from (t, u) to (t + d, u), a label arc of duration d >= 0 to (t + d, u + 1). So

    alpha(t, u) = sum over d of alpha(t-d, u) blank(t-d, u, d) + alpha(t-d, u-1) label(t-d, u-1, d)

and all nodes of a diagonal n = t + u depend on diagonals before it alone: those that the arcs come from, a
blank's d back, a label's d + 1. The recursion keeps as many of them as the longest arc reaches over, less
what they have in common, for the logarithm of what thousands of arcs multiply to has few digits behind the
point.

Graves 2012 (one blank of duration 1, labels of duration 0), https://arxiv.org/abs/1211.3711; Xu et al. 2023
(blanks and labels of several), https://arxiv.org/abs/2304.06795.
"""

import torch
from torch import Tensor

from .transducer import behind, log_zero


def arcs_costs(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
) -> Tensor:
    """Minus the log-probability of all paths of each item: `[B]`, infinite where there is none.

    Args:
        arcs: the log-probabilities of the arcs that leave each node `[B, T, U+1, K]`, blanks before labels.
        input_lengths: frames per item `[B]`, int64.
        target_lengths: labels per item `[B]`, int64.
        blank_durations: of the blank arcs, in frames.
        label_durations: of the label arcs.
        label_ends: whether a label's arc may lead to frame T.
    """
    steps, labels = steps_of(blank_durations, label_durations), len(label_durations)
    arcs = legal(arcs, input_lengths, target_lengths, blank_durations, label_durations, label_ends)
    entering = by_target(by_diagonal(arcs), steps, labels)
    alpha = start(arcs, max(steps))
    rows, scales = [alpha[:, 0]], [torch.zeros_like(alpha[:, 0, 0])]
    for n in range(1, entering.shape[1]):
        alpha, scale = forward(alpha, entering[:, n], steps, labels)
        rows.append(alpha[:, 0])
        scales.append(scale)
    return costs_of(torch.stack(rows, 1), torch.stack(scales, 1), input_lengths, target_lengths)


def arcs_costs_and_grad(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
    grad_costs: Tensor,
) -> tuple[Tensor, Tensor]:
    """The costs `[B]` and the gradient of their sum, weighted by `grad_costs`, in `arcs`.

    That of an arc is minus its occupation: how probable it is that a path takes it. Alpha, beta and the arc
    multiply to it, where beta has lost what alpha has lost behind the arc, and the total's logarithm.
    """
    steps, labels = steps_of(blank_durations, label_durations), len(label_durations)
    allowed = legal(arcs, input_lengths, target_lengths, blank_durations, label_durations, label_ends)
    leaving = by_diagonal(allowed)
    entering = by_target(leaving, steps, labels)
    first = start(arcs, max(steps))
    alpha, rows, scales = first, [first[:, 0]], [torch.zeros_like(first[:, 0, 0])]
    for n in range(1, entering.shape[1]):
        alpha, scale = forward(alpha, entering[:, n], steps, labels)
        rows.append(alpha[:, 0])
        scales.append(scale)
    alphas, lost = torch.stack(rows, 1), torch.stack(scales, 1)
    costs = costs_of(alphas, lost, input_lengths, target_lengths)
    last = ends_of(alphas, input_lengths, target_lengths)
    beta, taken = torch.full_like(first, log_zero()), torch.empty_like(leaving)
    following = torch.nn.functional.pad(lost[:, 1:], [0, 1])
    for n in range(leaving.shape[1] - 1, -1, -1):
        beta, taken[:, n] = backward(
            beta, leaving[:, n], alphas[:, n], last[:, n], following[:, n], steps, labels
        )
    return costs, gradient_of(taken, steps, costs, arcs, input_lengths, target_lengths, grad_costs)


def arcs_align(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Where each label's arc begins on the best path, which of the labels' arcs it is, and the path's score.

    Starts and arcs are `[B, U]`, zero behind the last label and where no path is possible; the scores are
    log-probabilities `[B]`. The forward recursion keeps the best of the arcs into each node, of those that
    are as good the first, and the path goes back along them.
    """
    steps, labels = steps_of(blank_durations, label_durations), len(label_durations)
    dtype, arcs = arcs.dtype, arcs.double()  # in float32 long sums have lost what tells two paths apart
    allowed = legal(arcs, input_lengths, target_lengths, blank_durations, label_durations, label_ends)
    entering = by_target(by_diagonal(allowed), steps, labels)
    alpha = start(arcs, max(steps))
    rows, scales = [alpha[:, 0]], [torch.zeros_like(alpha[:, 0, 0])]
    chosen = torch.zeros(
        entering.shape[0], entering.shape[1], arcs.shape[2], dtype=torch.int64, device=arcs.device
    )
    for n in range(1, entering.shape[1]):
        alpha, scale, chosen[:, n] = forward_best(alpha, entering[:, n], steps, labels)
        rows.append(alpha[:, 0])
        scales.append(scale)
    scores = -costs_of(torch.stack(rows, 1), torch.stack(scales, 1), input_lengths, target_lengths)
    u = target_lengths.unsqueeze(1)
    at = u + input_lengths.unsqueeze(1)
    emitted, since, arc = [u[:, :0]], [u[:, :0]], [u[:, :0]]
    for n in range(entering.shape[1] - 1, 0, -1):
        u, at, label, frame, kind = back(u, at, chosen[:, n], torch.full_like(u, n), steps, labels)
        emitted.append(label)
        since.append(frame)
        arc.append(kind)
    path = (torch.cat(emitted, 1), torch.cat(since, 1), torch.cat(arc, 1))
    starts, kinds = path_of(path[0], path[1], path[2], scores, target_lengths, arcs.shape[2], steps, labels)
    return starts, kinds, scores.to(dtype)


def legal(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
) -> Tensor:
    """`arcs` where they leave a node of their item and lead to one, and `log_zero` elsewhere."""
    t = torch.arange(arcs.shape[1], device=arcs.device).unsqueeze(1)
    u = torch.arange(arcs.shape[2], device=arcs.device)
    frames, labels = input_lengths[:, None, None], target_lengths[:, None, None]
    allowed = [(t + d <= frames) & (u <= labels) for d in blank_durations]
    for d in label_durations:
        allowed.append((t < frames) & (t + d < frames + int(label_ends)) & (u < labels))
    return torch.where(torch.stack(allowed, 3), arcs.clamp(min=log_zero()), log_zero())


def by_diagonal(arcs: Tensor) -> Tensor:
    """From `[B, T, U+1, K]` by frame to `[B, T+U+1, U+1, K]` by diagonal, of the nodes that arcs leave."""
    u = torch.arange(arcs.shape[2], device=arcs.device)
    t = torch.arange(arcs.shape[1] + arcs.shape[2], device=arcs.device).unsqueeze(1) - u
    # Of the frames outside, one that is impossible.
    frame = torch.where(t < 0, arcs.shape[1], t.clamp(max=arcs.shape[1]))
    padded = torch.nn.functional.pad(arcs, [0, 0, 0, 0, 0, 1], value=log_zero())
    return padded.gather(1, frame.unsqueeze(2).expand(arcs.shape[0], -1, -1, arcs.shape[3]))


def by_frame(diagonals: Tensor, frames: int) -> Tensor:
    """From `[B, T+U+1, U+1, K]` by diagonal back to `[B, T, U+1, K]` by frame."""
    u = torch.arange(diagonals.shape[2], device=diagonals.device)
    n = torch.arange(frames, device=diagonals.device).unsqueeze(1) + u
    return diagonals.gather(1, n.unsqueeze(2).expand(diagonals.shape[0], -1, -1, diagonals.shape[3]))


def by_target(leaving: Tensor, steps: list[int], labels: int) -> Tensor:
    """From the nodes that arcs leave, `[B, T+U+1, U+1, K]`, to those that they enter, arcs before nodes."""
    entered = []
    for k, step in enumerate(steps):
        right = 1 if k >= len(steps) - labels else 0
        arc = torch.nn.functional.pad(leaving[..., k], [right, 0, step, 0], value=log_zero())
        entered.append(arc[:, : leaving.shape[1], : leaving.shape[2]])
    return torch.stack(entered, 2)


def start(arcs: Tensor, diagonals: int) -> Tensor:
    """The last diagonals before the first step: all probability is at (0, 0). `[B, diagonals, U+1]`."""
    u = torch.arange(arcs.shape[2], device=arcs.device)
    first = (torch.arange(diagonals, device=arcs.device).unsqueeze(1) == 0) & (u == 0)
    return torch.where(first, 0.0, log_zero()).to(arcs.dtype).repeat(arcs.shape[0], 1, 1)


def forward(alpha: Tensor, entering: Tensor, steps: list[int], labels: int) -> tuple[Tensor, Tensor]:
    """The last diagonals `[B, diagonals, U+1]` one step on, less their largest, and that `[B]`."""
    return _moved_on(alpha, _reached(alpha, entering, steps, labels).logsumexp(1))


def forward_best(
    alpha: Tensor, entering: Tensor, steps: list[int], labels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same of the best path to each node, and the arc it comes by, the first of equals `[B, U+1]`."""
    reached = _reached(alpha, entering, steps, labels)
    best = reached.amax(1)
    kinds = torch.arange(len(steps), device=alpha.device).unsqueeze(1)
    chosen = torch.where(reached == best.unsqueeze(1), kinds, len(steps) - 1).amin(1)
    alpha, scale = _moved_on(alpha, best)
    return alpha, scale, chosen


def _reached(alpha: Tensor, entering: Tensor, steps: list[int], labels: int) -> Tensor:
    """What comes to each node of the next diagonal by each arc: `[B, K, U+1]`."""
    reached = []
    for k, step in enumerate(steps):
        before = alpha[:, step - 1]
        if k >= len(steps) - labels:
            before = torch.nn.functional.pad(before[:, :-1], [1, 0], value=log_zero())
        reached.append(before + entering[:, k])
    return torch.stack(reached, 1)


def _moved_on(alpha: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    alpha = torch.cat([here.unsqueeze(1), alpha[:, :-1]], 1)
    scale = alpha.amax([1, 2])
    return alpha - scale[:, None, None], scale


def back(
    u: Tensor, at: Tensor, chosen: Tensor, n: Tensor, steps: list[int], labels: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One diagonal back along the best path.

    Args:
        u: the labels emitted so far on the path from its end `[B, 1]`.
        at: the diagonal that the path is on `[B, 1]`.
        chosen: the arcs that its nodes are reached by `[B, U+1]`.
        n: the number of this diagonal.
        steps: how many diagonals each arc leads on.
        labels: how many of the arcs are labels.

    Returns:
        `u` and `at` where the path has come from, if it is on this diagonal; the label that the arc emits or
        -1, the frame that it leaves, and which arc it is, `[B, 1]` each.
    """
    arc, here = chosen.gather(1, u), at == n
    emits = here & (arc >= len(steps) - labels)
    u = (u - emits.long()).clamp(min=0)  # an impossible path knows no bound
    at = torch.where(here, at - number_of(arc, steps), at)
    return u, at, torch.where(emits, u, -1), at - u, arc


def number_of(index: Tensor, numbers: list[int]) -> Tensor:
    """Of each index the number, as exporters know it: without a tensor of them."""
    found = torch.zeros_like(index)
    for k, number in enumerate(numbers):
        found = torch.where(index == k, number, found)
    return found


def path_of(
    emitted: Tensor,
    since: Tensor,
    arc: Tensor,
    scores: Tensor,
    target_lengths: Tensor,
    nodes: int,
    steps: list[int],
    labels: int,
) -> tuple[Tensor, Tensor]:
    """Where each label's arc begins, and which of the labels' arcs it is, of what `back` gives `[B, N]`."""
    to = torch.where(emitted < 0, nodes - 1, emitted)  # what emits nothing, behind all labels
    none = torch.zeros([to.shape[0], nodes], dtype=torch.int64, device=to.device)
    j = torch.arange(nodes - 1, device=to.device)
    on_path = (j < target_lengths.unsqueeze(1)) & scores.isfinite().unsqueeze(1)
    starts = none.scatter(1, to, since)[:, :-1]
    kinds = none.scatter(1, to, arc - (len(steps) - labels))[:, :-1]
    return torch.where(on_path, starts, 0), torch.where(on_path, kinds, 0)


def backward(
    beta: Tensor, leaving: Tensor, alpha: Tensor, last: Tensor, scale: Tensor, steps: list[int], labels: int
) -> tuple[Tensor, Tensor]:
    """The diagonals behind `[B, diagonals, U+1]` one step back, and how often each arc is taken.

    The second is `[B, U+1, K]`.

    Args:
        beta: of the diagonals behind this one.
        leaving: the arcs of this diagonal `[B, U+1, K]`.
        alpha: of this diagonal `[B, U+1]`.
        last: beta of items that end on this diagonal `[B, U+1]`.
        scale: what alpha of the next diagonal has lost `[B]`.
        steps: how many diagonals each arc leads on.
        labels: how many of the arcs are labels.
    """
    beta = beta - scale[:, None, None]
    followed = []
    for k, step in enumerate(steps):
        behind = beta[:, step - 1]
        if k >= len(steps) - labels:
            behind = torch.nn.functional.pad(behind[:, 1:], [0, 1], value=log_zero())
        followed.append(behind)
    through = leaving + torch.stack(followed, 2)
    taken = (alpha.unsqueeze(2) + through).exp()
    here = torch.maximum(through.logsumexp(2), last)
    return torch.cat([here.unsqueeze(1), beta[:, :-1]], 1), taken


def costs_of(alphas: Tensor, scales: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """The costs `[B]` of what `forward` gives: where each item ends, alpha and all that it has lost."""
    ends = (input_lengths + target_lengths).unsqueeze(1)
    within = torch.arange(scales.shape[1], device=scales.device) <= ends
    costs = -_at_end(alphas, ends, target_lengths) - scales.masked_fill(~within, 0.0).sum(1)
    return torch.where(costs > -log_zero() / 10, float("inf"), costs)


def ends_of(alphas: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """Beta where the items end `[B, diagonals, U+1]`, less the logarithm of the total."""
    ends = (input_lengths + target_lengths).unsqueeze(1)
    n = torch.arange(alphas.shape[1], device=alphas.device)
    u = torch.arange(alphas.shape[2], device=alphas.device)
    there = (n == ends).unsqueeze(2) & (u == target_lengths.unsqueeze(1)).unsqueeze(1)
    return torch.where(there, -_at_end(alphas, ends, target_lengths)[:, None, None], log_zero())


def _at_end(alphas: Tensor, ends: Tensor, target_lengths: Tensor) -> Tensor:
    row = alphas.gather(1, ends.unsqueeze(2).expand(-1, -1, alphas.shape[2])).squeeze(1)
    return row.gather(1, target_lengths.unsqueeze(1)).squeeze(1)


def gradient_of(
    taken: Tensor,
    steps: list[int],
    costs: Tensor,
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    grad_costs: Tensor,
) -> Tensor:
    """The gradient in the arcs, of how often each is taken by diagonal `[B, T+U+1, U+1, K]`.

    Between two diagonals every path takes one arc. What those that lead over add up to is one but for the
    digits that alpha and beta have lost far from their largest, and which are given back here.
    """
    over = torch.zeros_like(taken[:, :, 0, 0])
    for k, step in enumerate(steps):
        left = taken[..., k].sum(2)
        for n in range(step):
            over = over + torch.nn.functional.pad(left, [n, 0])[:, : left.shape[1]]
    taken = taken / torch.where(over > 0, over, 1.0).unsqueeze(2).unsqueeze(3)
    nowhere = behind(arcs[..., 0], input_lengths, target_lengths) | costs.isinf()[:, None, None]
    occupation = by_frame(taken, arcs.shape[1]).masked_fill(nowhere.unsqueeze(3), 0.0)
    return -(occupation * grad_costs[:, None, None, None])


def steps_of(blank_durations: list[int], label_durations: list[int]) -> list[int]:
    """How many diagonals each arc leads on."""
    return blank_durations + [d + 1 for d in label_durations]
