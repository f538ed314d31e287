"""Batches that are longer than their items, and garbage behind those."""

import torch
from torch import Tensor

from exportable_losses.catalog import Entry

Inputs = dict[str, Tensor]

# The letters of the dimensions that each input of lengths is about.
PADDED = {
    "length": ("T", "N", "L"),
    "input_lens": ("T",),
    "target_lens": ("S", "U"),
    "prediction_lens": ("K",),
    "rel_lab_lengths": ("T",),
}
GARBAGE = (torch.nan, torch.inf, -torch.inf, 1e38, -100.0, 0.0)  # of integers it is always -100


def letters_of(entry: Entry) -> dict[str, list[str]]:
    return entry.contract.letters({name: value.dim() for name, value in entry.example_inputs().items()})


def axis_of(entry: Entry, name: str, letters: tuple[str, ...]) -> int | None:
    """Where a dimension of one of those letters stands in an input."""
    terms = [letter.partition("+")[0] for letter in letters_of(entry)[name]]
    return next((axis for axis, letter in enumerate(terms) if letter in letters), None)


def pad(
    entry: Entry, inputs: Inputs, lengths: str, more: int, frames: Tensor, garbage: float = torch.nan
) -> Inputs:
    """The same items in a batch that is `more` frames longer, with garbage behind each item."""
    longer = dict(inputs)
    for value in entry.inputs:
        axis = axis_of(entry, value.name, PADDED[lengths])
        if axis is None:
            continue
        x = inputs[value.name].movedim((0, axis), (0, 1))
        x = torch.cat([x, x.new_zeros(x.shape[0], more, *x.shape[2:])], 1)
        extra = "+1" in letters_of(entry)[value.name][axis]
        for item, n in zip(x, frames.tolist(), strict=True):
            item[n + extra :] = garbage if x.is_floating_point() else -100
        longer[value.name] = x.movedim((0, 1), (0, axis))
    return longer
