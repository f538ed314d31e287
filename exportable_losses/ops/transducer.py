"""The transducer lattice in plain torch, one diagonal at a time.

Graves 2012, "Sequence Transduction with Recurrent Neural Networks", section 2.4,
https://arxiv.org/abs/1211.3711. A node (t, u) says that u labels were emitted before frame t. A
blank leads to (t + 1, u), the next label to (t, u + 1). All nodes of a diagonal n = t + u
depend on the diagonal before it alone, so one step is a few vector operations.

A node behind an item's last frame emits nothing: (T, U) keeps its probability and every other
one has none. So the total stands at u = U of the last diagonal, however long the item is.
"""

import torch
from torch import Tensor

from .scores import widened


def log_zero() -> float:
    """Stands for log 0; finite, so that no difference of two is a NaN, in values or gradients."""
    return -1e30


def transducer_costs(
    logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank_index: int
) -> Tensor:
    """Minus the log-probability of each target, summed over its alignments: `[B]`.

    Args:
        logits: `[B, T, U+1, V]`, normalised here.
        targets: `[B, U]`; what lies behind an item's length is not read.
        input_lengths: frames per item `[B]`, int64.
        target_lengths: labels per item `[B]`, int64.
        blank_index: the class of the blank.
    """
    # autograd would multiply what lies behind the lengths by zero, and a NaN by zero is a NaN
    outside = behind(logits[..., 0], input_lengths, target_lengths).unsqueeze(-1)
    log_probs = normalised(logits.masked_fill(outside, 0.0))
    labels = next_labels(targets, target_lengths, blank_index)
    stay, emit = arcs_by_diagonal(log_probs, labels, input_lengths, target_lengths, blank_index)
    alpha = start(labels, stay)
    for n in range(stay.shape[1]):
        alpha = forward(alpha, stay[:, n], emit[:, n])
    return cost_of(alpha, target_lengths)


def transducer_costs_and_grad(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor,
) -> tuple[Tensor, Tensor]:
    """The costs `[B]` and the gradient of their sum, weighted by `grad_costs`, in `logits`, of
    their type.

    It is `softmax * occupation of the node - occupation of the arc`, and zero where the cost is
    infinite. A path takes one arc of each diagonal, so that the occupations of those are a softmax. In
    it a factor of the whole diagonal is nothing, and alpha and beta can stay near one: the logarithm of
    what thousands of arcs multiply to has few digits behind the point.
    """
    log_probs = normalised(logits)
    labels = next_labels(targets, target_lengths, blank_index)
    stay, emit = arcs_by_diagonal(log_probs, labels, input_lengths, target_lengths, blank_index)
    diagonals = stay.shape[1]
    alphas, scales = [start(labels, stay)], []
    for n in range(diagonals):
        alpha, scale = rescaled(forward(alphas[-1], stay[:, n], emit[:, n]))
        alphas.append(alpha)
        scales.append(scale)
    betas = [end(stay, target_lengths)]
    for n in range(diagonals - 1, -1, -1):
        beta = torch.logaddexp(betas[-1] + stay[:, n], shift_left(betas[-1]) + emit[:, n])
        betas.append(rescaled(beta)[0])
    alpha = torch.stack(alphas[:-1], 1)
    beta = torch.stack(betas[-2::-1], 1)
    costs = cost_of(alphas[-1] + torch.stack(scales).sum(0), target_lengths)
    stays, emits = occupations(alpha, beta, stay, emit, log_probs.shape[1])
    # the arcs behind the last frame are of no logit
    padding = behind(stays, input_lengths, target_lengths) | costs.isinf()[:, None, None]
    weight = grad_costs[:, None, None]
    stays, emits = stays.masked_fill(padding, 0.0) * weight, emits.masked_fill(padding, 0.0) * weight
    grad = log_probs.exp_().mul_((stays + emits).unsqueeze(-1)).masked_fill_(padding.unsqueeze(-1), 0.0)
    grad[..., blank_index] -= stays
    grad.scatter_add_(-1, at_labels(labels, grad), -emits.unsqueeze(-1))
    return costs, grad.to(logits.dtype)


# What the recursions are made of, in `scans` too


def normalised(logits: Tensor) -> Tensor:
    """The log-probabilities of the classes at each node."""
    return widened(logits).log_softmax(-1)


def illegal_seen(targets: Tensor) -> Tensor:
    """The labels, int64, a negative one so large that whatever looks it up refuses it.

    It would be taken for none: what is compiled does not check it before.
    """
    targets = targets.long()
    return torch.where(targets < 0, 1 << 40, targets)


def next_labels(targets: Tensor, target_lengths: Tensor, blank_index: int) -> Tensor:
    """The label that leaves each u, the blank where there is none: `[B, U+1]`."""
    padded = torch.nn.functional.pad(targets.long(), [0, 1])
    emitted = torch.arange(padded.shape[1], device=targets.device) < target_lengths.unsqueeze(1)
    return torch.where(emitted, padded, blank_index)


def at_labels(labels: Tensor, like: Tensor) -> Tensor:
    """The index of the label at each node of `like` `[B, T, U+1, V]`."""
    return labels.unsqueeze(1).unsqueeze(-1).expand(-1, like.shape[1], -1, -1)


def _by_frame(log_probs: Tensor, labels: Tensor, blank_index: int) -> tuple[Tensor, Tensor]:
    """The log-probabilities of the blank and of the next label at each node: `[B, T, U+1]` each."""
    return log_probs[..., blank_index], log_probs.gather(3, at_labels(labels, log_probs)).squeeze(3)


def arcs_by_diagonal(
    log_probs: Tensor, labels: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank_index: int
) -> tuple[Tensor, Tensor]:
    """The log-probabilities of the two arcs out of each node, by diagonal: `[B, T+U, U+1]` each."""
    u = torch.arange(labels.shape[1], device=labels.device)
    diagonals = log_probs.shape[1] + labels.shape[1] - 1
    t = torch.arange(diagonals, device=labels.device).unsqueeze(1) - u
    frame = t.clamp(0, log_probs.shape[1] - 1).expand(log_probs.shape[0], -1, -1)
    frames, lengths = input_lengths[:, None, None], target_lengths[:, None, None]
    inside = (t >= 0) & (t < frames) & (u <= lengths)
    stay, emit = _by_frame(log_probs, labels, blank_index)
    stay, emit = stay.gather(1, frame), emit.gather(1, frame)
    ended = torch.where((t >= frames) & (u == lengths), 0.0, log_zero()).to(stay.dtype)
    return (
        torch.where(inside, stay.clamp(min=log_zero()), ended),
        torch.where(inside & (u < lengths), emit.clamp(min=log_zero()), log_zero()),
    )


def behind(nodes: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """Whether each of the nodes `[B, T, U+1]` lies behind its item's frames or labels."""
    t = torch.arange(nodes.shape[1], device=nodes.device).unsqueeze(1)
    u = torch.arange(nodes.shape[2], device=nodes.device)
    return (t >= input_lengths[:, None, None]) | (u > target_lengths[:, None, None])


def start(labels: Tensor, like: Tensor) -> Tensor:
    """Before the first diagonal all probability is at u = 0: `[B, U+1]`."""
    first = torch.arange(labels.shape[1], device=labels.device) == 0
    return torch.where(first, 0.0, log_zero()).to(like.dtype).repeat(labels.shape[0], 1)


def end(like: Tensor, target_lengths: Tensor) -> Tensor:
    """Behind the last diagonal all probability is at u = U: `[B, U+1]`."""
    last = torch.arange(like.shape[2], device=like.device) == target_lengths.unsqueeze(1)
    return torch.where(last, 0.0, log_zero()).to(like.dtype)


def forward(alpha: Tensor, stay: Tensor, emit: Tensor) -> Tensor:
    """alpha(t, u) = alpha(t-1, u) blank(t-1, u) + alpha(t, u-1) label(t, u-1), in logarithms."""
    emitted = torch.nn.functional.pad((alpha + emit)[:, :-1], [1, 0], value=log_zero())
    return torch.logaddexp(alpha + stay, emitted)


def rescaled(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """`alpha` with 0 as its largest, and what it has lost: `[B, U+1]` and `[B, 1]`."""
    scale = alpha.amax(1, keepdim=True)
    return alpha - scale, scale


def shift_left(beta: Tensor) -> Tensor:
    """Beta of the node that the label leads to."""
    return torch.nn.functional.pad(beta[..., 1:], [0, 1], value=log_zero())


def occupations(
    alpha: Tensor, beta: Tensor, stay: Tensor, emit: Tensor, frames: int
) -> tuple[Tensor, Tensor]:
    """How probable the blank and the label at each node are, given the target: `[B, T, U+1]` each.

    Alpha, beta and the arcs are by diagonal, of the nodes that an arc leaves and that it leads to.
    """
    arcs = torch.cat([alpha + stay + beta, alpha + emit + shift_left(beta)], 2).softmax(2)
    staying, emitting = arcs.chunk(2, 2)
    return _unskew(staying, frames), _unskew(emitting, frames)


def _unskew(by_diagonal: Tensor, frames: int) -> Tensor:
    """From `[B, T+U, U+1]` by diagonal to `[B, T, U+1]` by frame."""
    u = torch.arange(by_diagonal.shape[2], device=by_diagonal.device)
    n = torch.arange(frames, device=by_diagonal.device).unsqueeze(1) + u
    return by_diagonal.gather(1, n.expand(by_diagonal.shape[0], -1, -1))


def cost_of(alpha: Tensor, target_lengths: Tensor) -> Tensor:
    """The costs `[B]` of alpha behind the last diagonal; infinite where no path is possible."""
    cost = -alpha.gather(1, target_lengths.unsqueeze(1)).squeeze(1)
    return torch.where(cost > -log_zero() / 10, float("inf"), cost)
