"""Numba as a computer of the lattices, for where the package has no library of its own.

The kernels are compiled when they are first called. Numba is loaded when it is first asked for: until then
nothing here knows it.
"""

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..missing import install
from . import plain
from .ctc import poison, poisoned
from .scores import computed, widened

_KERNELS = {"cpu": "numba_cpu", "cuda": "numba_gpu"}


def _kernels(device: str) -> ModuleType:
    return importlib.import_module(f"{__package__}.{_KERNELS[device]}")


@functools.cache
def _why_not(device: str) -> str:
    """Why Numba does not compute on such a device, or nothing."""
    how = install("numba" if device == "cpu" else "numba-cuda")
    try:
        kernels = _kernels(device)
        if device == "cuda" and not kernels.is_available():
            return f"Numba finds no CUDA driver, device or toolkit; where the first two are: {how}"
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed: {how}"
    except Exception as error:  # a NumPy that it does not know, a compiler that is missing: whatever it says
        what = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return f"Numba does not load: {what}"
    return ""


def unavailable(scores: Tensor) -> str:
    """Why these scores cannot be computed here, or nothing."""
    if scores.device.type not in _KERNELS:
        return f"it computes on the CPU and on CUDA devices, not on {scores.device.type}"
    if computed(scores.dtype) not in (torch.float32, torch.float64):
        return f"it knows floating point of 16, 32 and 64 bits, not {scores.dtype}"
    return _why_not(scores.device.type)


def ctc(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with a gradient of the costs the gradient `[B, T, C]`."""
    lattice = (log_probs, targets, input_lengths, target_lengths, blank_index)
    costs, grad = _run("ctc", *lattice, grad_costs)
    return (costs + poison(*lattice), None) if grad is None else poisoned(costs, grad, *lattice)


def transducer(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with a gradient of the costs the gradient `[B, T, U+1, V]`."""
    return _run("transducer", logits, *rest)


def arcs(arcs: Tensor, *rest: Any) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with a gradient of the costs that of the arcs; on a CUDA device by plain torch."""
    return _kernels("cpu").arcs(arcs, *rest) if arcs.device.type == "cpu" else plain.arcs(arcs, *rest)


def _run(loss: str, scores: Tensor, *rest: Any) -> tuple[Tensor, Tensor | None]:
    costs, grad = getattr(_kernels(scores.device.type), loss)(widened(scores), *rest)
    return costs, None if grad is None else grad.to(scores.dtype)
