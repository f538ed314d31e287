"""Who computes the lattices.

A computer is a module with `ctc` and `transducer` (scores, targets, absolute lengths, the blank and
the gradient of the costs in; costs and, where that gradient was given, the gradient of the scores
out) and `unavailable`, which says why it cannot compute given scores. The first that can is taken.
`using` and the environment variable `EXPORTABLE_LOSSES_COMPUTER` name one instead.
"""

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType

from torch import Tensor

from . import cuda, native, plain

COMPUTERS: dict[str, ModuleType] = {"native": native, "cuda": cuda, "torch": plain}

_chosen: list[str] = []


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Have `name` compute the lattices inside a `with` block.

    Raises:
        ValueError: there is no such computer.

    Example:
        >>> import torch, exportable_losses as el
        >>> with using("torch"):
        ...     loss = el.CTCLoss()(torch.zeros(1, 2, 3), torch.tensor([[1]]), torch.ones(1), torch.ones(1))
    """
    _chosen.append(_known(name))
    try:
        yield
    finally:
        _chosen.pop()


def computer_of(scores: Tensor) -> ModuleType:
    """The computer of these scores.

    Raises:
        RuntimeError: one was named, and it cannot compute them.
    """
    name = _chosen[-1] if _chosen else os.environ.get("EXPORTABLE_LOSSES_COMPUTER")
    if name:
        why = COMPUTERS[_known(name)].unavailable(scores)
        if why:
            raise RuntimeError(f"the computer {name!r} was asked for: {why}")
        return COMPUTERS[name]
    return next(computer for computer in COMPUTERS.values() if not computer.unavailable(scores))


def _known(name: str) -> str:
    if name not in COMPUTERS:
        raise ValueError(f"computer: got {name!r}, expected one of {', '.join(COMPUTERS)}")
    return name
