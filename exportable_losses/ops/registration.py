"""How a function becomes an operator of torch: its schema, its shapes, its derivatives, and its batches.

Each operator has one first derivative at most. What torch is asked for beyond that (a second derivative, one
of an operator that has none, one forwards) is refused, as torch's own CTC refuses it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._functorch.autograd_function import _set_fwd_grad_enabled
from torch._functorch.utils import enable_single_level_autograd_function
from torch.utils import _pytree as pytree

_NAMESPACE = "exportable_losses"
_LIBRARY = torch.library.Library(_NAMESPACE, "DEF")


def register(
    schema: str,
    compute: Callable[..., Any],
    fake: Callable[..., Any],
    gradient: str = "",
    differentiable: int = 1,
    gives_output: bool = False,
    folds: bool = True,
) -> None:
    """Define the operator of this schema.

    Args:
        schema: as torch writes it, without the namespace.
        compute: from the arguments to the outputs, on every device.
        fake: the same for tensors of which the shapes alone are known.
        gradient: the operator that takes the arguments and the gradient of the first output, and whose last
            outputs are the gradients of the first arguments; without one every derivative is refused. None
            flows through other outputs.
        differentiable: of how many arguments.
        gives_output: whether it takes the outputs as well, before the gradient of the first.
        folds: whether every tensor has the items first, so that batches of batches are one.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)
    operator = getattr(getattr(torch.ops, _NAMESPACE), name).default
    _LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, _differentiable(operator, gradient, differentiable, gives_output), "Autograd")
    torch.library.register_fake(f"{_NAMESPACE}::{name}", fake, lib=_LIBRARY)
    torch.library.register_vmap(
        f"{_NAMESPACE}::{name}", (_folded if folds else _in_turn)(operator), lib=_LIBRARY
    )


def check_one_an_item(batch: int, per_item: Mapping[str, Tensor | None]) -> None:
    """Refuse what does not have one number an item."""
    for name, tensor in per_item.items():
        if tensor is not None and tensor.shape != (batch,):
            raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected [{batch}]")


def _differentiable(operator: Any, gradient: str, number: int, gives_output: bool) -> Callable[..., Any]:
    """`operator` as autograd calls it, by `torch.func` too."""

    def forward(*arguments: Any) -> Any:
        # `apply` turns derivatives off, which the levels of `torch.func` around this one still take
        with torch.enable_grad(), _set_fwd_grad_enabled(True), torch._C._AutoDispatchBelowAutograd():
            return operator(*arguments)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if gradient:
            outputs = output if isinstance(output, tuple) else (output,)
            ctx.mark_non_differentiable(*outputs[1:])
            kept = outputs if gives_output else ()
            ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)), *kept)
            ctx.numbers = [None if isinstance(x, Tensor) else x for x in inputs]

    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if not gradient:
            raise NotImplementedError(f"derivative for {operator.name()} is not implemented")
        tensors = iter(ctx.saved_tensors)
        inputs = [next(tensors) if number is None else number for number in ctx.numbers]
        outputs = getattr(getattr(torch.ops, _NAMESPACE), gradient)(*inputs, *tensors, grads[0])
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return (*outputs[-number:], *[None] * (len(inputs) - number))

    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        raise NotImplementedError(f"forward-mode derivative for {operator.name()} is not implemented")

    methods = (forward, setup_context, backward, jvp)
    name = f"GeneratedBackwardFor_{_NAMESPACE}_{operator._schema.name.partition('::')[2]}"
    function: Any = type(
        name, (torch.autograd.Function,), {each.__name__: staticmethod(each) for each in methods}
    )
    # `Function.apply` would begin the transforms of `torch.func` anew; the dispatcher has begun them already,
    # and calls this for one level of them
    apply = super(torch.autograd.Function, function).apply

    def one_level(*arguments: Any) -> Any:
        with enable_single_level_autograd_function():
            return apply(*arguments)

    return one_level


def _folded(operator: Any) -> Callable[..., Any]:
    """`operator` on a batch of batches: one call, the items of all of them."""

    def fold(batches: int, x: Any, dim: int | None) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = x.unsqueeze(0).expand(batches, *x.shape) if dim is None else x.movedim(dim, 0)
        return x.flatten(0, 1)

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        batches = info.batch_size
        given = [fold(batches, x, dim) for x, dim in zip(arguments, in_dims, strict=True)]
        items = len(given[0]) // batches if batches else 0
        outputs = operator(*given)
        apart = pytree.tree_map(lambda x: x.unflatten(0, (batches, items)), outputs)
        return apart, pytree.tree_map(lambda _: 0, outputs)

    return rule


def _in_turn(operator: Any) -> Callable[..., Any]:
    """`operator` on a batch of batches: a call for each, since some tensors are of all items."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        given = list(zip(arguments, in_dims, strict=True))
        calls = [
            operator(*(x if dim is None else x.select(dim, i) for x, dim in given))
            for i in range(info.batch_size)
        ]
        outputs = pytree.tree_map(lambda *each: torch.stack(each), *calls)
        return outputs, pytree.tree_map(lambda _: 0, outputs)

    return rule
