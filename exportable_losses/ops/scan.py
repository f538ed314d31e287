"""A loop that `torch.export` keeps as one node, torch's ``scan``."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan_op

Steps = tuple[list[Tensor], list[Tensor]]


def scan(
    step: Callable[..., Sequence[Tensor]],
    carried: Sequence[Tensor],
    sequences: Sequence[Tensor],
    constants: Sequence[Tensor] = (),
    sizes: Sequence[int] = (),
) -> Steps:
    """Run `step` along the first dimension of `sequences`.

    `sizes` are those that the shapes of what is stacked are made of: Inductor makes room for it before the
    loop, and takes how much from numbers alone.

    Returns:
        What is carried behind the last step, and what else each step gave, stacked.
    """
    takes = len(carried) + len(sequences) + len(constants)

    def body(*arguments: Any) -> list[Tensor]:
        return list(step(*arguments[:takes]))

    open_sizes = (size for size in sizes if isinstance(size, torch.SymInt))
    done = scan_op(body, list(carried), list(sequences), (*constants, *open_sizes))
    return list(done[: len(carried)]), list(done[len(carried) :])
