"""What all transducers share: from logits to the costs of all paths, whatever arcs leave a node."""

import torch
from torch import Tensor

from .. import ops


def reduced(costs: Tensor, reduction: str) -> Tensor:
    """Costs `[B]` as `reduction` has them."""
    if reduction == "sum":
        return costs.sum()
    if reduction == "mean" or reduction == "batchmean":
        return costs.mean()
    return costs


def arcs_costs(
    arcs: Tensor,
    frames: Tensor,
    labels: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
    custom_ops: bool,
) -> Tensor:
    """`ops.arcs_costs` by the operator, where there are operators."""
    if torch.jit.is_scripting():
        if not custom_ops:
            return ops.arcs_costs(arcs, frames, labels, blank_durations, label_durations, label_ends)
    return torch.ops.exportable_losses.arcs_loss(
        arcs, frames, labels, blank_durations, label_durations, label_ends
    )


def emitted_costs(
    logits: Tensor,
    targets: Tensor,
    frames: Tensor,
    labels: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
    token: list[int],
    logit: list[int],
    durations: int,
    hybrid: int,
    constrained: bool,
    sigma: float,
    fastemit_lambda: float,
    delay_penalty: float,
    custom_ops: bool,
) -> Tensor:
    """The costs `[B]` of the arcs that `ops.emitted_arcs` makes of logits: in one operator where it can be."""
    fused = False
    if not torch.jit.is_scripting():
        fused = ops.fuses(logits)
    if fused:
        return torch.ops.exportable_losses.emissions_loss(
            logits,
            targets,
            frames,
            labels,
            blank_durations,
            label_durations,
            label_ends,
            token,
            logit,
            durations,
            hybrid,
            constrained,
            sigma,
            fastemit_lambda,
            delay_penalty,
        )
    arcs = ops.emitted_arcs(
        logits,
        targets,
        frames,
        labels,
        token,
        logit,
        durations,
        hybrid,
        constrained,
        sigma,
        fastemit_lambda,
        delay_penalty,
    )
    return arcs_costs(arcs, frames, labels, blank_durations, label_durations, label_ends, custom_ops)
