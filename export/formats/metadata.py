"""What a file says of itself: the row, its settings, the version, and what it takes."""

import json
from typing import Any

import torch
from torch import nn

import exportable_losses
from exportable_losses import catalog

KEY = "exportable_losses"


def describe(module: nn.Module) -> str:
    """The metadata of a row's module, as JSON.

    Raises:
        TypeError: the module is not a row of the catalog.
    """
    entry = catalog.find(module)
    if entry is None:
        raise TypeError(f"module: got {type(module).__name__}, expected a module of the catalog")
    settings = {name: _plain(value) for name, value in catalog.settings_of(module).items()}
    about = {
        "row": entry.name,
        "settings": settings,
        "version": exportable_losses.__version__,
        "contract": entry.contract.to_json(),
    }
    return json.dumps(about)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
