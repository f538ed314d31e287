"""Transducers whose logits are sums, am(t) + lm(u): the simple loss, and the ranges that it prunes to.

Kuang et al. 2022, "Pruned RNN-T for fast, memory-efficient ASR training", https://arxiv.org/abs/2206.13236,
as fast_rnnt and icefall train them. The joint `[B, T, U, V]` is never there.
"""

import torch
from torch import Tensor

from ..checks import check_choice
from ..contract import Contract
from ..settings import settings_repr
from .arcs import TOPOLOGIES, OfLattice, arcs_of, check_blank, check_weight, reduced
from .sums import SIMPLE, simple_arcs, simple_lengths

__all__ = ["PruneRanges", "SimpleTransducerLoss"]

RANGES = Contract(SIMPLE.inputs, ("ranges",))


class SimpleTransducerLoss(OfLattice):
    """The transducer's loss with logits am(t) + lm(u), which are never added up for all t, u and classes.

        cost = -ln sum over the paths from (0, 0) to (T, U) of the product of the probabilities of their arcs
        p(k | t, u) = exp(am(t, k) + lm(u, k)) / (exp(am(t)) · exp(lm(u)))

    Kuang et al. 2022, section 3.2, https://arxiv.org/abs/2206.13236. With scales above zero it is the
    smoothed loss of section 3.3, as fast_rnnt computes it.

    Args:
        blank_index: the class of the blank.
        reduction: ``none`` and ``batch`` for costs in nats `[B]`, ``sum``, ``mean`` and ``batchmean`` for
            their mean over items.
        lm_only_scale: how much of each arc's logarithm comes from softmax(lm(u)) alone.
        am_only_scale: how much from am(t) alone, beside the mean of softmax(lm(u)) over the item's rows.
        delay_penalty: added to the arc of a label for each frame that it comes before the middle of its item.
        topology: ``regular``; ``modified``, where a label takes a frame; ``constrained``, where it takes the
            blank behind it as well.

    The call takes `am` `[B, T, V]`, `lm` `[B, U+1, V]`, `targets` `[B, U]` (integers without the blank;
    padding is not read), and the lengths `input_lens` and `target_lens` `[B]`, relative (to T in (0, 1], to U
    in [0, 1]) or integers in frames and labels.

    Scripts and graphs take the products in float64: where no class is within e^-745 of the largest of both,
    they give NaN, and eager calls the number.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below V.

    Examples:
        >>> import torch
        >>> loss = SimpleTransducerLoss(blank_index=0, reduction="sum")
        >>> ones = torch.tensor([1.0])
        >>> loss(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), torch.tensor([[3]]), ones, ones)
        tensor(3.4657)
    """

    extra_repr = settings_repr

    def __init__(
        self,
        blank_index: int = 0,
        reduction: str = "mean",
        lm_only_scale: float = 0.0,
        am_only_scale: float = 0.0,
        delay_penalty: float = 0.0,
        topology: str = "regular",
    ) -> None:
        super().__init__()
        self.blank_index = check_blank(blank_index)
        self.reduction = check_choice("reduction", reduction)
        self.lm_only_scale = check_weight("lm_only_scale", lm_only_scale, 0.0)
        self.am_only_scale = check_weight("am_only_scale", am_only_scale, 0.0)
        self.delay_penalty = check_weight("delay_penalty", delay_penalty)
        self.topology = check_choice("topology", topology, TOPOLOGIES)
        self.arcs = arcs_of(topology)

    def forward(
        self, am: Tensor, lm: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> Tensor:
        frames, labels = simple_lengths(am, lm, targets, input_lens, target_lens, self.blank_index)
        arcs = self.leaving(am, lm, targets, frames, labels)
        return reduced(self.arcs(arcs, frames, labels), self.reduction)

    def leaving(self, am: Tensor, lm: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
        """The arcs that leave each node `[B, T, U+1, 2]`."""
        return simple_arcs(
            am,
            lm,
            targets,
            frames,
            labels,
            self.blank_index,
            self.lm_only_scale,
            self.am_only_scale,
            self.delay_penalty,
            self.topology == "constrained",
        )


class PruneRanges(OfLattice):
    """The labels that a transducer may be at in each frame: where the simple loss's paths mostly are.

        range(t) = the `prune_range` numbers of labels that together hold most of the paths at frame t, moved
        so that they never go back, and that no label is skipped

    Kuang et al. 2022, section 3.4, https://arxiv.org/abs/2206.13236. No gradient flows.

    Args:
        prune_range: R, how many numbers of labels; all of them if a target has fewer.
        blank_index: the class of the blank.
        lm_only_scale: as in `SimpleTransducerLoss`.
        am_only_scale: as in `SimpleTransducerLoss`.
        delay_penalty: as in `SimpleTransducerLoss`.
        topology: as in `SimpleTransducerLoss`.

    The call takes what `SimpleTransducerLoss` takes, and returns int64 `[B, T, min(R, U+1)]`: consecutive
    numbers u. A range moves on by R - 1 labels a frame at most (by one where a label takes a frame): through
    those of an item with more labels than that there is no path, and its pruned cost is infinite.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, a label is the blank or not
            below V, or R is below 2 (1 where a label takes a frame).

    Examples:
        >>> import torch
        >>> am, lm, ones = torch.zeros(1, 6, 4), torch.zeros(1, 4, 4), torch.ones(1)
        >>> PruneRanges(prune_range=2)(am, lm, torch.tensor([[1, 2, 3]]), ones, ones)[0, :, 0]
        tensor([0, 0, 1, 2, 2, 2])
    """

    extra_repr = settings_repr

    def __init__(
        self,
        prune_range: int = 5,
        blank_index: int = 0,
        lm_only_scale: float = 0.0,
        am_only_scale: float = 0.0,
        delay_penalty: float = 0.0,
        topology: str = "regular",
    ) -> None:
        super().__init__()
        self.prune_range = check_range(prune_range, topology)
        self.blank_index = check_blank(blank_index)
        self.lm_only_scale = check_weight("lm_only_scale", lm_only_scale, 0.0)
        self.am_only_scale = check_weight("am_only_scale", am_only_scale, 0.0)
        self.delay_penalty = check_weight("delay_penalty", delay_penalty)
        self.topology = check_choice("topology", topology, TOPOLOGIES)
        self.arcs = arcs_of(topology)

    def forward(
        self, am: Tensor, lm: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> Tensor:
        frames, labels = simple_lengths(am, lm, targets, input_lens, target_lens, self.blank_index)
        arcs = simple_arcs(
            am.detach(),
            lm.detach(),
            targets,
            frames,
            labels,
            self.blank_index,
            self.lm_only_scale,
            self.am_only_scale,
            self.delay_penalty,
            self.topology == "constrained",
        )
        _, occupation = self.arcs.occupation(arcs, frames, labels)
        most = most_labels(self.prune_range, self.topology)
        return ranges_of(occupation, frames, labels, self.prune_range, most)


def check_range(prune_range: int, topology: str) -> int:
    """How many numbers of labels a range has.

    Raises:
        ValueError: no integer, or so few that no path can move on within them.
    """
    least = 2 if topology == "regular" else 1
    if isinstance(prune_range, bool) or not isinstance(prune_range, int) or prune_range < least:
        raise ValueError(f"prune_range: got {prune_range!r}, expected an integer of at least {least}")
    return prune_range


def most_labels(prune_range: int, topology: str) -> int:
    """How many labels a range may move on by in a frame: those that stay in it, or one where a label takes
    it.
    """
    return prune_range - 1 if topology == "regular" else 1


def ranges_of(occupation: Tensor, frames: Tensor, labels: Tensor, prune_range: int, most: int) -> Tensor:
    """The ranges `[B, T, R]` of arcs `[B, T, U+1, 2]` that are taken so often; `most` labels a frame at most.

    A window holds the paths that leave the frame in it by a blank, but for those that have entered it in this
    frame. All leave it somewhere, so that the window which holds most is that which misses least; what it
    misses has digits where what it holds is almost all. Of windows that are as good in float64, fast_rnnt
    takes the first.
    """
    nodes, size = occupation.shape[2], min(prune_range, occupation.shape[2])
    windows = nodes - size + 1
    stays = occupation[..., 0]
    below = torch.nn.functional.pad(stays, [1, 0]).cumsum(2)[:, :, :windows]
    above = torch.nn.functional.pad(stays.flip([2]), [1, 0]).cumsum(2).flip([2])[:, :, size:]
    entered = torch.nn.functional.pad(occupation[..., 1], [1, 0])[:, :, :windows]
    missed = below + above + entered
    first = (missed <= missed.amin(2, keepdim=True) + 1e-16).long().argmax(2)
    t = torch.arange(occupation.shape[1], device=occupation.device)
    last = (labels - size + 1).clamp(min=0).unsqueeze(1)  # the item ends there, and padding stays
    first = torch.where(t < (frames - 1).unsqueeze(1), first, last)
    first = never_back(first)
    first = most * t - never_back(most * t - first).clamp(min=0)
    return first.unsqueeze(2) + torch.arange(size, device=occupation.device)


def never_back(first: Tensor) -> Tensor:
    """For each number of `first` `[B, T]` the least of those from it on, so that they do not fall with time.

    It doubles how far it looks, for exporters know no cumulative minimum; two million frames are far enough.
    """
    t = torch.arange(first.shape[1], device=first.device)
    ahead = 1
    for _ in range(21):
        first = torch.minimum(first, first[:, (t + ahead).clamp(max=first.shape[1] - 1)])
        ahead *= 2
    return first


def simple_loss_and_ranges(
    am: Tensor,
    lm: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    prune_range: int = 5,
    blank_index: int = 0,
    reduction: str = "mean",
    lm_only_scale: float = 0.0,
    am_only_scale: float = 0.0,
    delay_penalty: float = 0.0,
    topology: str = "regular",
) -> tuple[Tensor, Tensor]:
    """`SimpleTransducerLoss` and `PruneRanges` from one walk through the lattice.

    Returns:
        The loss, through which a gradient flows to `am` and `lm`, and the ranges `[B, T, min(R, U+1)]`.

    Examples:
        >>> import torch
        >>> am, lm = torch.zeros(1, 6, 4), torch.zeros(1, 4, 4)
        >>> ones, targets = torch.ones(1), torch.tensor([[1, 2, 3]])
        >>> loss, ranges = simple_loss_and_ranges(am, lm, targets, ones, ones, prune_range=2)
        >>> ranges[0, :, 0]
        tensor([0, 0, 1, 2, 2, 2])
    """
    loss = SimpleTransducerLoss(blank_index, reduction, lm_only_scale, am_only_scale, delay_penalty, topology)
    check_range(prune_range, topology)
    frames, labels = simple_lengths(am, lm, targets, input_lens, target_lens, blank_index)
    arcs = loss.leaving(am, lm, targets, frames, labels)
    costs, occupation = loss.arcs.walk(arcs, frames, labels)
    ranges = ranges_of(occupation, frames, labels, prune_range, most_labels(prune_range, topology))
    return reduced(costs, loss.reduction), ranges


def simple_transducer_loss(
    am: Tensor,
    lm: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int = 0,
    reduction: str = "mean",
    lm_only_scale: float = 0.0,
    am_only_scale: float = 0.0,
    delay_penalty: float = 0.0,
    topology: str = "regular",
) -> Tensor:
    """`SimpleTransducerLoss` as a function."""
    loss = SimpleTransducerLoss(blank_index, reduction, lm_only_scale, am_only_scale, delay_penalty, topology)
    return loss(am, lm, targets, input_lens, target_lens)


def prune_ranges(
    am: Tensor,
    lm: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    prune_range: int = 5,
    blank_index: int = 0,
    lm_only_scale: float = 0.0,
    am_only_scale: float = 0.0,
    delay_penalty: float = 0.0,
    topology: str = "regular",
) -> Tensor:
    """`PruneRanges` as a function."""
    ranges = PruneRanges(prune_range, blank_index, lm_only_scale, am_only_scale, delay_penalty, topology)
    return ranges(am, lm, targets, input_lens, target_lens)
