"""Wildcards in CTC's targets: a label for what a transcript lacks.

The wildcard is the label C, behind the classes. It is a label like others: a run of its frames is one, two in
a row have a blank between. What it emits is made of the other scores of a frame:

    max    the largest of the labels' probabilities
    sum    their sum: any label
    mean   their mean: an average one, as in Gao et al. 2023, https://arxiv.org/abs/2309.15796
    zero   one: as much as anything can, the star of torchaudio's `forced_align`

The sum is the star of Pratap et al. 2022, https://arxiv.org/abs/2201.12208.
"""

import torch
from torch import Tensor

from ..ops.scores import widened

WILDCARDS = ("none", "max", "sum", "mean", "zero")


def with_wildcard(log_probs: Tensor, blank_index: int, wildcard: str) -> Tensor:
    """`log_probs` `[B, T, C]` and, unless `wildcard` is ``none``, behind them what it emits: `[B, T, C+1]`.

    Raises:
        ValueError: there is no class but the blank to make it of, or the blank is no class.
    """
    if wildcard == "none":
        return log_probs
    log_probs = widened(log_probs)
    if torch.jit.is_scripting() and blank_index >= log_probs.shape[2]:  # which would be the wildcard
        raise ValueError(f"blank_index: got {blank_index}, expected a class of log_probs")
    if wildcard == "zero":
        return torch.nn.functional.pad(log_probs, [0, 1])
    if not torch.jit.is_scripting() and log_probs.shape[2] == 1:
        raise ValueError(f"log_probs: got 1 class, expected some besides the blank, for wildcard={wildcard}")
    labels = torch.cat([log_probs[:, :, :blank_index], log_probs[:, :, blank_index + 1 :]], 2)
    emitted = labels.amax(2, keepdim=True) if wildcard == "max" else labels.logsumexp(2, keepdim=True)
    if wildcard == "mean":
        number = torch.ones_like(labels[:1, :1]).sum(2, keepdim=True)  # a size that any exporter keeps open
        emitted = emitted - number.log()
    return torch.cat([log_probs, emitted], 2)
