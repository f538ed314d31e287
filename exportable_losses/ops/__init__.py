"""The operators that no exporter has: their schemas, shapes and gradients.

Each is a torch operator of the namespace ``exportable_losses``, so that eager code, TorchScript
and `torch.export` see one node where the lattice is. Who computes is chosen in `computers`.
C++ programs get the same operators from ``csrc/torch_door.cc``. Of scores in float16 or bfloat16 all that
comes out is float32, but the gradient, which has their type. Each loss has its first derivative and no other.

==================================  ==========================================================
``ctc_loss``, ``ctc_loss_grad``     costs `[B]`; costs and the gradient `[B, T, C]`
``ctc_posterior``                   costs `[B]` and the occupation of the lattice `[B, T, 2S+1]`
``ctc_forward``                     costs `[B]` so far, and the state of the recursion
``transducer_forward``              the same of a transducer's arcs, from the state `[B, U+1]`
``ctc_align``                       the best path's states `[B, T]` and its log-probability `[B]`
``transducer_loss``, ``…_grad``     costs `[B]`; costs and the gradient `[B, T, U+1, V]`
``arcs_loss``, ``arcs_loss_grad``   the same of a lattice of given arcs `[B, T, U+1, K]`
``arcs_walk``, ``arcs_walk_grad``   costs and the occupation, which their gradient is made of
``arcs_align``                      the best path: frame and arc of each label `[B, U]`, its score
``emissions_loss``, ``…_grad``      costs of the arcs that logits make; the gradient in the logits
``picked``, ``picked_grad``         log-softmax of rows at a few classes `[N, K]`; the gradient
``joint_arcs``, ``…_grad``          arcs of logits am + lm; the gradients in both
``fused_joint``, ``…_grad``         a few classes of a joint network, in tiles; the gradients in its inputs
``fused_best``                      the best class of each row of a linear layer `[B, T]`
``best_permutation``                the cheapest assignment `[B, S]` of `[B, S, S]` costs
``edit_counts``                     insertions, deletions and substitutions `[B, 3]`
==================================  ==========================================================
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import layers, native  # noqa: F401  layers registers operators
from .arcs import arcs_align, arcs_costs, arcs_costs_and_grad, number_of
from .assignment import best_permutation
from .computers import computer_of, only_native_of, using
from .ctc import ctc_align, ctc_costs, ctc_forward, ctc_posterior
from .edits import edit_counts
from .emissions import arcs_of_tokens, classes_of, decided, emitted_arcs, shaped
from .forward import transducer_forward
from .fused import ACTIVATIONS, fused_best, fused_joint
from .joint import joint_arcs_everywhere, without_padding
from .picked import picked
from .registration import check_one_an_item, register
from .scores import computed
from .transducer import (
    illegal_seen,
    next_labels,
    transducer_costs,
    transducer_costs_and_grad,
)

__all__ = [
    "ACTIVATIONS",
    "arcs_align",
    "arcs_costs",
    "arcs_costs_and_grad",
    "arcs_of_tokens",
    "best_permutation",
    "classes_of",
    "ctc_align",
    "ctc_costs",
    "ctc_forward",
    "ctc_posterior",
    "decided",
    "edit_counts",
    "emitted_arcs",
    "fused_best",
    "fused_joint",
    "fuses",
    "illegal_seen",
    "joint_arcs_everywhere",
    "next_labels",
    "number_of",
    "picked",
    "shaped",
    "transducer_costs",
    "transducer_costs_and_grad",
    "transducer_forward",
    "using",
    "without_padding",
]

_LATTICE = "Tensor {scores}, Tensor targets, Tensor input_lengths, Tensor target_lengths, int blank_index"


def _register_lattice(loss: str, scores: str) -> None:
    """Define `loss`_loss and `loss`_loss_grad; the gradient of the first is the second."""
    name, arguments = f"{loss}_loss", _LATTICE.format(scores=scores)

    def costs(*lattice: Any) -> Tensor:
        _check_shapes(loss, scores, *lattice)
        return getattr(computer_of(lattice[0]), loss)(*lattice, None)[0]

    def costs_and_grad(*lattice: Any) -> tuple[Tensor, Tensor]:
        _check_shapes(loss, scores, *lattice)
        return getattr(computer_of(lattice[0]), loss)(*lattice)

    def fake_grad(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return _fake_costs(x), x.new_empty(x.shape)

    register(f"{name}_grad({arguments}, Tensor grad_costs) -> (Tensor, Tensor)", costs_and_grad, fake_grad)
    register(f"{name}({arguments}) -> Tensor", costs, _fake_costs, gradient=f"{name}_grad")


def _fake_costs(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape[0], dtype=computed(x.dtype))


def _check_shapes(
    loss: str,
    name: str,
    scores: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor | None = None,
) -> None:
    """Refuse shapes that disagree: a computer that is given pointers would read past the end."""
    rank = 3 if loss == "ctc" else 4
    if scores.dim() != rank:
        raise ValueError(f"{name}: got shape {list(scores.shape)}, expected {rank} dimensions")
    per_item = {"input_lengths": input_lengths, "target_lengths": target_lengths, "grad_costs": grad_costs}
    _check_batch(scores.shape[0], targets, "labels", per_item)
    if rank == 4 and scores.shape[2] != targets.shape[1] + 1:
        expected = f"{targets.shape[1] + 1} along dimension 2, one more than targets has labels"
        raise ValueError(f"{name}: got shape {list(scores.shape)}, expected {expected}")


def _check_batch(batch: int, targets: Tensor, of: str, per_item: Mapping[str, Tensor | None]) -> None:
    """Refuse targets that are no rows, one an item, and what does not have one number an item."""
    if targets.dim() != 2 or targets.shape[0] != batch:
        raise ValueError(f"targets: got shape {list(targets.shape)}, expected {batch} rows of {of}")
    check_one_an_item(batch, per_item)


_register_lattice("ctc", "log_probs")
_register_lattice("transducer", "logits")


_ARCS = "int[] blank_durations, int[] label_durations, bool label_ends"
_EMISSIONS = (
    "int[] token, int[] logit, int durations, int hybrid, bool constrained,"
    " float sigma, float fastemit_lambda, float delay_penalty"
)


def fuses(logits: Tensor) -> bool:
    """Whether one kernel takes these logits to costs; what is exported has arcs of its own."""
    compiles = torch.compiler.is_compiling() or not logits.is_floating_point()
    return not compiles and only_native_of(logits) is native


def _check_arcs(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blanks: list[int],
    labels: list[int],
    grad_costs: Tensor | None = None,
) -> None:
    kinds = len(blanks) + len(labels)
    if arcs.dim() != 4 or arcs.shape[3] != kinds:
        expected = f"[B, T, U+1, {kinds}], an arc for each duration"
        raise ValueError(f"arcs: got shape {list(arcs.shape)}, expected {expected}")
    if arcs.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"arcs: got {arcs.dtype}, expected float32 or float64")
    if arcs.shape[2] == 0:
        raise ValueError(f"arcs: got shape {list(arcs.shape)}, expected U+1 of at least 1")
    _check_durations(blanks, labels)
    per_item = {"input_lengths": input_lengths, "target_lengths": target_lengths, "grad_costs": grad_costs}
    check_one_an_item(arcs.shape[0], per_item)


def _check_durations(blanks: list[int], labels: list[int]) -> None:
    """Refuse arcs that lead back, or on the spot; a lattice has a blank."""
    if not blanks or min(blanks) < 1:
        raise ValueError(f"blank_durations: got {blanks}, expected some of at least 1")
    if labels and min(labels) < 0:
        raise ValueError(f"label_durations: got {labels}, expected none below 0")


def _arcs_loss(arcs: Tensor, *rest: Any) -> tuple[Tensor, Any]:
    input_lengths, target_lengths, blanks, labels, _, grad_costs = rest
    _check_arcs(arcs, input_lengths, target_lengths, blanks, labels, grad_costs)
    return computer_of(arcs, "arcs").arcs(arcs, *rest)


def _arcs_walk(arcs: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _arcs_loss(arcs, *rest, -torch.ones_like(rest[0], dtype=arcs.dtype))


register(
    f"arcs_walk_grad(Tensor arcs, Tensor input_lengths, Tensor target_lengths, {_ARCS},"
    " Tensor costs, Tensor occupation, Tensor grad_costs) -> Tensor",
    lambda *given: -given[-2] * given[-1][:, None, None, None],
    lambda x, *_: x.new_empty(x.shape),
)
register(
    f"arcs_walk(Tensor arcs, Tensor input_lengths, Tensor target_lengths, {_ARCS}) -> (Tensor, Tensor)",
    _arcs_walk,
    lambda x, *_: (_fake_costs(x), x.new_empty(x.shape)),
    gradient="arcs_walk_grad",
    gives_output=True,
)


def _arcs_align(arcs: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    _check_arcs(arcs, *rest[:4])
    return only_native_of(arcs).arcs_align(arcs, *rest)


def _fake_arcs_align(arcs: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    labels = (arcs.shape[0], arcs.shape[2] - 1)
    return (
        arcs.new_empty(labels, dtype=torch.int64),
        arcs.new_empty(labels, dtype=torch.int64),
        _fake_costs(arcs),
    )


register(
    f"arcs_loss_grad(Tensor arcs, Tensor input_lengths, Tensor target_lengths, {_ARCS}, Tensor grad_costs)"
    " -> (Tensor, Tensor)",
    _arcs_loss,
    lambda x, *_: (_fake_costs(x), x.new_empty(x.shape)),
)
register(
    f"arcs_loss(Tensor arcs, Tensor input_lengths, Tensor target_lengths, {_ARCS}) -> Tensor",
    lambda *given: _arcs_loss(*given, None)[0],
    _fake_costs,
    gradient="arcs_loss_grad",
)
register(
    f"arcs_align(Tensor arcs, Tensor input_lengths, Tensor target_lengths, {_ARCS})"
    " -> (Tensor, Tensor, Tensor)",
    _arcs_align,
    _fake_arcs_align,
)


def _emissions_loss(
    logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, *rest: Any
) -> tuple[Tensor, Any]:
    _check_shapes("emissions", "logits", logits, targets, input_lengths, target_lengths, 0, rest[-1])
    blanks, labels, _, token, logit, *_ = rest
    _check_durations(blanks, labels)
    if not len(token) == len(logit) == len(blanks) + len(labels):
        expected = f"{len(blanks) + len(labels)} each, one an arc"
        raise ValueError(f"token, logit: got {len(token)} and {len(logit)}, expected {expected}")
    return native.emissions(logits, targets, input_lengths, target_lengths, *rest)


_LOGITS = "Tensor logits, Tensor targets, Tensor input_lengths, Tensor target_lengths"
register(
    f"emissions_loss_grad({_LOGITS}, {_ARCS}, {_EMISSIONS}, Tensor grad_costs) -> (Tensor, Tensor)",
    _emissions_loss,
    lambda x, *_: (_fake_costs(x), x.new_empty(x.shape)),
)
register(
    f"emissions_loss({_LOGITS}, {_ARCS}, {_EMISSIONS}) -> Tensor",
    lambda *given: _emissions_loss(*given, None)[0],
    _fake_costs,
    gradient="emissions_loss_grad",
)


def _register_states(name: str, fake: Any, more: str = "") -> None:
    """Define `name`: what becomes of the states of CTC's lattice, and a number of each item."""

    def checked(*given: Any) -> tuple[Tensor, Tensor]:
        _check_shapes("ctc", "log_probs", *given[:5])
        return getattr(only_native_of(given[0]), name)(*given)

    register(f"{name}({_LATTICE.format(scores='log_probs')}{more}) -> (Tensor, Tensor)", checked, fake)


def _fake_ctc_posterior(x: Tensor, targets: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    costs = _fake_costs(x)
    return costs, costs.new_empty(*x.shape[:2], 2 * targets.shape[1] + 1)


def _fake_ctc_align(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:2], dtype=torch.int64), _fake_costs(x)


_register_states("ctc_posterior", _fake_ctc_posterior)
_register_states("ctc_align", _fake_ctc_align, ", bool free_ends")


def _ctc_forward(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    *lattice, alpha, offset = given
    _check_shapes("ctc", "log_probs", *lattice)
    batch, labels = lattice[1].shape
    _check_state(alpha, [batch, 2, labels + 1], offset, batch)
    computer = only_native_of(given[0])
    return computer.ctc_forward(*given)


def _fake_ctc_forward(
    x: Tensor, _t: Tensor, _i: Tensor, _l: Tensor, _b: int, alpha: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    costs = _fake_costs(x)
    return costs, costs.new_empty(alpha.shape), costs.new_empty(offset.shape)


register(
    f"ctc_forward({_LATTICE.format(scores='log_probs')}, Tensor alpha, Tensor offset)"
    " -> (Tensor, Tensor, Tensor)",
    _ctc_forward,
    _fake_ctc_forward,
)


def _transducer_forward(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    arcs, input_lengths, target_lengths, alpha, offset = given
    _check_arcs(arcs, input_lengths, target_lengths, [1], [0])
    _check_state(alpha, [arcs.shape[0], arcs.shape[2]], offset, arcs.shape[0])
    return only_native_of(arcs).transducer_forward(*given)


def _check_state(alpha: Tensor, shape: list[int], offset: Tensor, batch: int) -> None:
    for name, tensor, expected in (("alpha", alpha, shape), ("offset", offset, [batch, 2])):
        if list(tensor.shape) != expected:
            raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected {expected}")


register(
    "transducer_forward(Tensor arcs, Tensor input_lengths, Tensor target_lengths, Tensor alpha,"
    " Tensor offset) -> (Tensor, Tensor, Tensor)",
    _transducer_forward,
    lambda arcs, _i, _t, alpha, offset: (
        arcs.new_empty(arcs.shape[0]),
        arcs.new_empty(alpha.shape),
        arcs.new_empty(offset.shape),
    ),
)
register(
    "best_permutation(Tensor costs) -> Tensor",
    best_permutation,
    lambda costs: costs.new_empty(costs.shape[:2], dtype=torch.int64),
)


def _edit_counts(
    predictions: Tensor, targets: Tensor, prediction_lengths: Tensor, target_lengths: Tensor
) -> Tensor:
    if predictions.dim() != 2:
        raise ValueError(f"predictions: got shape {list(predictions.shape)}, expected [B, K]")
    per_item = {"prediction_lengths": prediction_lengths, "target_lengths": target_lengths}
    _check_batch(predictions.shape[0], targets, "tokens", per_item)
    for name, tensor in {"predictions": predictions, "targets": targets, **per_item}.items():
        if tensor.is_floating_point():
            raise ValueError(f"{name}: got {tensor.dtype}, expected integers")
    computer = only_native_of(predictions)
    return computer.edit_counts(predictions, targets, prediction_lengths, target_lengths)


register(
    "edit_counts(Tensor predictions, Tensor targets, Tensor prediction_lengths, Tensor target_lengths)"
    " -> Tensor",
    _edit_counts,
    lambda predictions, *_: predictions.new_empty((predictions.shape[0], 3), dtype=torch.int64),
)
