"""Export to TorchScript."""

import copy
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import reason
from .gradients import Positional
from .metadata import KEY, describe
from .placing import placed
from .plan import plan
from .verify import cases, differentiated, dims_of_plan, verified


def to_torchscript(
    module: nn.Module,
    path: str | os.PathLike[str],
    inputs: Mapping[str, Tensor] | None = None,
    *,
    custom_ops: bool = False,
    verify: bool = True,
) -> None:
    """Script `module` and write it to `path`.

    Before the file is at `path`, the script is loaded and run on `inputs` and on random inputs of other
    sizes. Outputs and gradients must equal those of the module.

    Args:
        module: a module of the catalog.
        path: the file to write, usually ``.pt``.
        inputs: example inputs by name for the verification; by default the catalog's. The script takes any.
        custom_ops: call this package's operators instead of plain torch where there is one. Such a file needs
            the package (or its library) wherever it is loaded; others need torch alone.
        verify: compare the written script with eager torch. Without it no number is checked.

    Raises:
        TypeError: the module is not a row of the catalog.
        ValueError: the module does not have an input of that name, or one is missing.
        VerificationError: a `RuntimeError`: an output or a gradient of the script differs from the module's.

    Warns:
        RuntimeWarning: the module does not take the catalog's example, so that nothing is verified.

    Examples:
        >>> import exportable_losses as el, tempfile, os, torch
        >>> path = os.path.join(tempfile.mkdtemp(), "l1_loss.pt")
        >>> to_torchscript(el.L1Loss(), path)
        >>> torch.jit.load(path)(torch.zeros(1, 2), torch.ones(1, 2))
        tensor(1.)
    """
    about = describe(module)
    script = copy.deepcopy(module).eval()
    for each in script.modules():
        if hasattr(each, "custom_ops"):
            each.custom_ops = custom_ops  # type: ignore[assignment]
    with placed(path) as new:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            torch.jit.save(torch.jit.script(script), str(new), _extra_files={f"{KEY}.json": about})
        if verify:
            _verify(module, new, inputs)


def _verify(module: nn.Module, path: Path, inputs: Mapping[str, Tensor] | None) -> None:
    planned = plan(module, inputs)
    eager = differentiated(planned.module, planned)
    try:
        found = cases(module, planned.inputs, dims_of_plan(planned), eager)
    except Exception as error:
        if inputs is not None:
            raise
        warnings.warn(
            f"module: {type(module).__name__} is not verified: give inputs, it does not take the catalog's "
            f"({reason(error)})",
            RuntimeWarning,
            stacklevel=3,
        )
        return
    loaded = Positional(torch.jit.load(str(path)), list(planned.inputs))
    with torch.jit.optimized_execution(False):  # it runs but once
        verified("TorchScript", differentiated(loaded, planned), found, eager)
