"""From logits to the arcs of a transducer's lattice, in plain torch.

What the arcs are is said by lists with a number for each of K: `token` the class of a blank, or -1 for the
next label; `logit` which of the D logits of durations behind the V of tokens says how long the arc lasts, or
-1. Blanks come first.
"""

import torch
from torch import Tensor

from .scores import widened
from .transducer import at_labels, behind, next_labels


def emitted_arcs(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    token: list[int],
    logit: list[int],
    durations: int,
    hybrid: int = -1,
    constrained: bool = False,
    sigma: float = 0.0,
    fastemit_lambda: float = 0.0,
    delay_penalty: float = 0.0,
) -> Tensor:
    """The log-probabilities of the arcs that leave each node `[B, T, U+1, K]`; those of padding mean nothing.

    Args:
        logits: `[B, T, U+1, V + D]`.
        targets: `[B, U]`; what lies behind an item's length is not read.
        input_lengths: frames per item `[B]`, int64.
        target_lengths: labels per item `[B]`, int64.
        token: of each arc.
        logit: of each arc.
        durations: D.
        hybrid: the blank whose logit is of a sigmoid, the labels' being of a softmax of their own; or -1.
        constrained: whether a label's arc takes the blank of (t, u + 1), too.
        sigma: off the log-probability of each token.
        fastemit_lambda: by how much more a label's token counts in the gradient.
        delay_penalty: on a label's arc, times how many frames it comes before the middle of its item.
    """
    # autograd would multiply what lies behind the lengths by zero, and a NaN by zero is a NaN
    outside = behind(logits[..., 0], input_lengths, target_lengths).unsqueeze(-1)
    logits = widened(logits).masked_fill(outside, 0.0)
    scores, lasting = logits.split([logits.shape[3] - durations, durations], 3)
    labels = at_labels(next_labels(targets, target_lengths, token[0]), scores)
    if hybrid >= 0:
        others = torch.arange(scores.shape[3], device=scores.device) != hybrid
        log_probs = scores.masked_fill(~others, -float("inf")).log_softmax(-1)
        tokens = decided(scores[..., hybrid], log_probs.gather(3, labels).squeeze(3))
    else:
        log_probs = scores.log_softmax(-1)
        blanks = [log_probs[..., c] for c in classes_of(token)[0][:-1]]
        blanks.append(log_probs.gather(3, labels).squeeze(3))
        tokens = torch.stack(blanks, 3)
    return arcs_of_tokens(
        tokens,
        lasting,
        input_lengths,
        token,
        logit,
        constrained,
        sigma,
        fastemit_lambda,
        delay_penalty,
    )


def classes_of(token: list[int]) -> tuple[list[int], list[int]]:
    """The classes of the arcs, each once, and where among them each arc has its own; the label's is last."""
    classes: list[int] = []
    for each in token:
        if each not in classes:
            classes.append(each)
    return classes, [classes.index(each) for each in token]


def decided(blank: Tensor, label: Tensor) -> Tensor:
    """A hybrid's tokens `[..., 2]`, of the logit of its blank, which is a sigmoid's, and its label's
    log-probability beside other labels.
    """
    # ln(1 - sigmoid(x)) is -softplus(x); of x above 80 it is x, in 64 bits too
    stay = -torch.nn.functional.softplus(-blank, 1.0, 80.0)
    return torch.stack([stay, label - torch.nn.functional.softplus(blank, 1.0, 80.0)], -1)


def arcs_of_tokens(
    tokens: Tensor,
    lasting: Tensor,
    input_lengths: Tensor,
    token: list[int],
    logit: list[int],
    constrained: bool,
    sigma: float,
    fastemit_lambda: float,
    delay_penalty: float,
) -> Tensor:
    """The arcs `[B, T, U+1, K]` of the log-probabilities of their `classes_of`, and logits of durations."""
    lasting = lasting.log_softmax(3)
    tokens = tokens - sigma
    label = tokens[..., -1]
    if fastemit_lambda != 0.0:
        finite = torch.where(label.isfinite(), label, 0.0)
        label = label + fastemit_lambda * (finite - finite.detach())
    label = shaped(label, tokens[..., 0], input_lengths, constrained, delay_penalty)
    at = classes_of(token)[1]
    arcs = []
    for k in range(len(token)):
        arc = label if token[k] < 0 else tokens[..., at[k]]
        arcs.append(arc if logit[k] < 0 else arc + lasting[..., logit[k]])
    return torch.stack(arcs, 3)


def shaped(
    label: Tensor, blank: Tensor, input_lengths: Tensor, constrained: bool, delay_penalty: float
) -> Tensor:
    """The labels' arcs `[B, T, U+1]`: with the blank behind them if they are constrained, and the penalty."""
    if constrained:
        label = label + torch.nn.functional.pad(blank[:, :, 1:], [0, 1])
    if delay_penalty != 0.0:
        t = torch.arange(label.shape[1], device=label.device)
        early = (input_lengths - 1).unsqueeze(1) / 2 - t
        label = label + delay_penalty * early.to(label.dtype).unsqueeze(2)
    return label
