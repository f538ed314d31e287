"""What a module was made with: each argument of its constructor is an attribute of the same name."""

import inspect
from typing import Any

from torch import Tensor, nn


def parameters_of(kind: type[nn.Module]) -> list[inspect.Parameter]:
    """The arguments of the constructor."""
    if kind.__init__ is nn.Module.__init__:
        return []
    return list(inspect.signature(kind).parameters.values())


def settings_of(module: nn.Module) -> dict[str, Any]:
    """What `module`, a row's, was made with."""
    return {p.name: getattr(module, p.name) for p in parameters_of(type(module))}


def settings_repr(module: nn.Module) -> str:
    """The settings as `repr` shows them: what a module of this package has as its `extra_repr`.

    Modules among them are left to torch, which shows them below. An argument that a subclass does not keep
    is left out.
    """
    names = (p.name for p in parameters_of(type(module)) if p.name not in module._modules)
    return ", ".join(f"{name}={_short(getattr(module, name))}" for name in names if hasattr(module, name))


def _short(value: Any) -> str:
    return f"<tensor {list(value.shape)}>" if isinstance(value, Tensor) else repr(value)
