"""A module as a graph has it: inputs by position, outputs in a tuple, gradients after them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from exportable_losses.contract import Contract


class Positional(nn.Module):
    """A module as a graph has it: inputs by position, outputs in a tuple.

    Args:
        module: the loss.
        inputs: names, in the order of forward.
    """

    def __init__(self, module: nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.inputs = tuple(inputs)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        outputs = self.module(**dict(zip(self.inputs, values, strict=True)))
        return outputs if isinstance(outputs, tuple) else (outputs,)


def with_gradients(
    module: Callable[..., tuple[Tensor, ...]], wanted: Sequence[int]
) -> Callable[..., tuple[Tensor, ...]]:
    """`module` with gradients behind its outputs: of the first, or of its sum if it is no scalar.

    Args:
        module: takes tensors by position.
        wanted: the positions of the inputs whose gradients follow.
    """

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() if i in wanted else x for i, x in enumerate(values)]
            outputs = module(*leaves)
            of = [leaves[i] for i in wanted]
            gradients = torch.autograd.grad(outputs[0].sum(), of, materialize_grads=True)
        return (*(output.detach() for output in outputs), *gradients)

    return run


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
            f"gradients: got {', '.join(unknown) or repr(asked)}, expected "
            + (f"some of {', '.join(possible)}" if possible else "none: no input of this row has a gradient")
        )
    return names
