"""The transducer (RNN-T): its loss, the posterior of its lattice, and the best path through it."""

from typing import Final

import torch
from torch import Tensor, nn

from . import ops
from .checks import check_choice, check_inputs
from .contract import Contract, Input, Total
from .masking import absolute_length

TRANSDUCER = Contract(
    (
        Input("logits", "B T U+1 V"),
        Input("targets", "B U", "index", below="V", lengths="target_lens"),
        Input("input_lens", "B", "relative_length", of="T"),
        Input("target_lens", "B", "relative_length_or_zero", of="U"),
    ),
    differentiable=("logits",),
    totals=(Total("loss"),),
)
POSTERIOR = Contract(TRANSDUCER.inputs, ("posteriors", "emissions", "costs"), totals=(Total("costs"),))
_PATH = ("tokens", "starts", "ends", "scores", "path_scores")
ALIGN = Contract(TRANSDUCER.inputs, _PATH, totals=(Total("path_scores"),))


def _lengths(
    logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor, blank_index: int
) -> tuple[Tensor, Tensor]:
    """The frames and the labels of each item `[B]`, int64, of inputs that an eager call has checked."""
    if not torch.jit.is_scripting():
        given = {
            "logits": logits,
            "targets": targets,
            "input_lens": input_lens,
            "target_lens": target_lens,
        }
        check_inputs(TRANSDUCER, given, blank_index=blank_index)
    return absolute_length(input_lens, logits.shape[1]), absolute_length(target_lens, targets.shape[1])


class TransducerLoss(nn.Module):
    """The negative log-likelihood of label sequences under a transducer's lattice.

    Graves 2012, "Sequence Transduction with Recurrent Neural Networks",
    https://arxiv.org/abs/1211.3711.

    Args:
        blank_index: the class of the blank.
        reduction: ``none`` and ``batch`` for costs in nats `[B]`, ``sum``, ``mean`` and
            ``batchmean`` for their mean over items.
        normalize: divide each cost by its item's number of frames, as SpeechBrain's Numba
            transducer does; torchaudio's does not.

    Forward takes `logits` `[B, T, U+1, V]` (normalised inside), `targets` `[B, U]` (integers
    without the blank; what lies behind an item's length is not read), and the relative lengths
    `[B]` `input_lens` (of T, in (0, 1]) and `target_lens` (of U, in [0, 1]).

    Raises:
        ValueError: the shapes do not fit, a length is outside its range, or a label is the blank
            or not below V.

    Example:
        >>> import torch
        >>> loss = TransducerLoss(blank_index=0, reduction="sum")
        >>> ones = torch.tensor([1.0])
        >>> loss(torch.zeros(1, 2, 2, 4), torch.tensor([[3]]), ones, ones)
        tensor(3.4657)
    """

    custom_ops: Final[bool]  # script to our operator instead of plain torch; see to_torchscript

    def __init__(
        self,
        blank_index: int = 0,
        reduction: str = "mean",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.reduction = check_choice("reduction", reduction)
        self.normalize = normalize
        self.custom_ops = False

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Tensor:
        blank_index = self.blank_index
        input_lengths, target_lengths = _lengths(logits, targets, input_lens, target_lens, blank_index)
        if torch.jit.is_scripting():
            if self.custom_ops:
                costs = torch.ops.exportable_losses.transducer_loss(
                    logits, targets, input_lengths, target_lengths, blank_index
                )
            else:
                costs = ops.transducer_costs(logits, targets, input_lengths, target_lengths, blank_index)
        else:
            costs = torch.ops.exportable_losses.transducer_loss(
                logits, targets, input_lengths, target_lengths, blank_index
            )
        if self.normalize:
            costs = costs / input_lengths.to(costs.dtype)
        if self.reduction == "sum":
            return costs.sum()
        if self.reduction == "mean" or self.reduction == "batchmean":
            return costs.mean()
        return costs


def transducer_loss(
    logits: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int,
    reduction: str = "mean",
    use_torchaudio: bool = True,
) -> Tensor:
    """`TransducerLoss` as a function, with the argument names of SpeechBrain.

    SpeechBrain's two transducers disagree: with `use_torchaudio` costs are torchaudio's, without
    it each is divided by its number of frames. Neither torchaudio nor Numba is needed here.
    """
    loss = TransducerLoss(blank_index, reduction, normalize=not use_torchaudio)
    return loss(logits, targets, input_lens, target_lens)


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

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.custom_ops = False

    def forward(
        self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        input_lengths, target_lengths = _lengths(logits, targets, input_lens, target_lens, self.blank_index)
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


class TransducerAlign(nn.Module):
    """The most probable path through a transducer's lattice: when each label is emitted.

    Viterbi's algorithm on the lattice of Graves 2012, https://arxiv.org/abs/1211.3711. Of paths that
    are equally probable it takes the one that emits the last label that they disagree on earlier.

    Args:
        blank_index: the class of the blank.

    Forward takes what that of `TransducerLoss` does. It returns, `[B, U]` each, the `tokens`, which
    are the labels with -1 behind an item's length; `starts`, the frame at which each is emitted;
    `ends`, one more; the `scores`, log-probabilities in nats of each label at its node; and `[B]` the
    `path_scores`, those of whole paths, blanks among them. Frames and scores are zero behind an item's
    length. Where no path is possible scores are minus infinity and frames zero. No gradient goes
    through.

    Raises:
        ValueError: the shapes do not fit, a length is outside its range, or a label is the blank
            or not below V.

    Example:
        >>> import torch
        >>> ones = torch.tensor([1.0])
        >>> logits = torch.zeros(1, 3, 2, 4)
        >>> logits[0, 1, 0, 3] = 5.0  # label 3 at frame 1, when none has been emitted yet
        >>> tokens, starts, ends, *_ = TransducerAlign()(logits, torch.tensor([[3]]), ones, ones)
        >>> tokens, starts, ends
        (tensor([[3]]), tensor([[1]]), tensor([[2]]))
    """

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index

    def forward(
        self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        blank_index, logits = self.blank_index, logits.detach()
        input_lengths, target_lengths = _lengths(logits, targets, input_lens, target_lens, blank_index)
        if torch.jit.is_scripting():
            frames, path_scores = ops.transducer_align(
                logits, targets, input_lengths, target_lengths, blank_index
            )
        else:
            frames, path_scores = torch.ops.exportable_losses.transducer_align(
                logits, targets, input_lengths, target_lengths, blank_index
            )
        u = torch.arange(targets.shape[1], device=targets.device)
        is_label = u < target_lengths.unsqueeze(1)
        aligned = is_label & path_scores.isfinite().unsqueeze(1)
        label = torch.where(is_label, targets.long(), blank_index).unsqueeze(2)
        at = nn.functional.pad(frames, [0, 1]).unsqueeze(1).unsqueeze(-1).expand(-1, -1, -1, logits.shape[3])
        scores = logits.gather(1, at)[:, 0, :-1].log_softmax(-1).gather(2, label).squeeze(2)
        scores = scores.masked_fill(~aligned, -float("inf")).masked_fill(~is_label, 0.0)
        return torch.where(is_label, targets.long(), -1), frames, frames + aligned.long(), scores, path_scores
