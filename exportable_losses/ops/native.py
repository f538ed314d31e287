"""The native library as a computer: its plain C door, called on data pointers."""

import ctypes
import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..library import about as about_library
from ..library import library_path, load
from .scores import computed

_FIELDS = ("batch", "frames", "classes", "labels", "item_stride", "frame_stride")
_SEQUENCES = ("predictions", "targets", "prediction_lengths", "target_lengths")
TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


class Batch(ctypes.Structure):
    """`exportable_losses_batch` of csrc/c_api.h."""

    _fields_ = (
        ("scores", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in _FIELDS),
        ("targets", ctypes.c_void_p),
        ("target_stride", ctypes.c_int64),
        ("input_lengths", ctypes.c_void_p),
        ("target_lengths", ctypes.c_void_p),
        ("blank", ctypes.c_int64),
    )

    @classmethod
    def of(
        cls, scores: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank_index: int
    ) -> "Batch":
        """The batch of these tensors: `scores` as `in_rows` gives them, the others int64 and contiguous."""
        return cls(
            scores.data_ptr(),
            *(scores.shape[0], scores.shape[1], scores.shape[-1], targets.shape[1]),
            *(scores.stride(0), scores.stride(1)),
            targets.data_ptr(),
            targets.stride(0),
            input_lengths.data_ptr(),
            target_lengths.data_ptr(),
            blank_index,
        )


class Sequences(ctypes.Structure):
    """`exportable_losses_sequences` of csrc/c_api.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _SEQUENCES),
        *((name, ctypes.c_int64) for name in ("batch", "prediction_width", "target_width")),
    )


class ArcShape(ctypes.Structure):
    """`exportable_losses_arc_shape` of csrc/c_api.h."""

    _fields_ = (
        ("kinds", ctypes.c_int64),
        ("blanks", ctypes.c_int64),
        ("duration", ctypes.POINTER(ctypes.c_int64)),
        ("label_ends", ctypes.c_int64),
    )

    @classmethod
    def of(cls, blanks: Sequence[int], labels: Sequence[int], label_ends: bool) -> "ArcShape":
        """Arcs of these durations."""
        return cls(len(blanks) + len(labels), len(blanks), _integers([*blanks, *labels]), label_ends)


class Arcs(ctypes.Structure):
    """`exportable_losses_arcs` of csrc/c_api.h."""

    _fields_ = (
        ("arcs", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch", "frames", "labels")),
        ("input_lengths", ctypes.c_void_p),
        ("target_lengths", ctypes.c_void_p),
        ("shape", ArcShape),
    )


class Emissions(ctypes.Structure):
    """`exportable_losses_emissions` of csrc/c_api.h."""

    _fields_ = (
        ("shape", ArcShape),
        ("durations", ctypes.c_int64),
        ("token", ctypes.POINTER(ctypes.c_int64)),
        ("logit", ctypes.POINTER(ctypes.c_int64)),
        *((name, ctypes.c_int64) for name in ("hybrid", "constrained")),
        *((name, ctypes.c_double) for name in ("sigma", "fastemit_lambda", "delay_penalty")),
    )


class Picks(ctypes.Structure):
    """`exportable_losses_picks` of csrc/c_api.h."""

    _fields_ = (
        ("scores", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("rows", "classes", "row_stride")),
        ("picked", ctypes.c_void_p),
        ("kinds", ctypes.c_int64),
    )


def _integers(numbers: Sequence[int]) -> "ctypes.Array[ctypes.c_int64]":
    return (ctypes.c_int64 * len(numbers))(*numbers)


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
        _declare(library)
    except AttributeError as error:
        raise RuntimeError(f"{path}: another build of this version, it lacks functions: {error}") from error
    return library


def _declare(library: ctypes.CDLL) -> None:
    """Say what each function of the library takes and gives.

    Raises:
        AttributeError: it does not have one.
    """
    for loss in ("ctc", "transducer"):
        for kind in TYPES.values():
            function = getattr(library, f"exportable_losses_{loss}_{kind}")
            function.restype = ctypes.c_char_p
            function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int]
    for name in (*(f"emissions_{kind}" for kind in TYPES.values()), "arcs_float", "arcs_double"):
        function = getattr(library, f"exportable_losses_{name}")
        function.restype = ctypes.c_char_p
        function.argtypes = [ctypes.c_void_p] * (4 if name.startswith("arcs") else 5) + [ctypes.c_int]
    for kind in TYPES.values():
        function = getattr(library, f"exportable_losses_pick_{kind}")
        function.restype = ctypes.c_char_p
        function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int]
        function = getattr(library, f"exportable_losses_ctc_forward_{kind}")
        function.restype = ctypes.c_char_p
        function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int]
    library.exportable_losses_edit_counts.restype = ctypes.c_char_p
    library.exportable_losses_edit_counts.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int]
    library.exportable_losses_huge_pages.restype = None
    library.exportable_losses_huge_pages.argtypes = [ctypes.c_void_p, ctypes.c_int64]


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
    """Contiguous memory for a gradient, in huge pages where it is large."""
    grad = torch.empty(scores.shape, dtype=scores.dtype)
    library = _library()
    assert library is not None
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
    given = {
        "targets": targets,
        "input_lengths": input_lengths,
        "target_lengths": target_lengths,
        "grad_costs": grad_costs,
    }
    _on_the_cpu(given, "the scores are")
    scores = in_rows(scores)
    targets = targets.long().contiguous()
    input_lengths, target_lengths = input_lengths.long().contiguous(), target_lengths.long().contiguous()
    if grad_costs is not None:
        grad_costs = grad_costs.to(costs.dtype).contiguous()
    error = getattr(_library(), f"exportable_losses_{loss}_{TYPES[scores.dtype]}")(
        ctypes.byref(Batch.of(scores, targets, input_lengths, target_lengths, blank_index)),
        *(pointer(grad_costs), pointer(costs), pointer(grad)),
        torch.get_num_threads(),
    )
    _raise(error)


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
    batch, frames, nodes = arcs.shape[:3]
    shape = ArcShape.of(blank_durations, label_durations, label_ends)
    error = getattr(_library(), f"exportable_losses_arcs_{TYPES[arcs.dtype]}")(
        ctypes.byref(Arcs(arcs.data_ptr(), batch, frames, nodes - 1, *map(pointer, lengths), shape)),
        *(pointer(grad_costs), pointer(costs), pointer(grad)),
        torch.get_num_threads(),
    )
    _raise(error)
    return costs, grad


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
    lattice = {"targets": targets, "input_lengths": input_lengths, "target_lengths": target_lengths}
    _on_the_cpu({**lattice, "grad_costs": grad_costs}, "the logits are")
    logits = in_rows(logits)
    targets, input_lengths, target_lengths = (tensor.long().contiguous() for tensor in lattice.values())
    costs, grad = _room(logits, grad_costs)
    if grad_costs is not None:
        grad_costs = grad_costs.to(costs.dtype).contiguous()
    shape = ArcShape.of(blank_durations, label_durations, label_ends)
    numbers = (hybrid, constrained, sigma, fastemit_lambda, delay_penalty)
    error = getattr(_library(), f"exportable_losses_emissions_{TYPES[logits.dtype]}")(
        ctypes.byref(Batch.of(logits, targets, input_lengths, target_lengths, 0)),
        ctypes.byref(Emissions(shape, durations, _integers(token), _integers(logit), *numbers)),
        *(pointer(grad_costs), pointer(costs), pointer(grad)),
        torch.get_num_threads(),
    )
    _raise(error)
    return costs, grad


def picked(logits: Tensor, classes: Tensor, grad: Tensor | None = None) -> Tensor:
    """`picked.picked`, or with `grad` `picked.picked_grad`.

    Raises:
        ValueError: a class is outside of what it may be, or a tensor is not on the CPU.
        MemoryError: there is none left.
    """
    _on_the_cpu({"classes": classes, "grad": grad}, "the logits are")
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    classes = classes.long().contiguous()
    if grad is None:
        out = logits.new_empty(classes.shape, dtype=computed(logits.dtype))
    else:
        out, grad = _empty_like(logits), grad.to(computed(logits.dtype)).contiguous()
    picks = Picks(logits.data_ptr(), *logits.shape, logits.stride(0), classes.data_ptr(), classes.shape[1])
    error = getattr(_library(), f"exportable_losses_pick_{TYPES[logits.dtype]}")(
        ctypes.byref(picks), pointer(grad), pointer(out), torch.get_num_threads()
    )
    _raise(error)
    return out


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
    names = ("targets", "input_lengths", "target_lengths", "alpha", "offset")
    given = dict(zip(names, (targets, input_lengths, target_lengths, alpha, offset), strict=True))
    _on_the_cpu(given, "the scores are")
    log_probs = in_rows(log_probs)
    targets = targets.long().contiguous()
    input_lengths, target_lengths = input_lengths.long().contiguous(), target_lengths.long().contiguous()
    costs = log_probs.new_empty(log_probs.shape[0], dtype=computed(log_probs.dtype))
    state = [tensor.to(costs.dtype).contiguous() for tensor in (alpha, offset)]
    found = [torch.empty_like(tensor) for tensor in state]
    walk = (ctypes.c_void_p * 4)(*(tensor.data_ptr() for tensor in (*state, *found)))
    error = getattr(_library(), f"exportable_losses_ctc_forward_{TYPES[log_probs.dtype]}")(
        ctypes.byref(Batch.of(log_probs, targets, input_lengths, target_lengths, blank_index)),
        walk,
        costs.data_ptr(),
        torch.get_num_threads(),
    )
    _raise(error)
    return costs, found[0], found[1]


def edit_counts(
    predictions: Tensor, targets: Tensor, prediction_lengths: Tensor, target_lengths: Tensor
) -> Tensor:
    """Insertions, deletions and substitutions, int64 `[B, 3]`, as `edits.edit_counts` has them.

    Raises:
        ValueError: a length is outside of what it may be, or a tensor is not on the CPU.
        MemoryError: there is none left.
    """
    given = dict(zip(_SEQUENCES, (predictions, targets, prediction_lengths, target_lengths), strict=True))
    _on_the_cpu(given, "the predictions are")
    given = {name: tensor.long().contiguous() for name, tensor in given.items()}
    sizes = (*predictions.shape, targets.shape[1])
    counts = torch.empty(predictions.shape[0], 3, dtype=torch.int64)
    sequences = Sequences(*(tensor.data_ptr() for tensor in given.values()), *sizes)
    library = _library()
    assert library is not None
    _raise(
        library.exportable_losses_edit_counts(
            ctypes.byref(sequences), counts.data_ptr(), torch.get_num_threads()
        )
    )
    return counts


def _on_the_cpu(given: Mapping[str, Tensor | None], where: str) -> None:
    for name, tensor in given.items():
        if tensor is not None and tensor.device.type != "cpu":
            raise ValueError(f"{name}: got a tensor on {tensor.device}, expected the CPU, where {where}")


def _raise(error: bytes | None) -> None:
    """What a C door said went wrong, if anything."""
    if error:
        raise (MemoryError if error.startswith(b"out of memory") else ValueError)(error.decode())
