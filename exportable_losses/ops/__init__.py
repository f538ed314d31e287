"""The operators that no exporter has: their schemas, shapes, gradients, and who computes them.

Each is a torch operator of the namespace ``exportable_losses``, so that eager code, TorchScript
and `torch.export` see one node where the lattice is. The computation behind it is plain torch.

==================================  ==========================================================
``ctc_loss``, ``ctc_loss_grad``     costs `[B]`; costs and their gradient `[B, T, C]`
``transducer_loss``, ``…_grad``     costs `[B]`; costs and their gradient `[B, T, U+1, V]`
``best_permutation``                the cheapest assignment `[B, S]` of `[B, S, S]` costs
==================================  ==========================================================
"""

from typing import Any

import torch
from torch import Tensor

from .assignment import best_permutation
from .ctc import ctc_costs, ctc_costs_and_grad
from .transducer import transducer_costs, transducer_costs_and_grad

__all__ = [
    "best_permutation",
    "ctc_costs",
    "ctc_costs_and_grad",
    "transducer_costs",
    "transducer_costs_and_grad",
]

_LIBRARY = torch.library.Library("exportable_losses", "DEF")
_LATTICE = "(Tensor {scores}, Tensor targets, Tensor input_lengths, Tensor target_lengths, int blank_index)"


def _register_lattice(name: str, scores: str, costs: Any, costs_and_grad: Any) -> None:
    """Define `name` and `name_grad`; the gradient of the first is the second."""
    arguments = _LATTICE.format(scores=scores)
    _LIBRARY.define(f"{name}{arguments} -> Tensor")
    _LIBRARY.define(f"{name}_grad{arguments} -> (Tensor, Tensor)")
    _LIBRARY.impl(name, costs, "CompositeExplicitAutograd")
    _LIBRARY.impl(f"{name}_grad", costs_and_grad, "CompositeExplicitAutograd")
    grad_op = getattr(torch.ops.exportable_losses, f"{name}_grad")

    def fake(x: Tensor, *_: Any) -> Tensor:
        return x.new_empty(x.shape[0])

    def fake_grad(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return x.new_empty(x.shape[0]), torch.empty_like(x)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.blank_index = inputs[4]

    def backward(ctx: Any, grad_costs: Tensor) -> tuple[Tensor | None, ...]:
        _, grad = grad_op(*ctx.saved_tensors, ctx.blank_index)
        per_item = grad_costs.reshape(-1, *(1 for _ in grad.shape[1:]))
        return grad * per_item, None, None, None, None

    qualified = f"exportable_losses::{name}"
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    torch.library.register_fake(f"{qualified}_grad", fake_grad, lib=_LIBRARY)
    torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=_LIBRARY)


_register_lattice("ctc_loss", "log_probs", ctc_costs, ctc_costs_and_grad)
_register_lattice("transducer_loss", "logits", transducer_costs, transducer_costs_and_grad)

_LIBRARY.define("best_permutation(Tensor costs) -> Tensor")
_LIBRARY.impl("best_permutation", best_permutation, "CompositeExplicitAutograd")


torch.library.register_fake(
    "exportable_losses::best_permutation",
    lambda costs: costs.new_empty(costs.shape[:2], dtype=torch.int64),
    lib=_LIBRARY,
)
