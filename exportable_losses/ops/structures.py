"""What csrc/c_api.h declares: the structures by which the library is given tensors, and its functions."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
# how many pointers a function takes before the number of threads: of every type, and of 32 and 64 bits alone
_OF_EVERY_TYPE = {"ctc": 4, "transducer": 4, "emissions": 5, "pick": 3, "ctc_forward": 3, "ctc_posterior": 3}
_OF_REALS = {"arcs": 4, "arcs_align": 4, "transducer_forward": 3}
_FIELDS = ("batch", "frames", "classes", "labels", "item_stride", "frame_stride")
SEQUENCES = ("predictions", "targets", "prediction_lengths", "target_lengths")


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
        *((name, ctypes.c_void_p) for name in SEQUENCES),
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
        return cls(len(blanks) + len(labels), len(blanks), integers([*blanks, *labels]), label_ends)


class Arcs(ctypes.Structure):
    """`exportable_losses_arcs` of csrc/c_api.h."""

    _fields_ = (
        ("arcs", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch", "frames", "labels")),
        ("input_lengths", ctypes.c_void_p),
        ("target_lengths", ctypes.c_void_p),
        ("shape", ArcShape),
    )

    @classmethod
    def of(cls, arcs: Tensor, input_lengths: Tensor, target_lengths: Tensor, shape: ArcShape) -> "Arcs":
        """The lattices of these tensors, all contiguous, lengths int64."""
        batch, frames, nodes = arcs.shape[:3]
        lengths = input_lengths.data_ptr(), target_lengths.data_ptr()
        return cls(arcs.data_ptr(), batch, frames, nodes - 1, *lengths, shape)


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

    @classmethod
    def of(cls, logits: Tensor, classes: Tensor) -> "Picks":
        """The picks of rows that are in one piece each; `classes` are int64 and contiguous."""
        of_rows = logits.data_ptr(), *logits.shape, logits.stride(0)
        return cls(*of_rows, classes.data_ptr(), classes.shape[1])


def integers(numbers: Sequence[int]) -> "ctypes.Array[ctypes.c_int64]":
    """An array of them."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def declare(library: ctypes.CDLL) -> None:
    """Say what each function of the library takes and gives.

    Raises:
        AttributeError: it does not have one.
    """
    kinds = list(TYPES.values())
    pointers = {f"{name}_{kind}": n for name, n in _OF_EVERY_TYPE.items() for kind in kinds}
    pointers |= {f"{name}_{kind}": n for name, n in _OF_REALS.items() for kind in ("float", "double")}
    taken: dict[str, list[Any]] = {
        name: [ctypes.c_void_p] * n for name, n in {**pointers, "edit_counts": 2}.items()
    }
    free_ends = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    taken |= {f"ctc_align_{kind}": free_ends for kind in kinds}
    for name, arguments in taken.items():
        function = getattr(library, f"exportable_losses_{name}")
        function.restype = ctypes.c_char_p
        function.argtypes = [*arguments, ctypes.c_int]
    library.exportable_losses_huge_pages.restype = None
    library.exportable_losses_huge_pages.argtypes = [ctypes.c_void_p, ctypes.c_int64]
