"""Who computes the lattices and the edits.

A computer is a module with `ctc` and `transducer` (scores, targets, absolute lengths, the blank and
the gradient of the costs in; costs and, where that gradient was given, the gradient of the scores
out) and `unavailable`, which says why it cannot compute given scores. The first that can is taken.
`using` and the environment variable `EXPORTABLE_LOSSES_COMPUTER` name one instead.

==============  ====================================================================
``native``      the C++ library, on a CPU
``cuda``        the CUDA library
``torchaudio``  its transducer, on either; never taken unless it is named
``numba``       Numba kernels on a CPU, and on a CUDA device with numba-cuda
``torch``       plain torch, everywhere
==============  ====================================================================

Lattices of given arcs are computed by all but ``torchaudio``; the edits between sequences, and
CTC of frames in pieces, by ``native`` or ``torch`` alone, and a few classes of a softmax by ``cuda`` too
(`only_native_of`).
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import cuda, native, numba, plain, torchaudio

COMPUTERS: dict[str, ModuleType] = {
    "native": native,
    "cuda": cuda,
    "torchaudio": torchaudio,
    "numba": numba,
    "torch": plain,
}
ONLY_NAMED = {"torchaudio"}

_VARIABLE = "EXPORTABLE_LOSSES_COMPUTER"
_chosen: list[str] = []


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Choose the computer of the lattices within a `with` block.

    Args:
        name: ``native``, ``cuda``, ``torchaudio``, ``numba`` or ``torch``.

    Raises:
        ValueError: there is no such computer.

    Examples:
        >>> import torch, exportable_losses as el
        >>> with using("torch"):
        ...     loss = el.CTCLoss()(torch.zeros(1, 2, 3), torch.tensor([[1]]), torch.ones(1), torch.ones(1))
    """
    _chosen.append(_known(name))
    try:
        yield
    finally:
        _chosen.pop()


def computer_of(scores: Tensor, what: str = "ctc") -> ModuleType:
    """The computer of `what` of these scores; plain torch where one is named that does not know it.

    Raises:
        RuntimeError: one was named, and it cannot compute them.
    """
    name = named()
    if name:
        why = COMPUTERS[_known(name)].unavailable(scores)
        if why:
            raise RuntimeError(f"the computer {name!r} was asked for: {why}")
        return COMPUTERS[name] if hasattr(COMPUTERS[name], what) else plain
    candidates = (c for name, c in COMPUTERS.items() if name not in ONLY_NAMED and hasattr(c, what))
    return next(computer for computer in candidates if not computer.unavailable(scores))


def only_native_of(given: Tensor, what: str = "") -> ModuleType:
    """The computer of what the native library alone knows, where it can, and else plain torch.

    On a CUDA device it is the CUDA library, of `what` that knows too. Where another computer is named, plain
    torch computes. Tokens are of any dtype, scores of those that the library knows.

    Raises:
        RuntimeError: a library was named, and it cannot compute them.
    """
    libraries: list[ModuleType] = [native, *([cuda] if hasattr(cuda, what) else [])]
    name = named() or ("cuda" if given.device.type == "cuda" and cuda in libraries else "native")
    library = COMPUTERS[_known(name)]
    if library not in libraries:
        return plain
    why = library.unavailable(given) if given.is_floating_point() else native.unavailable_on(given.device)
    if why and named():
        raise RuntimeError(f"the computer {name!r} was asked for: {why}")
    return plain if why else library


def named() -> str | None:
    """The computer that `using` or the environment names, if either does."""
    return _chosen[-1] if _chosen else os.environ.get(_VARIABLE) or None


def overview() -> dict[str, Any]:
    """Which computers there are, why any cannot compute, and which one does, by device.

    ``available`` says of each computer and device why not, and nothing where it can; ``in use`` names
    the computer of each loss and of the edits, or says why there is none.
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    dimensions = {"ctc": 3, "transducer": 4}
    scores = {
        device: {loss: torch.empty([1] * n, device=device) for loss, n in dimensions.items()}
        for device in devices
    }
    return {
        "named": named(),
        "only named": sorted(ONLY_NAMED),
        "available": {
            name: {device: _why_not(computer, scores[device]["transducer"]) for device in devices}
            for name, computer in COMPUTERS.items()
        },
        "in use": {
            device: {
                **{loss: _in_use(computer_of, each) for loss, each in scores[device].items()},
                "edits": _in_use(only_native_of, scores[device]["ctc"]),
            }
            for device in devices
        },
    }


def _why_not(computer: ModuleType, scores: Tensor) -> str:
    try:
        return str(computer.unavailable(scores))
    except OSError as error:  # a library that is named and does not load
        return str(error)


def _in_use(choose: Callable[[Tensor], ModuleType], tensor: Tensor) -> str:
    try:
        computer = choose(tensor)
    except (OSError, RuntimeError, ValueError) as error:
        return f"none: {error}"
    return next(name for name, each in COMPUTERS.items() if each is computer)


def _known(name: str) -> str:
    if name not in COMPUTERS:
        raise ValueError(f"computer: got {name!r}, expected one of {', '.join(COMPUTERS)}")
    return name
