"""Connectionist temporal classification."""

from typing import Final

import torch
from torch import Tensor, nn

from .. import ops
from ..checks import check_choice, check_inputs
from ..contract import Contract, Input, Total
from ..lengths import absolute_length
from ..masking import as_index
from ..settings import settings_repr

__all__ = ["CTCLoss"]

CTC = Contract(
    (
        Input("log_probs", "B T C", "log_probability"),
        Input("targets", "B S", "index", below="C", lengths="target_lens"),
        Input("input_lens", "B", "relative_length", of="T"),
        Input("target_lens", "B", "relative_length_or_zero", of="S"),
    ),
    differentiable=("log_probs",),
    totals=(Total("loss"),),
)


def ctc_lengths(
    log_probs: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor, blank_index: int
) -> tuple[Tensor, Tensor]:
    """The frames and the labels of each item `[B]`, int64, of inputs that an eager call has checked."""
    if not torch.jit.is_scripting():
        given = {
            "log_probs": log_probs,
            "targets": targets,
            "input_lens": input_lens,
            "target_lens": target_lens,
        }
        check_inputs(CTC, given, blank_index=blank_index)
    as_index(targets)  # compiled code checks nothing else
    frames = absolute_length(input_lens, log_probs.shape[1])
    return frames, absolute_length(target_lens, targets.shape[1], least=0)


def reduce_ctc(costs: Tensor, target_lengths: Tensor, reduction: str, zero_infinity: bool) -> Tensor:
    """Reduce CTC costs `[B]`: ``mean`` and ``batch`` are per label, an empty target counts as one."""
    if zero_infinity:
        costs = torch.where(costs.isinf(), 0.0, costs)
    if reduction == "none":
        return costs
    if reduction == "sum":
        return costs.sum()
    if reduction == "batchmean":
        return costs.mean()
    per_label = costs / target_lengths.clamp(min=1).to(costs.dtype)
    return per_label.mean() if reduction == "mean" else per_label


class CTCLoss(nn.Module):
    """The negative log-likelihood of label sequences, summed over their alignments to frames.

        cost = -ln sum over the paths of the target of  p(1, path(1)) · p(2, path(2)) · ... · p(T, path(T))

    A path has one class per frame, and is one of the target if merging its repetitions and then removing its
    blanks gives the target: Graves et al. 2006, equations 2 and 3,
    https://www.cs.toronto.edu/~graves/icml_2006.pdf. The gradient with respect to `log_probs` follows torch's
    convention: it is the gradient with respect to the logits behind a log-softmax.

    Args:
        blank_index: the class of the blank.
        reduction: ``none`` for costs in nats `[B]`, ``sum``, ``batchmean`` for their sum divided by
            B, ``batch`` for costs per label `[B]`, ``mean`` for the mean of those.
        zero_infinity: count a target that cannot be aligned as zero instead of infinity. Unlike torch's,
            True by default.

    The call takes `log_probs` `[B, T, C]`, `targets` `[B, S]` (integers without the blank; padding is not
    read), and the lengths `input_lens` and `target_lens` `[B]`, relative (to T in (0, 1], to S in [0, 1]) or
    integers in frames and labels.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below C.

    Examples:
        >>> import torch
        >>> log_probs = torch.full((1, 3, 4), 0.25).log()
        >>> loss = CTCLoss(blank_index=0, reduction="sum")
        >>> loss(log_probs, torch.tensor([[1, 2]]), torch.tensor([1.0]), torch.tensor([1.0]))
        tensor(2.5494)
    """

    custom_ops: Final[bool]  # script to our operator instead of plain torch; see to_torchscript

    extra_repr = settings_repr

    def __init__(
        self,
        blank_index: int = 0,
        reduction: str = "mean",
        zero_infinity: bool = True,
    ) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.reduction = check_choice("reduction", reduction)
        self.zero_infinity = zero_infinity
        self.custom_ops = False

    def forward(self, log_probs: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Tensor:
        blank_index = self.blank_index
        input_lengths, target_lengths = ctc_lengths(log_probs, targets, input_lens, target_lens, blank_index)
        if torch.jit.is_scripting():
            if self.custom_ops:
                costs = torch.ops.exportable_losses.ctc_loss(
                    log_probs, targets, input_lengths, target_lengths, blank_index
                )
            else:
                costs = ops.ctc_costs(log_probs, targets, input_lengths, target_lengths, blank_index)
        else:
            costs = torch.ops.exportable_losses.ctc_loss(
                log_probs, targets, input_lengths, target_lengths, blank_index
            )
        return reduce_ctc(costs, target_lengths, self.reduction, self.zero_infinity)


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int,
    reduction: str = "mean",
) -> Tensor:
    """`CTCLoss` as a function, with the argument names of SpeechBrain."""
    return CTCLoss(blank_index, reduction)(log_probs, targets, input_lens, target_lens)
