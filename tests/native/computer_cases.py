"""Lattices, ordinary and hard, and what every computer is held to: plain torch in float64."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from exportable_losses.library import library_path
from exportable_losses.ops import native, plain
from exportable_losses.ops.scores import computed

SETS = ("baseline", "avx2", "avx512")


@contextlib.contextmanager
def native_on(isa: str, folder: Path) -> Iterator[None]:
    """The native library on this instruction set; skips where the library or the machine has none such."""
    path = library_path()
    if path is None:
        pytest.skip("native: the package was installed without it")
    # the library looks at the variable once: each instruction set has a copy of its own
    copy = shutil.copy(path, folder / Path(path).name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPORTABLE_LOSSES_LIBRARY", str(copy))
        patch.setenv("EXPORTABLE_LOSSES_ISA", isa)
        native._library.cache_clear()
        try:
            runs_on = native.about()["instruction set"]
            if runs_on != isa and (isa, runs_on) != ("baseline", "neon"):
                pytest.skip(f"native: no {isa} on this machine")
            yield
        finally:
            native._library.cache_clear()


class Lattice(NamedTuple):
    """What a computer is called with; scores in float64."""

    scores: Tensor
    targets: Tensor
    input_lengths: Tensor
    target_lengths: Tensor
    blank: int
    grad_costs: Tensor

    @property
    def loss(self) -> str:
        return "ctc" if self.scores.dim() == 3 else "transducer"


def lattice(
    loss: str,
    sizes: tuple[int, int, int, int] = (4, 7, 5, 3),
    seed: int = 0,
    blank: int = 0,
    scale: float = 1.0,
) -> Lattice:
    """Random numbers of sizes (B, T, classes, labels); the first item is as long as can be."""
    batch, frames, classes, labels = sizes
    draw = torch.Generator().manual_seed(seed)
    shape = (batch, frames, classes) if loss == "ctc" else (batch, frames, labels + 1, classes)
    scores = scale * torch.randn(shape, generator=draw, dtype=torch.float64)
    targets = torch.randint(0, classes - 1, (batch, labels), generator=draw)
    input_lengths = torch.randint(1, frames + 1, (batch,), generator=draw)
    target_lengths = torch.randint(0, labels + 1, (batch,), generator=draw)
    input_lengths[:1], target_lengths[:1] = frames, labels
    return Lattice(
        scores.log_softmax(-1) if loss == "ctc" else scores,
        targets + (targets >= blank),
        input_lengths,
        target_lengths,
        blank,
        torch.linspace(-1, 2, batch, dtype=torch.float64),
    )


def no_labels(loss: str) -> Lattice:
    return lattice(loss)._replace(target_lengths=torch.zeros(4, dtype=torch.int64))


def no_room_for_labels(loss: str) -> Lattice:
    return lattice(loss, (3, 5, 4, 0))


def no_items(loss: str) -> Lattice:
    return lattice(loss, (0, 5, 4, 2))


def one_frame(loss: str) -> Lattice:
    return lattice(loss, (3, 1, 4, 1))


def no_frame(loss: str) -> Lattice:
    given = lattice(loss)
    given.input_lengths[:2] = 0
    given.target_lengths[1] = 0
    return given


def repeated_labels(loss: str) -> Lattice:
    given = lattice(loss)
    given.targets[:] = 1
    return given


def no_alignment(loss: str) -> Lattice:
    """More labels than frames (CTC), or a label that never is (the transducer)."""
    given = lattice(loss)
    given.input_lengths[0], given.targets[0] = 2, 1
    if loss == "transducer":
        given.scores[0, ..., 1] = -torch.inf
    return given


def some_minus_infinity(loss: str) -> Lattice:
    given = lattice(loss)
    gone = torch.rand(given.scores.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    given.scores[gone & (given.scores < given.scores.amax(-1, keepdim=True))] = -torch.inf
    return given


def huge(loss: str) -> Lattice:
    return lattice(loss, scale=1e4)


def last_blank(loss: str) -> Lattice:
    return lattice(loss, blank=4)


def middle_blank(loss: str) -> Lattice:
    return lattice(loss, blank=2)


def long(loss: str) -> Lattice:
    return lattice(loss, (2, 300, 4, 70) if loss == "ctc" else (2, 60, 4, 40))


def many_classes(loss: str) -> Lattice:
    """More than are widened at once, and no whole number of any vector."""
    return lattice(loss, (2, 7, 1063, 3))


HARD: list[Callable[[str], Lattice]] = [
    *(lattice, no_labels, no_room_for_labels, no_items, one_frame, no_frame, repeated_labels, no_alignment),
    *(some_minus_infinity, huge, last_blank, middle_blank, long, many_classes),
]


def compute(computer: Any, given: Lattice, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Costs and the gradient in float64 on the CPU; the costs alone are the same."""
    scores, *integers = (x.to(device) for x in given[:4])
    scores, weights = scores.to(dtype), given.grad_costs.to(device, computed(dtype))
    before = scores.clone()
    alone, nothing = getattr(computer, given.loss)(scores, *integers, given.blank, None)
    costs, grad = getattr(computer, given.loss)(scores, *integers, given.blank, weights)
    assert nothing is None
    assert costs.dtype == computed(dtype)
    assert grad.dtype == dtype
    assert grad.shape == scores.shape
    torch.testing.assert_close(alone, costs, rtol=1e-6, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(scores, before, rtol=0, atol=0, equal_nan=True)
    return costs.cpu().double(), grad.cpu().double()


def tight(dtype: torch.dtype, *, grad: bool = False) -> dict[str, float]:
    """How close costs in scores of this type must come, or their gradient.

    That of 16 bits is float32's, rounded once: by half of the last place at most, but where it is subnormal.
    """
    if dtype == torch.float64:
        return {"rtol": 1e-9, "atol": 1e-11}
    half = grad and dtype != torch.float32
    return {"rtol": 1e-5 + half * torch.finfo(dtype).eps / 2, "atol": 1e-5}


def check(computer: Any, given: Lattice, dtype: torch.dtype, device: str = "cpu") -> None:
    """Hold a computer to plain torch, which gets the same numbers in float64.

    A logarithm has as many digits less as the cost has before the point, and so has the gradient.
    """
    scores = given.scores.to(dtype).double()
    costs, grad = getattr(plain, given.loss)(
        scores, *given[1:4], given.blank, given.grad_costs.to(computed(dtype)).double()
    )
    largest = costs[costs.isfinite()].abs().amax().item() if costs.isfinite().any() else 0.0
    more = 8 * torch.finfo(computed(dtype)).eps * largest
    ours, ours_grad = compute(computer, given, dtype, device)
    for got, want, close in (
        (ours, costs, tight(dtype)),
        (ours_grad, grad, tight(dtype, grad=True)),
    ):
        torch.testing.assert_close(got, want, rtol=close["rtol"], atol=close["atol"] + more, equal_nan=True)


def behind(given: Lattice) -> Tensor:
    """Whether each of the scores lies behind its item's frames, or labels."""
    frame = torch.arange(given.scores.shape[1]) >= given.input_lengths[:, None]
    if given.loss == "ctc":
        return frame[..., None].expand(given.scores.shape)
    label = torch.arange(given.scores.shape[2]) > given.target_lengths[:, None]
    return (frame[:, :, None] | label[:, None])[..., None].expand(given.scores.shape)
