"""Inputs of other sizes than an example's, of which a module takes as many as it can."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Sizes = Mapping[str, int]
Dims = Mapping[str, Sequence[str | int]]  # of each input: a letter, with what is added to it, or a number
Found = TypeVar("Found")


def sizes_of(dims: Dims, inputs: Mapping[str, Tensor]) -> dict[str, int]:
    """The size behind each letter."""
    sizes: dict[str, int] = {}
    for name, terms in dims.items():
        for term, size in zip(terms, inputs[name].shape, strict=True):
            if isinstance(term, str):
                letter, _, more = term.partition("+")
                sizes.setdefault(letter, size - int(more or 0))
    return sizes


def other_sizes(now: Sizes, tried: Callable[[Sizes], Found | None]) -> Iterator[Found]:
    """What `tried` finds where every size is larger, and where each is as small as may be.

    Where it finds nothing because some must agree, those move together that are equal now; and where that
    is no help one after the other moves, if it can.
    """
    if not now:
        return
    larger = {letter: n + 1 + i for i, (letter, n) in enumerate(now.items())}
    by_size = {n: n + 1 + i for i, n in enumerate(dict.fromkeys(now.values()))}
    together = {letter: by_size[n] for letter, n in now.items()}
    one = tried(larger) or tried(together) or _one_by_one(now, {x: (n,) for x, n in larger.items()}, tried)
    other = tried(dict.fromkeys(now, 1)) or _one_by_one(now, dict.fromkeys(now, (1, 2, 3)), tried)
    yield from (found for found in (one, other) if found is not None)


def _one_by_one(
    now: Sizes, goals: Mapping[str, Sequence[int]], tried: Callable[[Sizes], Found | None]
) -> Found | None:
    sizes, best = dict(now), None
    for letter, goal in goals.items():
        for size in goal:
            found = None if size == now[letter] else tried({**sizes, letter: size})
            if found is not None:
                sizes[letter], best = size, found
                break
    return best


def resized(inputs: Mapping[str, Tensor], dims: Dims, sizes: Sizes) -> dict[str, Tensor]:
    """`inputs` cut and repeated to other sizes.

    A copy of what is no whole number is a tenth smaller, so that nothing is equal that was not: the largest
    of two equal numbers is either. Padding stays behind what it pads.
    """
    found = {}
    whole_numbers = [x.max() for x in inputs.values() if not x.is_floating_point() and x.numel()]
    classes = (
        int(max(whole_numbers, default=0)) + 1
    )  # torch itself may read what an index outside of them finds
    for name, tensor in inputs.items():
        if tensor.is_floating_point() and tensor.dim() > 1 and isinstance(term := dims[name][-1], str):
            letter, _, more = term.partition("+")
            if sizes[letter] + int(more or 0) < min(classes, tensor.shape[-1]):
                raise ValueError(f"{name}: the integers go to {classes - 1}")
        whole = not tensor.is_floating_point() or torch.equal(tensor, tensor.round())
        for axis, term in enumerate(dims[name]):
            if isinstance(term, str):
                letter, _, more = term.partition("+")
                tensor = _along(tensor, axis, sizes[letter] + int(more or 0), whole)
        found[name] = tensor
    return found


def _along(tensor: Tensor, axis: int, size: int, whole: bool) -> Tensor:
    had = max(tensor.shape[axis], 1)
    places = torch.arange(size, device=tensor.device)
    if not tensor.shape[axis]:
        return tensor.new_zeros([size if i == axis else n for i, n in enumerate(tensor.shape)])
    taken = tensor.index_select(axis, places % had)
    if size <= had:
        return taken
    if not whole:
        shape = [size if i == axis else 1 for i in range(tensor.dim())]
        return taken * (0.9 ** (places // had)).to(tensor.dtype).reshape(shape)
    if axis < tensor.dim() - 1:
        return taken
    # what a row of labels or a mask ends with may be padding, and a length be how many numbers are none
    last, is_mask = tensor[..., -1:], (tensor <= 1).all()
    return torch.where((places >= had) & ((last <= 0) | is_mask), last, taken)
