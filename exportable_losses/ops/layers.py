"""The operators of scores that are made of others: a few classes of rows, sums of two, a joint network's."""

from typing import Any

import torch
from torch import Tensor

from .computers import only_native_of
from .fused import ACTIVATIONS, fused_best, fused_joint, fused_joint_grad
from .joint import joint_arcs, joint_arcs_grad
from .registration import check_one_an_item, register
from .scores import computed

_JOINT = "Tensor am, Tensor lm, Tensor labels, Tensor input_lengths, Tensor target_lengths, int blank_index"


def _fake_joint(am: Tensor, lm: Tensor, *_: Any) -> tuple[Tensor, ...]:
    nodes = (*am.shape[:2], lm.shape[1])
    return am.new_empty((*nodes, 2)), am.new_empty(nodes), am.new_empty(am.shape), am.new_empty(lm.shape)


register(
    f"joint_arcs_grad({_JOINT}, Tensor arcs, Tensor product, Tensor of_am, Tensor of_lm, Tensor grad)"
    " -> (Tensor, Tensor)",
    joint_arcs_grad,
    lambda am, lm, *_: (am.new_empty(am.shape), lm.new_empty(lm.shape)),
)
register(
    f"joint_arcs({_JOINT}) -> (Tensor, Tensor, Tensor, Tensor)",
    joint_arcs,
    _fake_joint,
    gradient="joint_arcs_grad",
    differentiable=2,
    gives_output=True,
)


def _picked(logits: Tensor, classes: Tensor, grad: Tensor | None = None) -> Tensor:
    if logits.dim() != 2 or classes.dim() != 2 or logits.shape[0] != classes.shape[0]:
        got = f"{list(logits.shape)} and {list(classes.shape)}"
        raise ValueError(f"logits, classes: got shapes {got}, expected [N, V] and [N, K]")
    if grad is not None and grad.shape != classes.shape:
        raise ValueError(f"grad: got shape {list(grad.shape)}, expected {list(classes.shape)}")
    if grad is None and classes.is_cuda:
        assert_classes(classes, logits.shape[1])
    return only_native_of(logits, "picked").picked(logits, classes, grad)


def assert_classes(classes: Tensor, size: int) -> None:
    """Have the device refuse what is no class, and wait for nothing; on a CPU who computes refuses it."""
    legal = ((classes >= -1) & (classes < size)).all()
    torch._assert_async(legal, f"classes: got one out of range, expected numbers in [-1, {size - 1}]")


register(
    "picked_grad(Tensor logits, Tensor classes, Tensor grad) -> Tensor",
    _picked,
    lambda logits, *_: logits.new_empty(logits.shape),
)
register(
    "picked(Tensor logits, Tensor classes) -> Tensor",
    _picked,
    lambda logits, classes: logits.new_empty(classes.shape, dtype=computed(logits.dtype)),
    gradient="picked_grad",
)


_FUSED = (
    "Tensor encoder, Tensor predictor, Tensor weight, Tensor bias, Tensor classes, Tensor input_lengths,"
    " Tensor node_lengths, int others, str activation"
)


def _check_lengths(batch: int, given: dict[str, tuple[Tensor, int]]) -> None:
    """Refuse lengths that are not one an item, or of more than there is."""
    check_one_an_item(batch, {name: lengths for name, (lengths, _) in given.items()})
    for name, (lengths, most) in given.items():
        wrong = (lengths < 0) | (lengths > most)
        if bool(wrong.any()):
            got = lengths[wrong][0].item()
            raise ValueError(f"{name}: got {got}, expected a number in [0, {most}]")


def _fused_joint(encoder: Tensor, predictor: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Any:
    classes, input_lengths, node_lengths, others, activation, *grad = rest
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    batch, frames, _ = encoder.shape
    if others not in range(bias.shape[0] + 1):
        raise ValueError(f"others: got {others}, expected a number in [0, {bias.shape[0]}]")
    shape = [batch, frames, classes.shape[1], classes.shape[2] + others]
    if grad and list(grad[0].shape) != shape:
        raise ValueError(f"grad: got shape {list(grad[0].shape)}, expected {shape}")
    _check_lengths(
        batch, {"input_lengths": (input_lengths, frames), "node_lengths": (node_lengths, classes.shape[1])}
    )
    if not grad and classes.is_cuda:
        node = torch.arange(classes.shape[1], device=classes.device)
        within = (node < node_lengths.to(classes.device).unsqueeze(1)).unsqueeze(2)
        assert_classes(classes.masked_fill(~within, -1), bias.shape[0] - others)
    with torch.autocast(encoder.device.type, enabled=False):
        return (fused_joint_grad if grad else fused_joint)(encoder, predictor, weight, bias, *rest)


register(
    f"fused_joint_grad({_FUSED}, Tensor grad) -> (Tensor, Tensor, Tensor, Tensor)",
    _fused_joint,
    lambda *given: tuple(x.new_empty(x.shape) for x in given[:4]),
    folds=False,
)
register(
    f"fused_joint({_FUSED}) -> Tensor",
    _fused_joint,
    lambda encoder, predictor, weight, bias, classes, *rest: encoder.new_empty(
        (*encoder.shape[:2], predictor.shape[1], classes.shape[2] + rest[2]),
        dtype=computed(encoder.dtype),
    ),
    gradient="fused_joint_grad",
    differentiable=4,
    folds=False,
)


def _fused_best(hidden: Tensor, weight: Tensor, bias: Tensor, input_lengths: Tensor) -> Tensor:
    _check_lengths(hidden.shape[0], {"input_lengths": (input_lengths, hidden.shape[1])})
    with torch.autocast(hidden.device.type, enabled=False):
        return fused_best(hidden, weight, bias, input_lengths)


register(
    "fused_best(Tensor hidden, Tensor weight, Tensor bias, Tensor input_lengths) -> Tensor",
    _fused_best,
    lambda hidden, *_: hidden.new_empty(hidden.shape[:2], dtype=torch.int64),
    folds=False,
)
