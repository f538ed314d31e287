"""The hybrid autoregressive transducer (HAT): whether to emit, and what, are two decisions."""

import torch
from torch import Tensor

from ..checks import check_choice
from ..settings import settings_repr
from .arcs import Emissions, OfLattice, arcs_of, check_blank, reduced
from .transducer import transducer_lengths

__all__ = ["HATLoss"]


def hat_emissions(blank_index: int) -> Emissions:
    """A blank that is a sigmoid's, and a label of a softmax over the others."""
    return Emissions(arcs_of("regular"), token=[check_blank(blank_index), -1], hybrid=blank_index)


def check_hat(logits: Tensor) -> None:
    """Refuse logits without a class beside the blank."""
    if isinstance(logits, Tensor) and logits.dim() == 4 and logits.shape[3] < 2:
        raise ValueError(f"logits: got {logits.shape[3]} class, expected the blank and others")


class HATLoss(OfLattice):
    """The negative log-likelihood of label sequences under a hybrid autoregressive transducer.

        cost = -ln sum over the paths from (0, 0) to (T, U) of the product of the probabilities of their arcs
        blank from (t, u) to (t + 1, u): sigmoid(z_blank)
        label from (t, u) to (t, u + 1): (1 - sigmoid(z_blank)) · softmax(z without z_blank)

    Variani et al. 2020, "Hybrid Autoregressive Transducer", https://arxiv.org/abs/2003.07705, equations 3 to
    5. The labels' softmax is a language model of its own, which can be subtracted when another is added.

    Args:
        blank_index: the class of the blank.
        reduction: ``none`` and ``batch`` for costs in nats `[B]`, ``sum``, ``mean`` and ``batchmean`` for
            their mean over items.

    The call takes what `TransducerLoss` takes.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below V.

    Examples:
        >>> import torch
        >>> loss = HATLoss(blank_index=0, reduction="sum")
        >>> ones = torch.tensor([1.0])
        >>> loss(torch.zeros(1, 2, 2, 4), torch.tensor([[3]]), ones, ones)
        tensor(2.4849)
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0, reduction: str = "mean") -> None:
        super().__init__()
        self.blank_index = blank_index
        self.reduction = check_choice("reduction", reduction)
        self.emissions = hat_emissions(blank_index)

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            check_hat(logits)
        frames, labels = transducer_lengths(logits, targets, input_lens, target_lens, self.blank_index)
        return reduced(self.emissions(logits, targets, frames, labels), self.reduction)


def hat_loss(
    logits: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int = 0,
    reduction: str = "mean",
) -> Tensor:
    """`HATLoss` as a function."""
    return HATLoss(blank_index, reduction)(logits, targets, input_lens, target_lens)
