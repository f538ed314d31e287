"""A module as a graph has it: inputs by position, outputs in a tuple, gradients after them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from exportable_losses.contract import Contract


class Positional(nn.Module):
    """A module as a graph has it: inputs by position, outputs in a tuple.

    Args:
        module: the loss, or a model with one.
        inputs: names of forward's arguments.
        weights: names of parameters, which are inputs behind those.
    """

    def __init__(self, module: nn.Module, inputs: Sequence[str], weights: Sequence[str] = ()) -> None:
        super().__init__()
        self.module = module
        self.inputs, self.weights = tuple(inputs), tuple(weights)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        arguments = dict(zip(self.inputs, values, strict=False))
        weights = dict(zip(self.weights, values[len(arguments) :], strict=True))
        if weights:
            return tuple(named(functional_call(self.module, weights, (), arguments)).values())
        return tuple(named(self.module(**arguments)).values())


def named(outputs: Any) -> dict[str, Tensor]:
    """What a forward returned, by name.

    The names are those of a dict or a named tuple, else ``output_0`` and so on; a tensor alone is ``loss``
    where it is a scalar, else ``output``.

    Raises:
        TypeError: it is something else.
    """
    by_name: dict[str, Any] = {}
    if isinstance(outputs, Tensor):
        by_name = {"output" if outputs.dim() else "loss": outputs}
    elif isinstance(outputs, Mapping):
        by_name = dict(outputs)
    elif isinstance(outputs, tuple) and hasattr(outputs, "_asdict"):
        by_name = outputs._asdict()
    elif isinstance(outputs, (tuple, list)):
        by_name = {f"output_{i}": output for i, output in enumerate(outputs)}
    if not by_name or not all(isinstance(output, Tensor) for output in by_name.values()):
        got = ", ".join(type(x).__name__ for x in by_name.values()) or type(outputs).__name__
        raise TypeError(f"module: got {got} from forward, expected a tensor, or a tuple or a dict of tensors")
    return by_name


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
            if not outputs[0].requires_grad:
                raise ValueError("gradients: the module's first output has none in any of its inputs")
            of = [leaves[i] for i in wanted]
            gradients = torch.autograd.grad(outputs[0].sum(), of, materialize_grads=True)
        return (*(output.detach() for output in outputs), *gradients)

    return run


def differentiable(contract: Contract, inputs: Mapping[str, Tensor]) -> list[str]:
    """The inputs of a row that have a gradient."""
    return [n for n in contract.differentiable if n in inputs and inputs[n].is_floating_point()]


def gradients_of(possible: Sequence[str], asked: Sequence[str] | Literal["all"]) -> list[str]:
    """The inputs whose gradients are asked for.

    Raises:
        ValueError: there is no gradient in one of them.
    """
    names = list(possible) if asked == "all" else list(asked)
    unknown = [name for name in names if name not in possible]
    if unknown or not names:
        raise ValueError(
            f"gradients: got {', '.join(unknown) or repr(asked)}, expected "
            + (
                f"some of {', '.join(possible)}"
                if possible
                else "none: no input of this module has a gradient"
            )
        )
    return names
