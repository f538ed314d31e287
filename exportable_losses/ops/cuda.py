"""The CUDA kernels as a computer of the lattices: their plain C door, called on device pointers.

Everything is queued on the current stream and nothing waits for the device, so lengths and targets are not
checked: a length outside of its size is taken as the nearer end, a target that is no class has probability
zero, and the cost of its item is infinite with a gradient of zero.
"""

import ctypes
import functools
import os
from pathlib import Path

import torch
from torch import Tensor

from ..library import library_path, load
from . import plain
from .native import in_rows, picks_and_room, pointer
from .scores import computed
from .structures import TYPES, Arcs, ArcShape, Batch, Picks

_MOST_KINDS = 64  # that a kernel takes
MISSING = "the package was installed without it (EXPORTABLE_LOSSES_CUDA=ON pip install builds it, with nvcc)"


def cuda_library_path() -> str | None:
    """The shared library with the CUDA kernels, or None where the package was built without.

    It lies beside the other one; `EXPORTABLE_LOSSES_CUDA_LIBRARY` names another.
    """
    given = os.environ.get("EXPORTABLE_LOSSES_CUDA_LIBRARY")
    if given is not None:
        return given or None
    beside = library_path()
    if beside is None:
        return None
    path = Path(beside)
    path = path.with_name(f"{path.stem}_cuda{path.suffix}")
    return str(path) if path.is_file() else None


@functools.cache
def _library() -> ctypes.CDLL | None:
    path = cuda_library_path()
    if path is None:
        return None
    library = load(path, "exportable_losses_cuda_version")
    for loss in ("ctc", "transducer", "arcs"):
        workspace = getattr(library, f"exportable_losses_cuda_{loss}_workspace")
        workspace.restype = ctypes.c_int64
        workspace.argtypes = [ctypes.c_int64] * 4 + [ctypes.c_int]
        for kind in ("float", "double") if loss == "arcs" else TYPES.values():
            function = getattr(library, f"exportable_losses_cuda_{loss}_{kind}")
            function.restype = ctypes.c_char_p
            function.argtypes = [ctypes.c_void_p] * 6
    for kind in TYPES.values():
        function = getattr(library, f"exportable_losses_cuda_pick_{kind}")
        function.restype = ctypes.c_char_p
        function.argtypes = [ctypes.c_void_p] * 5
    library.exportable_losses_cuda_architectures.restype = ctypes.c_char_p
    return library


def unavailable(scores: Tensor) -> str:
    """Why these scores cannot be computed here, or nothing."""
    if scores.device.type != "cuda":
        return f"it computes on CUDA devices, not on {scores.device.type}"
    if scores.dtype not in TYPES:
        return f"it knows floating point of 16, 32 and 64 bits, not {scores.dtype}"
    return "" if _library() else MISSING


def about() -> dict[str, str]:
    """The library's path and the architectures it was built for; empty without a library."""
    library = _library()
    if library is None:
        return {}
    return {
        "path": cuda_library_path() or "",
        "architectures": library.exportable_losses_cuda_architectures().decode(),
    }


def _run(
    loss: str,
    scores: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    library, device, kind = _library(), scores.device, computed(scores.dtype)
    if library is None:
        raise RuntimeError("the CUDA kernels were asked for: the package was installed without them")
    scores = in_rows(scores)
    targets, input_lengths, target_lengths = (
        x.to(device, torch.int64, non_blocking=True).contiguous()
        for x in (targets, input_lengths, target_lengths)
    )
    with torch.cuda.device(device):
        costs = scores.new_empty(scores.shape[0], dtype=kind)
        grad = None
        if grad_costs is not None:
            grad = torch.empty(scores.shape, dtype=scores.dtype, device=device)
            grad_costs = grad_costs.to(device, kind).contiguous()
        sizes = (scores.shape[0], scores.shape[1], targets.shape[1], scores.element_size(), grad is not None)
        bytes_needed = getattr(library, f"exportable_losses_cuda_{loss}_workspace")(*sizes)
        # one byte at least, and freed to torch's allocator at once: what is queued later on this stream
        # waits for the kernels, so nobody writes into it before they have run
        workspace = torch.empty(max(1, bytes_needed), dtype=torch.uint8, device=device)
        error = getattr(library, f"exportable_losses_cuda_{loss}_{TYPES[scores.dtype]}")(
            ctypes.byref(Batch.of(scores, targets, input_lengths, target_lengths, blank_index)),
            *(pointer(grad_costs), pointer(costs), pointer(grad), pointer(workspace)),
            torch.cuda.current_stream(device).cuda_stream,
        )
    if error:
        raise ValueError(error.decode())
    return costs, grad


# costs `[B]`, and with `grad_costs` the gradient in the shape of the scores
ctc = functools.partial(_run, "ctc")
transducer = functools.partial(_run, "transducer")


def arcs(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: list[int],
    label_durations: list[int],
    label_ends: bool,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with `grad_costs` the gradient in the shape of `arcs`; many kinds by plain torch."""
    library, device = _library(), arcs.device
    shape = (blank_durations, label_durations, label_ends)
    if library is None or arcs.shape[3] > _MOST_KINDS:
        return plain.arcs(arcs, input_lengths, target_lengths, *shape, grad_costs)
    arcs = arcs.contiguous()
    lengths = [
        x.to(device, torch.int64, non_blocking=True).contiguous() for x in (input_lengths, target_lengths)
    ]
    batch, frames, nodes = arcs.shape[:3]
    with torch.cuda.device(device):
        costs, grad = arcs.new_empty(batch), None
        if grad_costs is not None:
            grad, grad_costs = torch.empty_like(arcs), grad_costs.to(device, arcs.dtype).contiguous()
        sizes = (batch, frames, nodes - 1, arcs.element_size(), grad is not None)
        bytes_needed = library.exportable_losses_cuda_arcs_workspace(*sizes)
        workspace = torch.empty(max(1, bytes_needed), dtype=torch.uint8, device=device)
        given = Arcs.of(arcs, lengths[0], lengths[1], ArcShape.of(*shape))
        error = getattr(library, f"exportable_losses_cuda_arcs_{TYPES[arcs.dtype]}")(
            ctypes.byref(given),
            *(pointer(grad_costs), pointer(costs), pointer(grad), pointer(workspace)),
            torch.cuda.current_stream(device).cuda_stream,
        )
    if error:
        raise ValueError(error.decode())
    return costs, grad


def picked(logits: Tensor, classes: Tensor, grad: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """`picked.picked`, or with `grad` `picked.picked_grad`; the latter in `out`, which may be `logits`.

    A class out of range is none.
    """
    library, device = _library(), logits.device
    if library is None or classes.shape[1] == 0:
        return plain.picked(logits, classes, grad, out)
    with torch.cuda.device(device):
        logits, classes, grad, out = picks_and_room(logits, classes.to(device), grad, out)
        workspace = None if grad is None else torch.empty_like(grad)
        picks = Picks.of(logits, classes)
        error = getattr(library, f"exportable_losses_cuda_pick_{TYPES[logits.dtype]}")(
            ctypes.byref(picks),
            *(pointer(grad), pointer(out), pointer(workspace)),
            torch.cuda.current_stream(device).cuda_stream,
        )
    if error:
        raise ValueError(error.decode())
    return out
