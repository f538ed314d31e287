"""Batches that are longer than their items, and garbage behind those."""

import torch
from torch import Tensor

from exportable_losses import catalog
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
ROWS = [
    (row, value.name)
    for row in catalog.names()
    for value in catalog.get(row).inputs
    if value.is_length and row != "LogSoftmaxWrapper"  # which takes a length and does not read it
]
# What lies behind the counted rows of a Laplacian is in the image rows before: see the docstring.
READ = [(row, name) for row, name in ROWS if row != "LaplacianVarianceLoss"]
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


def sized(row: str, frames: int = 6) -> Inputs:
    """An example whose lengths all count the same size, three items."""
    entry = catalog.get(row)
    letters = {t.rstrip("?").partition("+")[0] for value in entry.inputs for t in value.dims.split()}
    sizes = dict.fromkeys(letters & {"T", "N", "L", "S", "U", "K"}, frames)
    if letters & {"S", "U"} and "T" in letters:
        sizes["T"] = 2 * frames + 1
    return entry.example_inputs(**sizes | ({"X0": 3, "Z": 3} if "Z" in letters else {}))


def size_of(row: str, name: str, inputs: Inputs) -> int:
    if row == "LaplacianVarianceLoss":  # counts the rows that the Laplacian leaves
        return inputs["predictions"].shape[1]  # of len_dim 1: the channels
    return next(
        inputs[value.name].shape[1]
        for value in catalog.get(row).inputs
        if value.dims.split()[1:2] and value.dims.split()[1].rstrip("?") in PADDED[name]
    )
