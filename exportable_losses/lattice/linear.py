"""CTC of what a network gives before its last layer: the scores `[B, T, C]` are never in memory.

The layer, and its weights, belong to the loss: `ops.fused_joint`, of a joint network without a predictor.
"""

import torch
from torch import Tensor, nn

from .. import ops
from ..checks import check_choice, check_inputs
from ..contract import Contract, Input, Total
from ..lengths import absolute_length
from ..settings import settings_repr
from .arcs import check_blank
from .ctc import CTC, CTCLoss, by_occupation, reduce_ctc
from .ctc_align import CTC_ALIGN, Aligned, CTCAlign
from .decode import DECODE, merged_labels
from .fused import of_one_type
from .transducer import absolute_lengths

__all__ = ["LinearCTCAlign", "LinearCTCGreedyDecode", "LinearCTCLoss"]

_LAYER = (Input("hidden", "B T H"), Input("weight", "C H"), Input("bias", "C"))
LINEAR_CTC = Contract(
    (*_LAYER, *CTC.inputs[1:]),
    differentiable=("hidden", "weight", "bias"),
    totals=(Total("loss"),),
    classes="C",
)
LINEAR_ALIGN = Contract(LINEAR_CTC.inputs, CTC_ALIGN.outputs, totals=CTC_ALIGN.totals, classes="C")
LINEAR_DECODE = Contract((*_LAYER, DECODE.inputs[1]), DECODE.outputs, classes="C")


def linear_lengths(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int,
) -> tuple[Tensor, Tensor]:
    """The frames and the labels of each item `[B]`, int64, of inputs that an eager call has checked."""
    if not torch.jit.is_scripting():
        given = {
            "hidden": hidden,
            "weight": weight,
            "bias": bias,
            "targets": targets,
            "input_lens": input_lens,
            "target_lens": target_lens,
        }
        check_inputs(LINEAR_CTC, given, blank_index=blank_index)
    return absolute_lengths(hidden.shape[1], targets, input_lens, target_lens)


def target_log_probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    frames: Tensor,
    labels: Tensor,
    blank_index: int,
) -> tuple[Tensor, Tensor]:
    """The log-probabilities of the blank and of an item's labels `[B, T, S+1]`, and the targets among them.

    CTC asks of two labels whether they are equal where one follows the other. So each run of equal labels
    is a class of its own: the runs are numbered from 1, and the blank is 0.
    """
    hidden, _, weight, bias = of_one_type(hidden, hidden, weight, bias)
    j = torch.arange(targets.shape[1], device=targets.device)
    targets = torch.where(j < labels.unsqueeze(1), ops.illegal_seen(targets), -1)
    before = nn.functional.pad(targets, [1, 0], value=-1.0)[:, :-1]
    runs = (targets != before).long().cumsum(1)
    # what lies behind an item's labels is in none of its runs
    place = torch.where(targets < 0, targets.shape[1] + 1, runs)
    nothing = torch.full_like(nn.functional.pad(targets, [2, 0]), -1)
    nothing[:, 0] = blank_index
    classes = nothing.scatter(1, place, targets)[:, :-1].unsqueeze(1)
    nobody = torch.zeros_like(hidden[:, :1])
    one = torch.ones_like(frames)
    if torch.jit.is_scripting():
        log_probs = ops.fused_joint(hidden, nobody, weight, bias, classes, frames, one, 0, "identity")
    else:
        log_probs = torch.ops.exportable_losses.fused_joint(
            hidden, nobody, weight, bias, classes, frames, one, 0, "identity"
        )
    return log_probs.squeeze(2), runs


class LinearCTCLoss(nn.Module):
    """The CTC loss of scores hidden(t) · weightᵀ + bias, which are made inside and never all at once.

        cost = -ln sum over the paths of the target of  p(1, path(1)) · p(2, path(2)) · ... · p(T, path(T))
        p(t) = softmax(hidden(t) · weightᵀ + bias)

    Graves et al. 2006, equations 2 and 3, https://www.cs.toronto.edu/~graves/icml_2006.pdf. Of each row of
    scores the log-probabilities of the item's own labels are kept, and the gradient computes
    the rows again: four products of matrices instead of three. What lies behind the lengths is not computed
    at all.

    Args:
        blank_index: the class of the blank.
        reduction: ``none`` for costs in nats `[B]`, ``sum``, ``batchmean`` for their sum divided by
            B, ``batch`` for costs per label `[B]`, ``mean`` for the mean of those.
        zero_infinity: count a target that cannot be aligned as zero instead of infinity.

    The call takes `hidden` `[B, T, H]`, `weight` `[C, H]` and `bias` `[C]`, `targets` `[B, S]` (integers
    without the blank; padding is not read), and the lengths `input_lens` and `target_lens` `[B]`, relative
    (to T in (0, 1], to S in [0, 1]) or integers in frames and labels. Gradients flow to the first three.
    Under autocast products are in 16 bits, and what is made of them in 32.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below C.

    Examples:
        >>> import torch
        >>> hidden, weight, bias = torch.zeros(1, 3, 5), torch.zeros(4, 5), torch.zeros(4)
        >>> loss = LinearCTCLoss(blank_index=0, reduction="sum")
        >>> loss(hidden, weight, bias, torch.tensor([[1, 2]]), torch.ones(1), torch.ones(1))
        tensor(2.5494)
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0, reduction: str = "mean", zero_infinity: bool = True) -> None:
        super().__init__()
        self.blank_index = check_blank(blank_index)
        self.reduction = check_choice("reduction", reduction)
        self.zero_infinity = zero_infinity
        self.ctc = CTCLoss(0, "none", zero_infinity=False)

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        input_lens: Tensor,
        target_lens: Tensor,
    ) -> Tensor:
        frames, labels = linear_lengths(
            hidden, weight, bias, targets, input_lens, target_lens, self.blank_index
        )
        log_probs, runs = target_log_probs(hidden, weight, bias, targets, frames, labels, self.blank_index)
        costs = self.ctc(log_probs, runs, frames, labels)
        costs = by_occupation(costs, log_probs, frames)
        return reduce_ctc(costs, labels, self.reduction, self.zero_infinity)


class LinearCTCAlign(nn.Module):
    """The best path of a target through scores hidden(t) · weightᵀ + bias, which are made inside, never all
    at once.

        path = argmax over the paths of the target of  p(1, path(1)) · p(2, path(2)) · ... · p(T, path(T))
        p(t) = softmax(hidden(t) · weightᵀ + bias)

    The Viterbi algorithm on the lattice of Graves et al. 2006,
    https://www.cs.toronto.edu/~graves/icml_2006.pdf; of equally good paths the one that `CTCAlign` takes.

    Args:
        blank_index: the class of the blank.

    The call takes what `LinearCTCLoss` takes, and returns what `CTCAlign` returns. No gradient flows.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below C.

    Examples:
        >>> import torch
        >>> hidden, ones = torch.eye(3)[[0, 1, 1, 0, 2]].unsqueeze(0), torch.ones(1)
        >>> align = LinearCTCAlign(blank_index=0)
        >>> tokens, starts, ends, *_ = align(
        ...     hidden, 9 * torch.eye(3), torch.zeros(3), torch.tensor([[1, 2]]), ones, ones
        ... )
        >>> tokens, starts, ends
        (tensor([[1, 2]]), tensor([[1, 4]]), tensor([[3, 5]]))
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = check_blank(blank_index)
        self.ctc = CTCAlign(0)

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        input_lens: Tensor,
        target_lens: Tensor,
    ) -> Aligned:
        frames, labels = linear_lengths(
            hidden, weight, bias, targets, input_lens, target_lens, self.blank_index
        )
        layer = hidden.detach(), weight.detach(), bias.detach()
        log_probs, runs = target_log_probs(
            layer[0], layer[1], layer[2], targets, frames, labels, self.blank_index
        )
        tokens, starts, ends, scores, path_scores = self.ctc(log_probs, runs, frames, labels)
        return torch.where(tokens < 0, -1, targets.long()), starts, ends, scores, path_scores


class LinearCTCGreedyDecode(nn.Module):
    """The labels on the best path of scores hidden(t) · weightᵀ + bias, which are made inside, never all at
    once.

        labels = merged and without blanks: argmax p(1, c), argmax p(2, c), ..., argmax p(T, c)

    Best path decoding: Graves et al. 2006, section 3.2, https://www.cs.toronto.edu/~graves/icml_2006.pdf.
    Among equal scores the lower class wins.

    Args:
        blank_index: the class of the blank.
        padding: fills the places after the last label of an item.

    The call takes `hidden` `[B, T, H]`, `weight` `[C, H]`, `bias` `[C]` and `input_lens` `[B]`, relative in
    (0, 1] or integers in frames. It returns the labels `[B, T]`, padded, and their number `[B]`, both int64.

    Raises:
        ValueError: the shapes do not match, or a length is out of range.

    Examples:
        >>> import torch
        >>> hidden = torch.eye(3)[[1, 1, 0, 1, 2]].unsqueeze(0)
        >>> LinearCTCGreedyDecode(blank_index=0)(hidden, torch.eye(3), torch.zeros(3), torch.ones(1))
        (tensor([[1, 1, 2, 0, 0]]), tensor([3]))
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0, padding: int = 0) -> None:
        super().__init__()
        self.blank_index = check_blank(blank_index)
        self.padding = padding

    def forward(
        self, hidden: Tensor, weight: Tensor, bias: Tensor, input_lens: Tensor
    ) -> tuple[Tensor, Tensor]:
        if not torch.jit.is_scripting():
            given = {"hidden": hidden, "weight": weight, "bias": bias, "input_lens": input_lens}
            check_inputs(LINEAR_DECODE, given, blank_index=self.blank_index)
        lengths = absolute_length(input_lens, hidden.shape[1])
        hidden, _, weight, bias = of_one_type(hidden, hidden, weight, bias)
        if torch.jit.is_scripting():
            best = ops.fused_best(hidden, weight, bias, lengths)
        else:
            best = torch.ops.exportable_losses.fused_best(hidden, weight, bias, lengths)
        return merged_labels(best, lengths, self.blank_index, self.padding)


def linear_ctc_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int = 0,
    reduction: str = "mean",
) -> Tensor:
    """`LinearCTCLoss` as a function."""
    return LinearCTCLoss(blank_index, reduction)(hidden, weight, bias, targets, input_lens, target_lens)
