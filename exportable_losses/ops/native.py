"""The native library as a computer: its plain C door, called on data pointers."""

import ctypes
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..library import about as about_library
from ..library import library_path, load
from . import plain
from .scores import computed
from .structures import (
    SEQUENCES,
    TYPES,
    Arcs,
    ArcShape,
    Batch,
    Emissions,
    Picks,
    Sequences,
    declare,
    integers,
)


def in_rows(scores: Tensor) -> Tensor:
    """`scores` with each row of classes, and each frame of rows, in one piece; other strides stay."""
    rows = scores.stride(-1) == 1 and (scores.dim() == 3 or scores.stride(2) == scores.shape[3])
    return scores if rows else scores.contiguous()


def pointer(tensor: Tensor | None) -> int | None:
    """What a C door takes for `tensor`."""
    return None if tensor is None else tensor.data_ptr()


@functools.cache
def _library() -> ctypes.CDLL | None:
    path = library_path()
    if path is None:
        return None
    library = load(path)
    try:
        declare(library)
    except AttributeError as error:
        raise RuntimeError(f"{path}: another build of this version, it lacks functions: {error}") from error
    return library


def unavailable(scores: Tensor) -> str:
    """Why these scores cannot be computed here, or nothing."""
    if scores.device.type == "cpu" and scores.dtype not in TYPES:
        return f"it knows floating point of 16, 32 and 64 bits, not {scores.dtype}"
    return unavailable_on(scores.device)


def unavailable_on(device: torch.device) -> str:
    """Why nothing on this device can be computed here, or nothing."""
    if device.type != "cpu":
        return f"it computes on the CPU, not on {device.type}"
    return "" if _library() else "the package was installed without it (no C++ compiler was found)"


def about() -> dict[str, str]:
    """What `library.about` says of the library; empty without one."""
    path = library_path()
    return {} if path is None else about_library(path)


def _run(
    loss: str,
    scores: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    costs, grad = _room(scores, grad_costs)
    compute_into(
        loss, scores, targets, input_lengths, target_lengths, blank_index, grad_costs, costs=costs, grad=grad
    )
    return costs, grad


def _room(scores: Tensor, grad_costs: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Memory for the costs, and for the gradient of the scores if that of the costs is given."""
    costs = scores.new_empty(scores.shape[0], dtype=computed(scores.dtype))
    return costs, None if grad_costs is None else _empty_like(scores)


def _empty_like(scores: Tensor) -> Tensor:
    """Contiguous memory for a gradient, on a CPU in huge pages where it is large."""
    grad = torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)
    library = _library()
    if library and scores.device.type == "cpu":
        library.exportable_losses_huge_pages(grad.data_ptr(), grad.numel() * grad.element_size())
    return grad


def compute_into(
    loss: str,
    scores: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor | None,
    *,
    costs: Tensor,
    grad: Tensor | None,
) -> None:
    """Write costs, and the gradient where it is asked for, to contiguous tensors that are there already.

    Costs are float32 where scores have 16 bits, and the gradient is in the type of the scores.

    Args:
        loss: ``ctc`` or ``transducer``; the other arguments are those of these functions.

    Raises:
        ValueError: a length or an index is outside of what it may be, or a tensor is not on the CPU.
        MemoryError: there is none left.
    """
    lattice = _lattice(scores, targets, input_lengths, target_lengths)
    _on_the_cpu({"grad_costs": grad_costs}, "the scores are")
    if grad_costs is not None:
        grad_costs = grad_costs.to(costs.dtype).contiguous()
    _call(
        f"{loss}_{TYPES[scores.dtype]}",
        ctypes.byref(Batch.of(*lattice, blank_index)),
        *(pointer(grad_costs), pointer(costs), pointer(grad)),
    )


# costs `[B]`, and with `grad_costs` the gradient in the shape of the scores
ctc = functools.partial(_run, "ctc")
transducer = functools.partial(_run, "transducer")


def arcs(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: Sequence[int],
    label_durations: Sequence[int],
    label_ends: bool,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]`, and with `grad_costs` the gradient in the shape of `arcs`, as `arcs.arcs_costs_and_grad`.

    Raises:
        ValueError: a length or a duration is outside of what it may be, or a tensor is not on the CPU.
        MemoryError: there is none left.
    """
    given = {"input_lengths": input_lengths, "target_lengths": target_lengths, "grad_costs": grad_costs}
    _on_the_cpu(given, "the arcs are")
    arcs = arcs.contiguous()
    lengths = [lengths.long().contiguous() for lengths in (input_lengths, target_lengths)]
    costs, grad = _room(arcs, grad_costs)
    if grad_costs is not None:
        grad_costs = grad_costs.to(costs.dtype).contiguous()
    shape = ArcShape.of(blank_durations, label_durations, label_ends)
    _call(
        f"arcs_{TYPES[arcs.dtype]}",
        ctypes.byref(Arcs.of(arcs, lengths[0], lengths[1], shape)),
        *(pointer(grad_costs), pointer(costs), pointer(grad)),
    )
    return costs, grad


def arcs_align(
    arcs: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: Sequence[int],
    label_durations: Sequence[int],
    label_ends: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Starts and kinds `[B, U]` and scores `[B]` of the best path, as `arcs.arcs_align`.

    Raises:
        ValueError: a length or a duration is outside of what it may be, or a tensor is not on the CPU.
        MemoryError: there is none left.
    """
    _on_the_cpu({"input_lengths": input_lengths, "target_lengths": target_lengths}, "the arcs are")
    arcs = arcs.contiguous()
    lengths = [lengths.long().contiguous() for lengths in (input_lengths, target_lengths)]
    starts = torch.empty(arcs.shape[0], arcs.shape[2] - 1, dtype=torch.int64)
    kinds, scores = torch.empty_like(starts), arcs.new_empty(arcs.shape[0])
    shape = ArcShape.of(blank_durations, label_durations, label_ends)
    _call(
        f"arcs_align_{TYPES[arcs.dtype]}",
        ctypes.byref(Arcs.of(arcs, lengths[0], lengths[1], shape)),
        *(pointer(starts), pointer(kinds), pointer(scores)),
    )
    return starts, kinds, scores


def emissions(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_durations: Sequence[int],
    label_durations: Sequence[int],
    label_ends: bool,
    token: Sequence[int],
    logit: Sequence[int],
    durations: int,
    hybrid: int,
    constrained: bool,
    sigma: float,
    fastemit_lambda: float,
    delay_penalty: float,
    grad_costs: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Costs `[B]` of the arcs that `emissions.emitted_arcs` makes of logits, and the gradient in these.

    Raises:
        ValueError: a length, an index or a duration is outside of what it may be, or a tensor not on the CPU.
        MemoryError: there is none left.
    """
    lattice = _lattice(logits, targets, input_lengths, target_lengths, "the logits are")
    _on_the_cpu({"grad_costs": grad_costs}, "the logits are")
    costs, grad = _room(logits, grad_costs)
    if grad_costs is not None:
        grad_costs = grad_costs.to(costs.dtype).contiguous()
    shape = ArcShape.of(blank_durations, label_durations, label_ends)
    numbers = (hybrid, constrained, sigma, fastemit_lambda, delay_penalty)
    _call(
        f"emissions_{TYPES[logits.dtype]}",
        ctypes.byref(Batch.of(*lattice, 0)),
        ctypes.byref(Emissions(shape, durations, integers(token), integers(logit), *numbers)),
        *(pointer(grad_costs), pointer(costs), pointer(grad)),
    )
    return costs, grad


def picked(logits: Tensor, classes: Tensor, grad: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """`picked.picked`, or with `grad` `picked.picked_grad`; the latter in `out`, which may be `logits`.

    Raises:
        ValueError: a class is outside of what it may be, or a tensor is not on the CPU.
        MemoryError: there is none left.
    """
    _on_the_cpu({"classes": classes, "grad": grad}, "the logits are")
    if classes.shape[1] == 0:
        return plain.picked(logits, classes, grad, out)
    logits, classes, grad, out = picks_and_room(logits, classes, grad, out)
    picks = Picks.of(logits, classes)
    _call(
        f"pick_{TYPES[logits.dtype]}",
        ctypes.byref(picks),
        pointer(grad),
        pointer(out),
    )
    return out


def picks_and_room(
    logits: Tensor, classes: Tensor, grad: Tensor | None, out: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """What a `Picks` is of, as a library reads it, the gradient, and where to write."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    classes = classes.long().contiguous()
    wide = computed(logits.dtype)
    if grad is None:
        return logits, classes, None, logits.new_empty(classes.shape, dtype=wide)
    if out is None:  # the gradient lies as the scores do
        logits = logits.contiguous()
        out = _empty_like(logits)
    return logits, classes, grad.to(logits.device, wide).contiguous(), out


def ctc_forward(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    alpha: Tensor,
    offset: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Costs `[B]`, alpha `[B, 2, S+1]` and offset `[B, 2]`, as `ctc.ctc_forward` has them.

    Raises:
        ValueError: a length or an index is outside of what it may be, or a tensor is not on the CPU.
        MemoryError: there is none left.
    """
    _on_the_cpu({"alpha": alpha, "offset": offset}, "the scores are")
    lattice = _lattice(log_probs, targets, input_lengths, target_lengths)
    batch = Batch.of(*lattice, blank_index)
    return _walk_on(f"ctc_forward_{TYPES[log_probs.dtype]}", batch, log_probs, alpha, offset)


def ctc_posterior(
    log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank_index: int
) -> tuple[Tensor, Tensor]:
    """Costs `[B]` and the occupation `[B, T, 2S+1]`, as `ctc.ctc_posterior` has them.

    Raises:
        ValueError: a length or an index is outside of what it may be, or a tensor is not on the CPU.
        MemoryError: there is none left.
    """
    lattice = _lattice(log_probs, targets, input_lengths, target_lengths)
    costs = log_probs.new_empty(log_probs.shape[0], dtype=computed(log_probs.dtype))
    posteriors = costs.new_empty(*log_probs.shape[:2], 2 * targets.shape[1] + 1)
    _call(
        f"ctc_posterior_{TYPES[log_probs.dtype]}",
        ctypes.byref(Batch.of(*lattice, blank_index)),
        costs.data_ptr(),
        posteriors.data_ptr(),
    )
    return costs, posteriors


def ctc_align(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    free_ends: bool,
) -> tuple[Tensor, Tensor]:
    """States `[B, T]` and scores `[B]` of the best path, as `ctc.ctc_align` has them.

    Raises:
        ValueError: a length or an index is outside of what it may be, or a tensor is not on the CPU.
        MemoryError: there is none left.
    """
    lattice = _lattice(log_probs, targets, input_lengths, target_lengths)
    states = torch.empty(log_probs.shape[:2], dtype=torch.int64)
    scores = log_probs.new_empty(log_probs.shape[0], dtype=computed(log_probs.dtype))
    _call(
        f"ctc_align_{TYPES[log_probs.dtype]}",
        ctypes.byref(Batch.of(*lattice, blank_index)),
        free_ends,
        states.data_ptr(),
        scores.data_ptr(),
    )
    return states, scores


def _lattice(
    scores: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    where: str = "the scores are",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a `Batch` is of, in the types and the order in memory that the library reads.

    To be held as long as the batch: that has their addresses alone.
    """
    given = {"targets": targets, "input_lengths": input_lengths, "target_lengths": target_lengths}
    _on_the_cpu(given, where)
    targets, input_lengths, target_lengths = (tensor.long().contiguous() for tensor in given.values())
    return in_rows(scores), targets, input_lengths, target_lengths


def transducer_forward(
    arcs: Tensor, input_lengths: Tensor, target_lengths: Tensor, alpha: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Costs `[B]`, alpha `[B, U+1]` and offset `[B, 2]`, as `forward.transducer_forward` has them.

    Raises:
        ValueError: a length is outside of what it may be, or a tensor is not on the CPU.
        MemoryError: there is none left.
    """
    names = ("input_lengths", "target_lengths", "alpha", "offset")
    given = dict(zip(names, (input_lengths, target_lengths, alpha, offset), strict=True))
    _on_the_cpu(given, "the arcs are")
    arcs = arcs.contiguous()
    lengths = [lengths.long().contiguous() for lengths in (input_lengths, target_lengths)]
    batch = Arcs.of(arcs, lengths[0], lengths[1], ArcShape.of([1], [0], True))
    return _walk_on(f"transducer_forward_{TYPES[arcs.dtype]}", batch, arcs, alpha, offset)


def _walk_on(
    name: str, batch: ctypes.Structure, scores: Tensor, alpha: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What a forward recursion of the library gives from a state on."""
    costs = scores.new_empty(scores.shape[0], dtype=computed(scores.dtype))
    state = [tensor.to(costs.dtype).contiguous() for tensor in (alpha, offset)]
    found = [torch.empty_like(tensor) for tensor in state]
    walk = (ctypes.c_void_p * 4)(*(tensor.data_ptr() for tensor in (*state, *found)))
    _call(name, ctypes.byref(batch), walk, costs.data_ptr())
    return costs, found[0], found[1]


def edit_counts(
    predictions: Tensor, targets: Tensor, prediction_lengths: Tensor, target_lengths: Tensor
) -> Tensor:
    """Insertions, deletions and substitutions, int64 `[B, 3]`, as `edits.edit_counts` has them.

    Raises:
        ValueError: a length is outside of what it may be, or a tensor is not on the CPU.
        MemoryError: there is none left.
    """
    given = dict(zip(SEQUENCES, (predictions, targets, prediction_lengths, target_lengths), strict=True))
    _on_the_cpu(given, "the predictions are")
    given = {name: tensor.long().contiguous() for name, tensor in given.items()}
    sizes = (*predictions.shape, targets.shape[1])
    counts = torch.empty(predictions.shape[0], 3, dtype=torch.int64)
    sequences = Sequences(*(tensor.data_ptr() for tensor in given.values()), *sizes)
    _call("edit_counts", ctypes.byref(sequences), counts.data_ptr())
    return counts


def _on_the_cpu(given: Mapping[str, Tensor | None], where: str) -> None:
    for name, tensor in given.items():
        if tensor is not None and tensor.device.type != "cpu":
            raise ValueError(f"{name}: got a tensor on {tensor.device}, expected the CPU, where {where}")


def _call(name: str, *arguments: Any) -> None:
    """Call a function of the library, on as many threads as torch has, and raise what it says went wrong."""
    function = getattr(_library(), f"exportable_losses_{name}")
    if error := function(*arguments, torch.get_num_threads()):
        raise (MemoryError if error.startswith(b"out of memory") else ValueError)(error.decode())
