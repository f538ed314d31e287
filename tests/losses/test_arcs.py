"""The lattice of arcs, by every computer and as a script, against every path there is."""

import contextlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from arc_shapes import SHAPES, SIZES, Shape, drawn, expected
from computer_cases import SETS, native_on
from enumeration import best_arcs
from torch import Tensor

from exportable_losses import ops
from exportable_losses.ops import arc_scans, native, numba, plain, using
from exportable_losses.ops import arcs as lattice

OURS = torch.ops.exportable_losses

DTYPES = {torch.float64: 1e-12, torch.float32: 2e-5}


class Scans:
    """The programs that torch.export keeps, as a computer."""

    @staticmethod
    def arcs(*given: Any) -> tuple[Tensor, Tensor | None]:
        if given[-1] is None:
            return arc_scans.arcs_costs(*given[:-1]), None
        return arc_scans.arcs_costs_and_grad(*given)


COMPUTERS = {"torch": plain, "numba": numba, "scan": Scans}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("computer", [*COMPUTERS, *SETS])
def test_every_path(computer: str, name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    shape = SHAPES[name]
    why = numba.unavailable(torch.zeros(1)) if computer == "numba" else ""
    if why:
        pytest.skip(f"numba: {why}")
    with native_on(computer, tmp_path) if computer in SETS else contextlib.nullcontext():
        for frames, labels in SIZES:
            every_path(COMPUTERS.get(computer, native), shape, frames, labels, dtype)


def every_path(computer: Any, shape: Shape, frames: int, labels: int, dtype: torch.dtype) -> None:
    arcs, t, u = drawn(shape, frames, labels)
    costs, occupations = expected(shape, arcs, t, u)
    weights = torch.linspace(0.5, 2, len(costs), dtype=torch.float64)
    given = (arcs.to(dtype), t, u, list(shape.blanks), list(shape.labels), shape.label_ends)
    alone, none = computer.arcs(*given, None)
    found, grad = computer.arcs(*given, weights.to(dtype))
    close = {"rtol": DTYPES[dtype], "atol": DTYPES[dtype]}
    assert none is None
    torch.testing.assert_close(alone.double(), costs, **close)
    torch.testing.assert_close(found.double(), costs, **close)
    torch.testing.assert_close(grad.double(), -occupations * weights[:, None, None, None], **close)


@pytest.mark.parametrize("name", SHAPES)
def test_scripts_and_their_gradients(name: str) -> None:
    shape = SHAPES[name]
    scripted = torch.jit.script(lattice.arcs_costs)
    for frames, labels in SIZES:
        arcs, t, u = drawn(shape, frames, labels)
        costs, occupations = expected(shape, arcs, t, u)
        leaf = arcs.clone().requires_grad_()
        found = scripted(leaf, t, u, list(shape.blanks), list(shape.labels), shape.label_ends)
        torch.testing.assert_close(found, costs, rtol=1e-12, atol=1e-12)
        (grad,) = torch.autograd.grad(found[costs.isfinite()].sum(), leaf)
        torch.testing.assert_close(grad, -occupations, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ties", [False, True], ids=["no ties", "ties"])
@pytest.mark.parametrize("name", SHAPES)
def test_best_paths(name: str, ties: bool) -> None:
    """The best of all paths, and where several are, the one that is said."""
    shape = SHAPES[name]
    ways = [lattice.arcs_align, torch.jit.script(lattice.arcs_align), arc_scans.arcs_align]
    for frames, labels in SIZES:
        arcs, t, u = drawn(shape, frames, labels)
        arcs = arcs.round() if ties else arcs
        found = [way(arcs, t, u, list(shape.blanks), list(shape.labels), shape.label_ends) for way in ways]
        for item, (inside, below) in enumerate(zip(t.tolist(), u.tolist(), strict=True)):
            score, path = best_arcs(arcs[item, :inside, : below + 1], below, *shape)
            for starts, kinds, scores in found:
                assert scores[item].item() == pytest.approx(score, abs=1e-12)
                emitted = list(zip(starts[item].tolist(), range(labels), kinds[item].tolist(), strict=True))
                nothing = [(0, j, 0) for j in range(len(path), labels)]
                assert emitted == path + nothing


def test_digits_stay_over_thousands_of_frames() -> None:
    """In float32 the recursion loses none with length: its gradient is that of float64."""
    arcs = torch.randn(1, 6000, 4, 2, generator=torch.Generator().manual_seed(0)) - 1.5
    t, u = torch.tensor([6000]), torch.tensor([3])
    given, one = (t, u, [1], [0], False), torch.ones(1)
    for computer in (plain, native):
        if computer is native and native.unavailable(arcs):
            continue
        _, grad = computer.arcs(arcs, *given, one)
        _, wanted = plain.arcs(arcs.double(), *given, one.double())
        torch.testing.assert_close(grad.double(), wanted, rtol=0, atol=2e-5)


def test_the_operator_refuses_what_does_not_fit() -> None:
    arcs, lengths = torch.zeros(2, 3, 2, 2), torch.tensor([3, 2])
    operator = torch.ops.exportable_losses.arcs_loss
    for wrong, message in (
        (
            (arcs[..., :1], lengths, lengths - 2, [1], [0], False),
            r"arcs: got shape .*, expected \[B, T, U\+1, 2\]",
        ),
        (
            (arcs, lengths[:1], lengths - 2, [1], [0], False),
            r"input_lengths: got shape \[1\], expected \[2\]",
        ),
        ((arcs.half(), lengths, lengths - 2, [1], [0], False), r"arcs: got torch.float16"),
    ):
        with pytest.raises(ValueError, match=message):
            operator(*wrong)
    if not native.unavailable(arcs):
        for durations, message in (
            ([0], r"duration: got 0 for arc 0, expected a number in \[1,"),
            ([-1], r"duration: got -1"),
        ):
            with pytest.raises(ValueError, match=message):
                native.arcs(arcs, lengths, lengths - 2, durations, [0], False, None)
        with pytest.raises(ValueError, match=r"input_lengths: got 4 for item 0"):
            native.arcs(arcs, lengths + 1, lengths - 2, [1], [0], False, None)


def test_a_joint_where_its_product_underflows() -> None:
    """am and lm are near their tops at classes that the other thinks impossible."""
    am = torch.tensor([[[0.0, -300.0, -250.0], [1.0, 0.5, 0.0]]]).requires_grad_()
    lm = torch.tensor([[[-280.0, 0.0, -290.0], [0.0, 1.0, 2.0], [-1e4, -1e4, 0.0]]]).requires_grad_()
    labels = torch.tensor([[2, 1, 0]])
    lengths = torch.tensor([2]), torch.tensor([2])
    logits = am.double().unsqueeze(2) + lm.double().unsqueeze(1)
    norm = logits.logsumexp(3)
    at = labels.unsqueeze(1).unsqueeze(3).expand(-1, 2, -1, -1)
    whole = torch.stack([logits[..., 0] - norm, logits.gather(3, at).squeeze(3) - norm], 3)
    weights = torch.arange(1.0, 13.0).reshape(1, 2, 3, 2)
    wanted = torch.autograd.grad((whole * weights).sum(), [am, lm])
    arcs, *_ = torch.ops.exportable_losses.joint_arcs(am, lm, labels, *lengths, 0)
    torch.testing.assert_close(arcs.double(), whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad((arcs * weights).sum(), [am, lm]), wanted)
    everywhere = ops.joint_arcs_everywhere(am, lm, labels, *lengths, 0)
    torch.testing.assert_close(everywhere.double(), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("batch", "frames", "labels"), list(itertools.product([0, 1], [0, 2], [0, 1])))
def test_nothing_at_all(batch: int, frames: int, labels: int) -> None:
    arcs = torch.zeros(batch, frames, labels + 1, 2)
    t, u = torch.full((batch,), frames), torch.full((batch,), labels)
    for computer in (plain, native):
        if computer is native and native.unavailable(arcs):
            continue
        costs, grad = computer.arcs(arcs, t, u, [1], [0], False, torch.ones(batch))
        if batch and not frames:
            assert costs.tolist() == [0.0 if not labels else float("inf")]
        assert grad is not None
        assert grad.shape == arcs.shape


@pytest.mark.parametrize("computer", ["native", "torch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_few_classes_of_a_softmax(dtype: torch.dtype, computer: str) -> None:
    """Values and gradients of rows of any length; what is wanted of no class may be anything."""
    why = native.unavailable(torch.zeros(1)) if computer == "native" else ""
    if why:
        pytest.skip(f"native: {why}")
    draw = torch.Generator().manual_seed(0)
    for classes in (2, 15, 16, 17, 64, 517):
        logits = (3 * torch.randn(7, classes + 3, generator=draw)).to(dtype)[:, :classes]
        wanted = torch.randint(0, classes, (7, 2), generator=draw)
        wanted[2, 0], wanted[3] = -1, -1
        spoiled = logits.clone()
        spoiled[3] = torch.nan
        weights = torch.randn(7, 2, generator=draw, dtype=torch.float64)
        leaf = logits.double().requires_grad_()
        expected = leaf.log_softmax(1).gather(1, wanted.clamp(min=0)).masked_fill(wanted < 0, -torch.inf)
        (grad,) = torch.autograd.grad((expected.masked_fill(wanted < 0, 0) * weights).sum(), leaf)
        single = torch.float64 if dtype == torch.float64 else torch.float32
        close = {"rtol": 1e-12, "atol": 1e-12} if single == torch.float64 else {"rtol": 2e-5, "atol": 2e-5}
        with using(computer):
            found = OURS.picked(spoiled, wanted)
            slopes = OURS.picked_grad(spoiled, wanted, weights.to(single))
        assert (found.dtype, slopes.dtype) == (single, dtype)
        torch.testing.assert_close(found.double(), expected.detach(), **close)
        rounding = {torch.bfloat16: 2**-8, torch.float16: 2**-11}.get(dtype, 0.0)
        torch.testing.assert_close(
            slopes.double(), grad, rtol=close["rtol"] + rounding, atol=close["atol"] + rounding / 64
        )
