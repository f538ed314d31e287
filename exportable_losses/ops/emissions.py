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
    tokens = logits[..., : logits.shape[3] - durations]
    lasting = logits[..., logits.shape[3] - durations :].log_softmax(-1)
    labels = next_labels(targets, target_lengths, token[0])
    if hybrid >= 0:
        blank = tokens[..., hybrid]
        others = torch.arange(tokens.shape[3], device=tokens.device) != hybrid
        log_probs = tokens.masked_fill(~others, -float("inf")).log_softmax(-1)
        # ln(1 - sigmoid(x)) is -softplus(x); of x above 80 it is x, in 64 bits too
        log_probs = log_probs - torch.nn.functional.softplus(blank, 1.0, 80.0).unsqueeze(-1)
        stay = -torch.nn.functional.softplus(-blank, 1.0, 80.0)
        log_probs = torch.where(others, log_probs, stay.unsqueeze(-1))
    else:
        log_probs = tokens.log_softmax(-1)
    log_probs = log_probs - sigma
    label = log_probs.gather(3, at_labels(labels, log_probs)).squeeze(3)
    if fastemit_lambda != 0.0:
        finite = torch.where(label.isfinite(), label, 0.0)
        label = label + fastemit_lambda * (finite - finite.detach())
    label = shaped(label, log_probs[..., token[0]], input_lengths, constrained, delay_penalty)
    arcs = []
    for k in range(len(token)):
        arc = label if token[k] < 0 else log_probs[..., token[k]]
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
