"""Export to TorchScript."""

import copy
import os
import warnings

import torch
from torch import nn

from .metadata import KEY, describe


def to_torchscript(module: nn.Module, path: str | os.PathLike[str], *, custom_ops: bool = False) -> None:
    """Script `module` and write it to `path`.

    Args:
        module: a module of the catalog.
        path: the file to write, by custom ``.pt``.
        custom_ops: call this package's operators where there is one, instead of plain torch. Such
            a file needs the package (or its library) where it is loaded; others need torch alone.

    Raises:
        TypeError: the module is not a row of the catalog.

    Example:
        >>> import exportable_losses as el, tempfile, os, torch
        >>> path = os.path.join(tempfile.mkdtemp(), "l1_loss.pt")
        >>> to_torchscript(el.L1Loss(), path)
        >>> torch.jit.load(path)(torch.zeros(1, 2), torch.ones(1, 2))
        tensor(1.)
    """
    about = describe(module)
    module = copy.deepcopy(module).eval()
    if hasattr(module, "custom_ops"):
        module.custom_ops = custom_ops  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(path), _extra_files={f"{KEY}.json": about})
