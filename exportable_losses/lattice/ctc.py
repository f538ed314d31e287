"""Connectionist temporal classification."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from .. import ops
from ..checks import check_choice, check_inputs
from ..contract import Contract, Input, Total
from ..lengths import absolute_length
from ..masking import as_index
from ..settings import settings_repr
from .priors import check_classes, checked_priors, normalised, without_priors
from .wildcard import WILDCARDS, with_wildcard

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
    log_probs: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int,
    wildcard: str = "none",
) -> tuple[Tensor, Tensor]:
    """The frames and the labels of each item `[B]`, int64, of inputs that an eager call has checked."""
    if not torch.jit.is_scripting():
        given = {
            "log_probs": log_probs,
            "targets": targets,
            "input_lens": input_lens,
            "target_lens": target_lens,
        }
        check_inputs(CTC, given, blank_index=blank_index, wildcard=wildcard)
    as_index(targets)  # compiled code checks nothing else
    frames = absolute_length(input_lens, log_probs.shape[1])
    return frames, absolute_length(target_lens, targets.shape[1], least=0)


def by_occupation(costs: Tensor, log_probs: Tensor, frames: Tensor) -> Tensor:
    """`costs` `[B]`, whose gradient in `log_probs` `[B, T, N]` becomes minus the occupation alone.

    Torch's is exp(log_probs) - occupation, or zero where the cost is infinite: right behind a
    log-softmax, and wrong of other scores.
    """
    t = torch.arange(log_probs.shape[1], device=log_probs.device)
    counts = (t < frames.unsqueeze(1)) & costs.isfinite().unsqueeze(1)
    total = log_probs.exp().masked_fill(~counts.unsqueeze(2), 0.0).sum([1, 2])
    return costs - (total - total.detach())


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
        wildcard: if not ``none``, the label C in `targets` stands for what a transcript lacks, a word or
            several, and at each frame has the largest of the labels' probabilities (``max``), their
            ``sum``, their ``mean``, or one (``zero``).
        log_priors: `[C]`, how probable each class is in general, as logarithms, or a part of them: they are
            subtracted from `log_probs`, so that a model learns labels that last, as in Huang et al. 2024,
            https://arxiv.org/abs/2406.02560. The gradient is that of the cost itself. A buffer of this name,
            into which a recipe copies the priors of its last batches.

    The call takes `log_probs` `[B, T, C]`, `targets` `[B, S]` (integers without the blank; padding is not
    read), and the lengths `input_lens` and `target_lens` `[B]`, relative (to T in (0, 1], to S in [0, 1]) or
    integers in frames and labels.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below C (or above it, with a wildcard).

    Examples:
        >>> import torch
        >>> log_probs = torch.full((1, 3, 4), 0.25).log()
        >>> loss = CTCLoss(blank_index=0, reduction="sum")
        >>> loss(log_probs, torch.tensor([[1, 2]]), torch.tensor([1.0]), torch.tensor([1.0]))
        tensor(2.5494)
    """

    log_priors: Tensor | None
    custom_ops: Final[bool]  # script to our operator instead of plain torch; see to_torchscript

    extra_repr = settings_repr

    def __init__(
        self,
        blank_index: int = 0,
        reduction: str = "mean",
        zero_infinity: bool = True,
        wildcard: str = "none",
        log_priors: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.reduction = check_choice("reduction", reduction)
        self.zero_infinity = zero_infinity
        self.wildcard = check_choice("wildcard", wildcard, WILDCARDS)
        self.register_buffer("log_priors", None if log_priors is None else checked_priors(log_priors))
        self.custom_ops = False

    def forward(self, log_probs: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Tensor:
        blank_index, priors = self.blank_index, self.log_priors
        if priors is not None:
            check_classes(log_probs, priors)
        input_lengths, target_lengths = ctc_lengths(
            log_probs, targets, input_lens, target_lens, blank_index, self.wildcard
        )
        classes = log_probs.shape[2]
        if priors is not None or self.wildcard != "none":  # so that padding has no gradient, whatever it is
            log_probs = ops.without_padding(log_probs, input_lengths)
        log_probs = with_wildcard(log_probs, blank_index, self.wildcard)
        fallen: Tensor | None = None
        if priors is not None:
            log_probs = without_priors(log_probs, priors, self.wildcard)
            log_probs, fallen = normalised(log_probs, classes, input_lengths)
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
        if self.wildcard != "none":  # a gradient flows on from the wildcard, which no log-softmax is behind
            costs = by_occupation(costs, log_probs[:, :, -1:].clamp(max=80.0), input_lengths)
        if fallen is not None:
            costs = costs - torch.where(costs.isinf(), 0.0, fallen)
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
