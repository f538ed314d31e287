"""The transducer's loss of a joint `[B, T, R, V]`, where each frame has a few numbers of labels alone.

Kuang et al. 2022, "Pruned RNN-T for fast, memory-efficient ASR training", https://arxiv.org/abs/2206.13236,
as fast_rnnt and icefall train them.
"""

import torch
from torch import Tensor, nn

from .. import ops
from ..checks import check_choice, check_inputs
from ..contract import Contract, Input, Total
from ..ops.scores import widened
from ..settings import settings_repr
from .arcs import TOPOLOGIES, OfLattice, arcs_of, check_blank, check_weight, reduced
from .transducer import TRANSDUCER, absolute_lengths

__all__ = ["PrunedTransducerLoss"]

PRUNED = Contract(
    (
        Input("logits", "B T R V"),
        Input("ranges", "B T R", "range", below="U"),
        *TRANSDUCER.inputs[1:],
    ),
    differentiable=("logits",),
    totals=(Total("loss"),),
)


def prune(am: Tensor, lm: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of an encoder and of a predictor that meet within the ranges, for the joiner.

    Args:
        am: the encoder's `[B, T, H]`.
        lm: the predictor's `[B, U+1, H]`.
        ranges: `[B, T, R]`, as `PruneRanges` gives them.

    Returns:
        Both `[B, T, R, H]`; the first is a view. Numbers of labels that there are not, behind an item's
        labels, have the last row.

    Raises:
        ValueError: the shapes do not match.

    Examples:
        >>> import torch
        >>> am, lm = torch.zeros(1, 2, 3), torch.arange(4.0).view(1, 4, 1)
        >>> ranges = torch.tensor([[[0, 1], [2, 3]]])
        >>> prune(am, lm, ranges)[1].squeeze()
        tensor([[0., 1.],
                [2., 3.]])
    """
    if ranges.dim() != 3 or am.dim() != 3 or am.shape[:2] != ranges.shape[:2]:
        got = f"{list(am.shape)} and {list(ranges.shape)}"
        raise ValueError(f"am, ranges: got shapes {got}, expected [B, T, H] and [B, T, R]")
    if lm.dim() != 3 or lm.shape[0] != am.shape[0]:
        raise ValueError(f"lm: got shape {list(lm.shape)}, expected [{am.shape[0]}, U+1, H]")
    items = torch.arange(lm.shape[0], device=lm.device)[:, None, None]
    rows = ranges.long().clamp(0, lm.shape[1] - 1) + items * lm.shape[1]
    of_lm = nn.functional.embedding(rows, widened(lm).flatten(0, 1))  # whose gradient is sums, of 32 bits
    return am.unsqueeze(2).expand(-1, -1, ranges.shape[2], -1), of_lm.to(lm.dtype)


def pruned_arcs(
    logits: Tensor,
    ranges: Tensor,
    targets: Tensor,
    frames: Tensor,
    labels: Tensor,
    blank_index: int,
    delay_penalty: float = 0.0,
    constrained: bool = False,
) -> Tensor:
    """The blank and the label that leave each node `[B, T, U+1, 2]`, impossible outside of the ranges."""
    t = torch.arange(logits.shape[1], device=logits.device)
    ranges = ranges.long().expand_as(logits[..., 0])  # which an exporter does not know
    padding = (t >= frames.unsqueeze(1)).unsqueeze(2)
    outside = padding | (ranges < 0) | (ranges > labels[:, None, None])
    nodes = targets.shape[1] + 1
    u = torch.where(outside, nodes, ranges)  # those of no item are put behind all
    label = torch.nn.functional.pad(ops.next_labels(targets, labels, blank_index), [0, 1])
    label = label.unsqueeze(1).expand(-1, logits.shape[1], -1).gather(2, u)
    classes = torch.stack([torch.full_like(label, blank_index), label], 3).masked_fill(
        outside.unsqueeze(3), -1
    )
    rows, wanted = logits.flatten(0, 2), classes.flatten(0, 2)
    if torch.jit.is_scripting() or torch.compiler.is_compiling():
        picked = ops.picked(rows, wanted)
    else:
        picked = torch.ops.exportable_losses.picked(rows, wanted)
    blank, emitted = picked.view(classes.shape).unbind(3)
    never = torch.full_like(blank[:, :, :1], -float("inf")).expand(-1, -1, nodes + 1)
    stay = never.scatter(2, u, blank)[:, :, :-1]
    emit = never.scatter(2, u, emitted)[:, :, :-1]
    emit = ops.shaped(emit, stay, frames, constrained, delay_penalty)
    return torch.stack([stay, emit], 3)


def pruned_lengths(
    logits: Tensor,
    ranges: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int,
) -> tuple[Tensor, Tensor]:
    """The frames and the labels of each item `[B]`, int64, of inputs that an eager call checks."""
    if not torch.jit.is_scripting():
        check_inputs(
            PRUNED,
            {
                "logits": logits,
                "ranges": ranges,
                "targets": targets,
                "input_lens": input_lens,
                "target_lens": target_lens,
            },
            blank_index=blank_index,
        )
    return absolute_lengths(logits.shape[1], targets, input_lens, target_lens)


class PrunedTransducerLoss(OfLattice):
    """The transducer's loss where each frame has the logits of a few numbers of labels alone.

        cost = -ln sum over the paths within the ranges, from (0, 0) to (T, U), of the product of the
        probabilities of their arcs

    Kuang et al. 2022, section 3.4, https://arxiv.org/abs/2206.13236.

    Args:
        blank_index: the class of the blank.
        reduction: ``none`` and ``batch`` for costs in nats `[B]`, ``sum``, ``mean`` and ``batchmean`` for
            their mean over items.
        delay_penalty: as in `SimpleTransducerLoss`.
        topology: as in `SimpleTransducerLoss`.

    The call takes `logits` `[B, T, R, V]`, `ranges` `[B, T, R]` as `PruneRanges` gives them,
    `targets` `[B, U]`, and the lengths `input_lens` and `target_lens` `[B]`. Numbers of labels that an item
    does not have count for nothing.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, a label is the blank or not
            below V, or a range is not of consecutive numbers.

    Examples:
        >>> import torch
        >>> ones, every = torch.tensor([1.0]), torch.arange(2).expand(1, 2, 2)
        >>> loss = PrunedTransducerLoss(reduction="sum")
        >>> loss(torch.zeros(1, 2, 2, 4), every, torch.tensor([[3]]), ones, ones)
        tensor(3.4657)
    """

    extra_repr = settings_repr

    def __init__(
        self,
        blank_index: int = 0,
        reduction: str = "mean",
        delay_penalty: float = 0.0,
        topology: str = "regular",
    ) -> None:
        super().__init__()
        self.blank_index = check_blank(blank_index)
        self.reduction = check_choice("reduction", reduction)
        self.delay_penalty = check_weight("delay_penalty", delay_penalty)
        self.topology = check_choice("topology", topology, TOPOLOGIES)
        self.arcs = arcs_of(topology)

    def forward(
        self, logits: Tensor, ranges: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> Tensor:
        frames, labels = pruned_lengths(logits, ranges, targets, input_lens, target_lens, self.blank_index)
        arcs = pruned_arcs(
            logits,
            ranges,
            targets,
            frames,
            labels,
            self.blank_index,
            self.delay_penalty,
            self.topology == "constrained",
        )
        return reduced(self.arcs(arcs, frames, labels), self.reduction)


def pruned_transducer_loss(
    logits: Tensor,
    ranges: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int = 0,
    reduction: str = "mean",
    delay_penalty: float = 0.0,
    topology: str = "regular",
) -> Tensor:
    """`PrunedTransducerLoss` as a function."""
    loss = PrunedTransducerLoss(blank_index, reduction, delay_penalty, topology)
    return loss(logits, ranges, targets, input_lens, target_lens)
