"""The posterior of a lattice: how probable each of its states is, given the target."""

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

        posterior(t, s) = alpha(t, s) · beta(t, s) / (p(t, label of s) · p(target))

    Graves et al. 2006, equation 14, https://www.cs.toronto.edu/~graves/icml_2006.pdf. A target of n labels
    has 2n + 1 states: blanks at the even ones, label (s - 1) / 2 at the odd ones. No gradient flows to
    `log_probs`; for the gradient of the costs, use `CTCLoss`.

    Args:
        blank_index: the class of the blank.

    The call takes what `CTCLoss` takes. It returns the probabilities `[B, T, 2S+1]`, which add up to one over
    the states of each frame, and the costs in nats `[B]`. Beyond the frames and states of an item the
    probabilities are zero. A target that cannot be aligned has an infinite cost and zeros throughout.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below C.

    Examples:
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

        posterior(t, u) = alpha(t, u) · beta(t, u) / p(labels)
        emission(t, u) = alpha(t, u) · p(label u + 1 at (t, u)) · beta(t, u + 1) / p(labels)

    Graves 2012, section 2.5, https://arxiv.org/abs/1211.3711. No gradient flows to `logits`.

    Args:
        blank_index: the class of the blank.

    The call takes what `TransducerLoss` takes. It returns:

    - `posteriors` `[B, T, U+1]`: the probability that a path passes through the node (t, u), where u labels
      have been emitted by frame t;
    - `emissions` `[B, T, U]`: the probability that label u is emitted at frame t;
    - `costs` `[B]`, in nats.

    Posteriors and emissions are zero beyond the frames and labels of an item, and where its cost is infinite.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below V.

    Examples:
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
