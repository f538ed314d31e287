"""The occupation of a lattice: how probable each of its states is, given the target."""

from typing import Final

import torch
from torch import Tensor, nn

from .. import ops
from ..contract import Contract, Total
from ..settings import settings_repr
from .ctc import CTC, ctc_lengths
from .transducer import TRANSDUCER, transducer_lengths

__all__ = ["CTCPosterior", "TransducerPosterior"]

CTC_POSTERIOR = Contract(CTC.inputs, ("posteriors", "costs"), totals=(Total("costs"),))
TRANSDUCER_POSTERIOR = Contract(
    TRANSDUCER.inputs, ("posteriors", "emissions", "costs"), totals=(Total("costs"),)
)


class CTCPosterior(nn.Module):
    """The occupation of the lattice: how probable each state is at each frame, given the target.

    Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf, equation 14. A target of n
    labels has 2n + 1 states: blanks at the even ones, label (s - 1) / 2 at the odd. No gradient flows
    to `log_probs`; that of the costs is `CTCLoss`'s.

    Args:
        blank_index: the class of the blank.

    Forward takes what `CTCLoss` takes. It returns the probabilities `[B, T, 2S+1]`, which add up to one
    over the states of each frame, and the costs in nats `[B]`. Behind an item's frames and states the
    probabilities are zero. A target that cannot be aligned costs infinity, and all of its are zero.

    Raises:
        ValueError: the shapes do not fit, a length is outside its range, or a label is the blank
            or not below C.

    Example:
        >>> import torch
        >>> log_probs = torch.full((1, 2, 3), 1 / 3).log()
        >>> posteriors, costs = CTCPosterior()(log_probs, torch.tensor([[1]]), torch.ones(1), torch.ones(1))
        >>> posteriors
        tensor([[[0.3333, 0.6667, 0.0000],
                 [0.0000, 0.6667, 0.3333]]])
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index

    def forward(
        self, log_probs: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor]:
        blank_index = self.blank_index
        input_lengths, target_lengths = ctc_lengths(log_probs, targets, input_lens, target_lens, blank_index)
        log_probs = log_probs.detach()
        if torch.jit.is_scripting():
            costs, posteriors = ops.ctc_posterior(
                log_probs, targets, input_lengths, target_lengths, blank_index
            )
        else:
            costs, posteriors = torch.ops.exportable_losses.ctc_posterior(
                log_probs, targets, input_lengths, target_lengths, blank_index
            )
        return posteriors, costs


class TransducerPosterior(nn.Module):
    """How probable each node of a transducer's lattice is, given the labels.

    Graves 2012, section 2.5, https://arxiv.org/abs/1211.3711: forward times backward variable, divided
    by the probability of the labels. The gradient of the loss holds it, so that whoever computes that
    computes this.

    Args:
        blank_index: the class of the blank.

    Forward takes what that of `TransducerLoss` does. It returns `posteriors` `[B, T, U+1]`, the
    probability that a path passes through the node (t, u), that is, that u labels have been emitted
    and more may be at frame t; `emissions` `[B, T, U]`, the probability that label u is emitted at
    frame t; and the `costs` `[B]`, in nats. Posteriors and emissions are zero behind an item's frames
    and labels, and where its cost is infinite. No gradient goes through.

    Raises:
        ValueError: the shapes do not fit, a length is outside its range, or a label is the blank
            or not below V.

    Example:
        >>> import torch
        >>> ones = torch.tensor([1.0])
        >>> posteriors, emissions, costs = TransducerPosterior()(
        ...     torch.zeros(1, 2, 2, 4), torch.tensor([[3]]), ones, ones
        ... )
        >>> posteriors  # the label is emitted at either frame
        tensor([[[1.0000, 0.5000],
                 [0.5000, 1.0000]]])
        >>> emissions.squeeze(-1)
        tensor([[0.5000, 0.5000]])
    """

    custom_ops: Final[bool]  # script to our operator instead of plain torch; see to_torchscript

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.custom_ops = False

    def forward(
        self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        input_lengths, target_lengths = transducer_lengths(
            logits, targets, input_lens, target_lens, self.blank_index
        )
        three = ops.with_no_arc(logits.detach(), targets, target_lengths, self.blank_index)
        labels, each = torch.ones_like(targets), torch.ones_like(three[:, 0, 0, 0])
        if torch.jit.is_scripting():
            if self.custom_ops:
                costs, grad = torch.ops.exportable_losses.transducer_loss_grad(
                    three, labels, input_lengths, target_lengths, 0, each
                )
            else:
                costs, grad = ops.transducer_costs_and_grad(
                    three, labels, input_lengths, target_lengths, 0, each
                )
        else:
            costs, grad = torch.ops.exportable_losses.transducer_loss_grad(
                three, labels, input_lengths, target_lengths, 0, each
            )
        return ops.transducer_posteriors(three, costs, grad, input_lengths, target_lengths)
