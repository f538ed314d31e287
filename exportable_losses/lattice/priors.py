"""Label priors: how probable each class is in general, which scores are compared without.

Huang et al. 2024, "Less peaky and more accurate CTC forced alignment by label priors",
https://arxiv.org/abs/2406.02560.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.ctc import within
from ..ops.scores import widened


def checked_priors(log_priors: Tensor | Sequence[float]) -> Tensor:
    """Logarithms of probabilities `[C]`, float32."""
    priors = (
        torch.as_tensor(log_priors, dtype=torch.float32).detach().clone()
    )  # ours: a recipe copies into it
    if priors.dim() != 1 or not bool((priors.isfinite() & (priors <= 0)).all()):
        expected = "expected a vector of logarithms of probabilities above zero"
        raise ValueError(f"log_priors: got {list(priors.shape)} numbers, {expected}")
    return priors


def check_classes(log_probs: Tensor, log_priors: Tensor) -> None:
    """Refuse priors of other classes than `log_probs` has."""
    if log_probs.shape[-1] != log_priors.shape[0]:
        expected = f"{log_probs.shape[-1]}, one for each of log_probs"
        raise ValueError(f"log_priors: got {log_priors.shape[0]} classes, expected {expected}")


def without_priors(log_probs: Tensor, log_priors: Tensor, wildcard: str) -> Tensor:
    """`log_probs` `[B, T, C]`, or C+1 with a wildcard, less the priors of the C classes."""
    if wildcard != "none":
        log_priors = torch.nn.functional.pad(log_priors, [0, 1])
    log_probs = widened(log_probs)
    return log_probs - log_priors.to(log_probs.dtype)


def normalised(scores: Tensor, classes: int, frames: Tensor) -> tuple[Tensor, Tensor]:
    """`scores` `[B, T, N]` with a softmax's in their first `classes`, and by how much an item's fell `[B]`.

    CTC's gradient is right behind a softmax alone. Of scores that are all less by a number at each frame, the
    cost is more by the sum of these.
    """
    total = scores[:, :, :classes].logsumexp(2, keepdim=True)
    total = torch.where(total.isfinite(), total, 0.0)
    return scores - total, (total.squeeze(2) * within(frames, total.shape[1])).sum(1)
