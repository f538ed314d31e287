"""Lattices of arcs that the tests walk, and what every path of them gives."""

from typing import NamedTuple

import torch
from enumeration import arcs_by_enumeration
from torch import Tensor


class Shape(NamedTuple):
    blanks: tuple[int, ...]
    labels: tuple[int, ...]
    label_ends: bool


SHAPES = {
    "regular": Shape((1,), (0,), False),
    "modified": Shape((1,), (1,), True),
    "TDT": Shape((1, 2, 4), (0, 1, 2, 4), False),
    "TDT without zero": Shape((1, 2), (1, 2), False),
    "multi-blank": Shape((1, 2, 3), (0,), False),
    "long steps": Shape((2,), (3,), True),
    "longer than any item": Shape((1, 9), (0, 9), False),
}


def drawn(shape: Shape, frames: int, labels: int, batch: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Arcs with some that are impossible, NaN behind each item's lengths, and the lengths."""
    draw = torch.Generator().manual_seed(frames + labels)
    kinds = len(shape.blanks) + len(shape.labels)
    arcs = torch.randn(batch, frames, labels + 1, kinds, generator=draw, dtype=torch.float64) - 1
    arcs[torch.rand(arcs.shape, generator=draw) < 0.1] = -torch.inf
    t = torch.randint(1, frames + 1, (batch,), generator=draw)
    u = torch.randint(0, labels + 1, (batch,), generator=draw)
    t[0], u[0], u[1] = frames, labels, 0
    for item, (inside, below) in enumerate(zip(t.tolist(), u.tolist(), strict=True)):
        arcs[item, inside:] = torch.nan
        arcs[item, :, below + 1 :] = torch.nan
        arcs[item, :, below, len(shape.blanks) :] = torch.nan  # no label leaves there
    return arcs, t, u


def expected(shape: Shape, arcs: Tensor, t: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    costs, occupations = [], torch.zeros_like(arcs)
    for item, (frames, labels) in enumerate(zip(t.tolist(), u.tolist(), strict=True)):
        cost, taken = arcs_by_enumeration(arcs[item, :frames, : labels + 1], labels, *shape)
        occupations[item, :frames, : labels + 1] = taken
        costs.append(cost)
    return torch.stack(costs), occupations


SIZES = [(5, 3), (1, 2), (1, 0), (2, 4), (4, 1)]
