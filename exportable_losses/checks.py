"""Checks of eager calls: settings when a module is made, inputs when it is called."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .contract import Contract

REDUCTIONS = ("mean", "sum", "batch", "batchmean", "none")


def check_choice(name: str, value: str, choices: tuple[str, ...] = REDUCTIONS) -> str:
    """Return `value`.

    Raises:
        ValueError: it is not among `choices`.
    """
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(choices)}")
    return value


def check_inputs(contract: Contract, tensors: Mapping[str, Tensor | None], **settings: Any) -> None:
    """Hold what an eager call was given to the row's contract.

    Shapes and dtypes are checked on every device. Values (lengths, indices) are checked on the CPU
    only, so that a GPU is never made to wait: there `absolute_length` has the device assert its
    lengths. A NaN passes through into the loss. A trace, an export and a compiled graph are not
    checked: there, values do not exist yet. Nor are values under the transforms of `torch.func`, which
    hold many at once.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not taken.
        ValueError: the message names the argument, what it got and what it expected.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    check_tensors(given)
    contract.check_types({name: tensor.dtype for name, tensor in given.items()})
    values = all(_is_plain(tensor) and tensor.device.type == "cpu" for tensor in given.values())
    checked = {entry.name for entry in contract.inputs if entry.bounded} if values else set()
    arrays: dict[str, Any] = {
        name: tensor.detach().numpy() if name in checked else tensor for name, tensor in given.items()
    }
    contract.check(arrays, settings, values=values)


def check_tensors(tensors: Mapping[str, Any]) -> None:
    """Refuse what is no tensor: lists and arrays of numpy.

    Raises:
        TypeError: the message names the argument and what it got.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: got {type(tensor).__name__}, expected a tensor")


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has memory of its own, which a subclass and a transform's stand-in have not."""
    return type(tensor) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
