"""A module as a graph has it: inputs by position, outputs in a tuple, gradients after them."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from exportable_losses.contract import Contract


class WithGradients(nn.Module):
    """A module whose outputs are followed by gradients of the first, of its sum if it is no scalar.

    Args:
        module: the loss.
        inputs: their names; forward takes them in this order.
        names: of the inputs whose gradients follow, in this order.
    """

    def __init__(self, module: nn.Module, inputs: Sequence[str], names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.inputs = tuple(inputs)
        self.names = tuple(names)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(self.inputs, values, strict=True))
        if not self.names:
            outputs = self.module(**inputs)
            return outputs if isinstance(outputs, tuple) else (outputs,)
        with torch.enable_grad():
            leaves = {name: inputs[name].detach().requires_grad_() for name in self.names}
            outputs = self.module(**{**inputs, **leaves})
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            gradients = torch.autograd.grad(outputs[0].sum(), list(leaves.values()), materialize_grads=True)
        return (*(output.detach() for output in outputs), *gradients)


def gradients_of(
    contract: Contract, inputs: Mapping[str, Tensor], asked: Sequence[str] | Literal["all"]
) -> list[str]:
    """The inputs whose gradients are asked for.

    Raises:
        ValueError: there is no gradient in one of them.
    """
    possible = [name for name in contract.differentiable if name in inputs]
    possible = [name for name in possible if inputs[name].is_floating_point()]
    names = possible if asked == "all" else list(asked)
    unknown = [name for name in names if name not in possible]
    if unknown or not names:
        raise ValueError(
            f"gradients: got {', '.join(unknown) or asked!r}, expected some of "
            f"{', '.join(possible) or 'nothing: no input of this row has a gradient'}"
        )
    return names
