"""torchaudio as a computer of the transducer, taken only where it is named.

What `use_torchaudio=True` asks for is torchaudio's value, which every computer gives. This is for who wants
its kernels, too: `using("torchaudio")` or `EXPORTABLE_LOSSES_COMPUTER=torchaudio`.
"""

import functools
import importlib
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .scores import computed, widened
from .transducer import log_zero


@functools.cache
def _rnnt_loss() -> tuple[Any, str]:
    """torchaudio's function, or why there is none."""
    try:
        return importlib.import_module("torchaudio").functional.rnnt_loss, ""
    except ModuleNotFoundError as error:
        return None, f"{error.name} is not installed"
    except Exception as error:  # OSError, where it was built for another torch than the one here
        what = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return None, f"torchaudio does not load: {what}"


def unavailable(scores: Tensor) -> str:
    """Why these scores cannot be computed here, or nothing."""
    if scores.device.type not in ("cpu", "cuda"):
        return f"it computes on the CPU and on CUDA devices, not on {scores.device.type}"
    if scores.dim() != 4:
        return "it computes the transducer only"
    if computed(scores.dtype) != torch.float32:
        return f"it knows float32 and 16 bits, not {scores.dtype}"
    return _rnnt_loss()[1]


def ctc(*_: Any) -> tuple[Tensor, Tensor | None]:
    """There is none."""
    raise NotImplementedError("torchaudio computes the transducer only")


def transducer(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with `grad_costs` the gradient `[B, T, U+1, V]`.

    Raises:
        ValueError: an item has no frame.
    """
    if not len(logits):
        costs = logits.new_empty(0, dtype=torch.float32)
        return costs, None if grad_costs is None else torch.zeros_like(logits)
    if int(input_lengths.min()) < 1:
        raise ValueError("input_lengths: got an item without a frame, torchaudio expects one at least")
    # it takes no frame and no label more than the longest item has, and int32 alone
    frames, labels = int(input_lengths.max()), int(target_lengths.max())
    given = widened(logits.detach())[:, :frames, : labels + 1]
    given = given.clamp(min=log_zero()).contiguous()  # it makes a NaN of log 0
    given = given.requires_grad_(grad_costs is not None)
    integers = (
        x.to(given.device, torch.int32).contiguous()
        for x in (targets[:, :labels], input_lengths, target_lengths)
    )
    with torch.enable_grad():
        costs = _rnnt_loss()[0](
            given, *integers, blank=blank_index, clamp=-1, reduction="none", fused_log_softmax=True
        )
    if grad_costs is None:
        return _infinite(costs), None
    (grad,) = torch.autograd.grad(costs, given, grad_costs)
    costs = _infinite(costs.detach())
    grad = grad.masked_fill(costs.isinf()[:, None, None, None], 0.0)
    grad = grad.to(logits.dtype)
    return costs, pad(grad, [0, 0, 0, logits.shape[2] - labels - 1, 0, logits.shape[1] - frames])


def _infinite(costs: Tensor) -> Tensor:
    """Costs with infinity for a target that takes an arc of no probability."""
    return torch.where(costs > -log_zero() / 10, float("inf"), costs)
