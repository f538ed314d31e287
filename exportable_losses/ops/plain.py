"""Plain torch as a computer: everywhere, on every device."""

from torch import Tensor

from .arcs import arcs_align, arcs_costs, arcs_costs_and_grad
from .ctc import ctc_align, ctc_costs, ctc_costs_and_grad, ctc_forward, ctc_posterior
from .edits import edit_counts
from .forward import transducer_forward
from .picked import picked as log_probs_at
from .picked import picked_grad
from .transducer import transducer_costs, transducer_costs_and_grad

__all__ = [
    "arcs",
    "arcs_align",
    "ctc",
    "ctc_align",
    "ctc_forward",
    "ctc_posterior",
    "edit_counts",
    "picked",
    "transducer",
    "transducer_forward",
    "unavailable",
]


def unavailable(scores: Tensor) -> str:
    """Plain torch always can."""
    return ""


def arcs(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with `grad_costs` the gradient in the shape of `arcs`."""
    lattice = (arcs, input_lengths, target_lengths, blank_durations, label_durations, label_ends)
    return (arcs_costs(*lattice), None) if grad_costs is None else arcs_costs_and_grad(*lattice, grad_costs)


def ctc(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with `grad_costs` the gradient `[B, T, C]`."""
    lattice = (log_probs, targets, input_lengths, target_lengths, blank_index)
    return (ctc_costs(*lattice), None) if grad_costs is None else ctc_costs_and_grad(*lattice, grad_costs)


def transducer(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with `grad_costs` the gradient `[B, T, U+1, V]`."""
    lattice = (logits, targets, input_lengths, target_lengths, blank_index)
    if grad_costs is None:
        return transducer_costs(*lattice), None
    return transducer_costs_and_grad(*lattice, grad_costs)


def picked(logits: Tensor, classes: Tensor, grad: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """`picked.picked`, or with `grad` `picked.picked_grad`, in `out` where that is given."""
    if grad is None:
        return log_probs_at(logits, classes)
    slopes = picked_grad(logits, classes, grad)
    return slopes if out is None else out.copy_(slopes)
