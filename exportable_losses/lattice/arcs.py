"""What all transducers share: from logits to the costs of all paths, whatever arcs leave a node."""

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from .. import ops

TOPOLOGIES = ("regular", "modified", "constrained")


def reduced(costs: Tensor, reduction: str) -> Tensor:
    """Costs `[B]` as `reduction` has them."""
    if reduction == "sum":
        return costs.sum()
    if reduction == "mean" or reduction == "batchmean":
        return costs.mean()
    return costs


def check_weight(name: str, value: float, least: float = -math.inf) -> float:
    """A weight as a float.

    Raises:
        ValueError: it is not finite, or below `least`.
    """
    if not math.isfinite(value) or value < least:
        expected = "a finite number" if least == -math.inf else f"a finite number of at least {least:g}"
        raise ValueError(f"{name}: got {value}, expected {expected}")
    return float(value)


def check_blank(blank_index: int, big_blanks: int = 0) -> int:
    """The class of the blank, and of big blanks below it.

    Raises:
        ValueError: one would be below class 0.
    """
    if blank_index < big_blanks:
        raise ValueError(f"blank_index: got {blank_index}, expected an index of at least {big_blanks}")
    return blank_index


class OfLattice(nn.Module):
    """A module whose lattice is made with it: what the arcs are does not change afterwards."""

    def __setattr__(self, name: str, value: Any) -> None:
        fixed = ("blank_index", "durations", "big_blank_durations", "topology", "hybrid")
        if name in fixed and self.__dict__.get(name, value) != value:
            made = f"it was made with {self.__dict__[name]!r}"
            raise AttributeError(f"{type(self).__name__}.{name}: {made}; make another module")
        super().__setattr__(name, value)


class Arcs(nn.Module):
    """The lattice of which a blank leads from (t, u) to (t + d, u), and a label to (t + d, u + 1).

    Args:
        blank_durations: d of each blank, above zero.
        label_durations: d of each label.
        label_ends: whether a label may lead to frame T, and so end a path.

    The call takes the logarithms of the arcs that leave each node, blanks before labels, `[B, T, U+1, K]`,
    and the frames and labels of each item `[B]`. It returns the costs `[B]`.
    """

    custom_ops: Final[bool]  # script to our operator instead of plain torch; see to_torchscript

    def __init__(
        self, blank_durations: Sequence[int], label_durations: Sequence[int], label_ends: bool = False
    ) -> None:
        super().__init__()
        self.blank_durations = list(blank_durations)
        self.label_durations = list(label_durations)
        self.label_ends = label_ends
        self.custom_ops = False

    def forward(self, arcs: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
        blanks, emits, ends = self.blank_durations, self.label_durations, self.label_ends
        if torch.jit.is_scripting():
            if self.custom_ops:
                costs = torch.ops.exportable_losses.arcs_loss(arcs, frames, labels, blanks, emits, ends)
            else:
                costs = ops.arcs_costs(arcs, frames, labels, blanks, emits, ends)
        elif arcs.requires_grad and not torch.compiler.is_compiling():
            # The gradient is no larger than the arcs.
            costs, _ = torch.ops.exportable_losses.arcs_walk(arcs, frames, labels, blanks, emits, ends)
        else:
            costs = torch.ops.exportable_losses.arcs_loss(arcs, frames, labels, blanks, emits, ends)
        return costs

    def occupation(self, arcs: Tensor, frames: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The costs `[B]`, and how probable each arc is `[B, T, U+1, K]`, without a gradient."""
        blanks, emits, ends = self.blank_durations, self.label_durations, self.label_ends
        arcs = arcs.detach()
        each = -torch.ones(arcs.shape[0], dtype=arcs.dtype, device=arcs.device)
        if torch.jit.is_scripting():
            if self.custom_ops:
                costs, taken = torch.ops.exportable_losses.arcs_loss_grad(
                    arcs, frames, labels, blanks, emits, ends, each
                )
            else:
                costs, taken = ops.arcs_costs_and_grad(arcs, frames, labels, blanks, emits, ends, each)
        else:
            costs, taken = torch.ops.exportable_losses.arcs_loss_grad(
                arcs, frames, labels, blanks, emits, ends, each
            )
        return costs, taken

    def walk(self, arcs: Tensor, frames: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """`occupation`, where a gradient flows through the costs."""
        if torch.compiler.is_compiling():
            costs, taken = self.occupation(arcs, frames, labels)
            # the gradient in an arc is minus its occupation; what is added is nothing
            slopes = -(torch.where(taken == 0, 0.0, arcs) * taken).sum([1, 2, 3])
            return costs + (slopes - slopes.detach()), taken
        durations = (self.blank_durations, self.label_durations)
        return torch.ops.exportable_losses.arcs_walk(arcs, frames, labels, *durations, self.label_ends)

    def posterior(self, arcs: Tensor, frames: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How probable each node `[B, T, U+1]` and each label's arc `[B, T, U]` is, and the costs `[B]`."""
        costs, taken = self.occupation(arcs, frames, labels)
        emissions = taken[:, :, :-1, len(self.blank_durations) :]
        # a path leaves each of its nodes by one arc; but for rounding they add up to one at most
        return taken.sum(3).clamp(max=1.0), emissions.sum(3).clamp(max=1.0), costs

    def align(
        self, arcs: Tensor, targets: Tensor, frames: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The best path: tokens, starts, ends and scores of the labels `[B, U]`, and its score `[B]`."""
        blanks, emits, ends = self.blank_durations, self.label_durations, self.label_ends
        arcs = arcs.detach()
        if torch.jit.is_scripting():
            starts, kinds, path_scores = ops.arcs_align(arcs, frames, labels, blanks, emits, ends)
        else:
            starts, kinds, path_scores = torch.ops.exportable_losses.arcs_align(
                arcs, frames, labels, blanks, emits, ends
            )
        is_label = torch.arange(targets.shape[1], device=targets.device) < labels.unsqueeze(1)
        aligned = is_label & path_scores.isfinite().unsqueeze(1)
        # a label that takes no time has the frame at which it is emitted
        lasting = ops.number_of(kinds, [1] if emits == [0] else emits)
        # for the node behind the last label too: OpenVINO gathers from what is as large as the indices
        at = nn.functional.pad(starts, [0, 1]).unsqueeze(1).unsqueeze(3).expand(-1, -1, -1, arcs.shape[3])
        which = nn.functional.pad(kinds + len(blanks), [0, 1]).unsqueeze(2)
        scores = arcs.gather(1, at).squeeze(1).gather(2, which)[:, :-1, 0]
        scores = scores.masked_fill(~aligned, -float("inf")).masked_fill(~is_label, 0.0)
        tokens = torch.where(is_label, targets.long(), -1)
        return tokens, starts, starts + torch.where(aligned, lasting, 0), scores, path_scores


def arcs_of(topology: str) -> Arcs:
    """One blank and one label: labels take no frame in the regular topology, and one in the others."""
    return Arcs([1], [0 if topology == "regular" else 1], label_ends=True)


class Emissions(nn.Module):
    """A lattice whose arcs are made of logits, as `ops.emitted_arcs` says.

    The call takes `logits` `[B, T, U+1, V + D]`, `targets` `[B, U]`, and the frames and labels of each item
    `[B]`. It returns the costs `[B]`.
    """

    def __init__(
        self,
        arcs: Arcs,
        token: Sequence[int],
        logit: Sequence[int] = (),
        durations: int = 0,
        hybrid: int = -1,
        constrained: bool = False,
    ) -> None:
        super().__init__()
        self.arcs = arcs
        self.token = list(token)
        self.logit = list(logit) or [-1] * len(self.token)
        self.durations = durations
        self.hybrid = hybrid
        self.constrained = constrained

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        frames: Tensor,
        labels: Tensor,
        sigma: float = 0.0,
        fastemit_lambda: float = 0.0,
        delay_penalty: float = 0.0,
    ) -> Tensor:
        fused = False
        if not torch.jit.is_scripting():
            fused = ops.fuses(logits)
        if fused:
            return torch.ops.exportable_losses.emissions_loss(
                logits,
                targets,
                frames,
                labels,
                self.arcs.blank_durations,
                self.arcs.label_durations,
                self.arcs.label_ends,
                self.token,
                self.logit,
                self.durations,
                self.hybrid,
                self.constrained,
                sigma,
                fastemit_lambda,
                delay_penalty,
            )
        arcs = self.emitted(logits, targets, frames, labels, sigma, fastemit_lambda, delay_penalty)
        return self.arcs(arcs, frames, labels)

    def posterior(
        self, logits: Tensor, targets: Tensor, frames: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`Arcs.posterior` of these logits."""
        return self.arcs.posterior(self.emitted(logits.detach(), targets, frames, labels), frames, labels)

    def align(
        self, logits: Tensor, targets: Tensor, frames: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`Arcs.align` of these logits."""
        arcs = self.emitted(logits.detach(), targets, frames, labels)
        return self.arcs.align(arcs, targets, frames, labels)

    def emitted(
        self,
        logits: Tensor,
        targets: Tensor,
        frames: Tensor,
        labels: Tensor,
        sigma: float = 0.0,
        fastemit_lambda: float = 0.0,
        delay_penalty: float = 0.0,
    ) -> Tensor:
        """The logarithms of the arcs `[B, T, U+1, K]`."""
        return ops.emitted_arcs(
            logits,
            targets,
            frames,
            labels,
            self.token,
            self.logit,
            self.durations,
            self.hybrid,
            self.constrained,
            sigma,
            fastemit_lambda,
            delay_penalty,
        )
