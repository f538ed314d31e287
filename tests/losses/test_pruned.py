"""The functions of a recipe with a pruned transducer: one walk for two, and the rows that meet."""

from typing import Any

import pytest
import torch
from torch import Tensor

import exportable_losses as el
from exportable_losses import functional


def batch(seed: int = 0) -> tuple[Tensor, ...]:
    """am, lm, targets and lengths of three items, garbage behind their lengths."""
    draw = torch.Generator().manual_seed(seed)
    am = torch.randn(3, 12, 6, generator=draw, dtype=torch.float64)
    lm = torch.randn(3, 6, 6, generator=draw, dtype=torch.float64)
    frames, labels = torch.tensor([12, 9, 7]), torch.tensor([5, 0, 3])
    for item, (t, u) in enumerate(zip(frames.tolist(), labels.tolist(), strict=True)):
        am[item, t:], lm[item, u + 1 :] = torch.nan, torch.nan
    return am, lm, torch.randint(1, 6, (3, 5), generator=draw), frames, labels


@pytest.mark.parametrize("topology", ["regular", "modified", "constrained"])
@pytest.mark.parametrize("scales", [(0.0, 0.0), (0.25, 0.1)])
def test_one_walk_gives_what_two_do(topology: str, scales: tuple[float, float]) -> None:
    am, lm, *more = batch()
    settings = {"lm_only_scale": scales[0], "am_only_scale": scales[1], "topology": topology}
    settings["delay_penalty"] = 0.1
    leaves = [am.clone().requires_grad_(), lm.clone().requires_grad_()]
    loss, ranges = functional.simple_loss_and_ranges(*leaves, *more, prune_range=3, **settings)
    found = torch.autograd.grad(loss, leaves)
    expected = el.SimpleTransducerLoss(**settings)(*leaves, *more)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, leaves))
    assert torch.equal(ranges, el.PruneRanges(3, **settings)(am, lm, *more))


def test_one_walk_where_there_is_no_path() -> None:
    am, lm, targets, frames, _ = batch()
    leaves = [am.nan_to_num().requires_grad_(), lm.nan_to_num().requires_grad_()]
    labels = torch.tensor([5, 5, 5])
    frames = torch.tensor([3, 9, 4])  # fewer than labels, which take one each
    loss, _ = functional.simple_loss_and_ranges(
        *leaves, targets, frames, labels, reduction="none", topology="modified"
    )
    assert loss.isposinf().tolist() == [True, False, True]
    for grad in torch.autograd.grad(loss[1], leaves):
        assert grad.isfinite().all()
        assert not grad[[0, 2]].any()


@pytest.mark.parametrize("topology", ["regular", "modified", "constrained"])
def test_with_all_ranges_open_it_is_the_transducer(topology: str) -> None:
    am, lm, *more = batch()
    joint = (am.unsqueeze(2) + lm.unsqueeze(1)).requires_grad_()
    every = torch.arange(6).expand(3, 12, 6)
    rows = functional.prune(am, lm, every)
    logits = (rows[0] + rows[1]).requires_grad_()
    pruned = functional.pruned_transducer_loss(logits, every, *more, topology=topology)
    whole = el.TransducerLoss(topology=topology)(joint, *more)
    torch.testing.assert_close(pruned, whole)
    torch.testing.assert_close(torch.autograd.grad(pruned, logits), torch.autograd.grad(whole, joint))


def test_prune_takes_the_rows_of_the_ranges() -> None:
    am, lm, *_ = batch()
    draw = torch.Generator().manual_seed(1)
    first = torch.randint(0, 4, (3, 12, 1), generator=draw)
    ranges = first + torch.arange(3)
    of_am, of_lm = functional.prune(am, lm.nan_to_num(), ranges)
    for item in range(3):
        for t in range(12):
            for place, u in enumerate(ranges[item, t].tolist()):
                assert torch.equal(of_lm[item, t, place], lm.nan_to_num()[item, u])
                assert torch.equal(of_am[item, t, place], am[item, t]) or am[item, t].isnan().all()


def test_the_joint_is_never_made() -> None:
    """Nothing of the size of the joint `[B, T, U, V]` is: that would be 12 GB, and its gradient as much."""
    am, lm = torch.randn(1, 6000, 1000).requires_grad_(), torch.randn(1, 501, 1000).requires_grad_()
    targets = torch.randint(1, 1000, (1, 500), generator=torch.Generator().manual_seed(0))
    whole = torch.ones(1)
    loss, ranges = functional.simple_loss_and_ranges(am, lm, targets, whole, whole)
    assert ranges.shape == (1, 6000, 5)
    loss.backward()
    assert am.grad is not None
    assert am.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_sixteen_bits_do_not_stop_growing(dtype: torch.dtype) -> None:
    """A row of the predictor is taken thousands of times, and its gradient is the sum of all."""
    am, lm = torch.zeros(1, 3000, 1, dtype=dtype), torch.zeros(1, 3, 1, dtype=dtype, requires_grad=True)
    functional.prune(am, lm, torch.arange(3).expand(1, 3000, 3))[1].sum().backward()
    assert lm.grad is not None
    torch.testing.assert_close(lm.grad.flatten(), torch.full([3], 3000.0, dtype=dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda am, lm, r: (am, lm[:1], r), r"lm: got shape \[1, 6, 6\], expected \[3, U\+1, H\]"),
        (lambda am, lm, r: (am, lm, r[:1]), r"am, ranges: got shapes"),
        (lambda am, lm, r: (am[:, :4], lm, r), r"am, ranges: got shapes"),
        (lambda am, lm, r: (am, lm, r[0]), r"am, ranges: got shapes"),
    ],
)
def test_prune_refuses_rows_of_others(change: Any, message: str) -> None:
    am, lm, *_ = batch()
    with pytest.raises(ValueError, match=message):
        functional.prune(*change(am, lm, torch.arange(2).expand(3, 12, 2)))


@pytest.mark.parametrize("wrong", [0, 1, -3, 2.5, True])
def test_ranges_in_which_no_path_moves_on_are_refused(wrong: Any) -> None:
    message = "prune_range: got .*, expected an integer of at least 2"
    with pytest.raises(ValueError, match=message):
        el.PruneRanges(wrong)
    with pytest.raises(ValueError, match=message):
        functional.simple_loss_and_ranges(*batch(), prune_range=wrong)


def test_a_class_that_is_never_said_has_a_gradient() -> None:
    am, lm, *more = batch()
    lm[..., 4] = -torch.inf
    more[0] = more[0].masked_fill(more[0] == 4, 1)
    leaves = [am.nan_to_num().float().requires_grad_(), lm.nan_to_num(neginf=-1e4).float().requires_grad_()]
    for scales in ((0.0, 0.25), (0.3, 0.2), (0.5, 0.5)):
        loss = el.SimpleTransducerLoss(0, "mean", *scales)(*leaves, *more)
        for grad in torch.autograd.grad(loss, leaves):
            assert grad.isfinite().all()


@pytest.mark.parametrize("topology", ["regular", "modified", "constrained"])
def test_paths_of_the_sum_are_those_of_the_transducer(topology: str) -> None:
    am, lm = torch.randn(3, 9, 6, dtype=torch.float64), torch.randn(3, 5, 6, dtype=torch.float64)
    more = torch.randint(1, 6, (3, 4)), torch.tensor([9, 7, 5]), torch.tensor([4, 0, 2])
    logits = am.unsqueeze(2) + lm.unsqueeze(1)
    for simple, whole in (
        (el.SimpleTransducerAlign(topology=topology), el.TransducerAlign(topology=topology)),
        (el.SimpleTransducerPosterior(topology=topology), el.TransducerPosterior(topology=topology)),
    ):
        for found, wanted in zip(simple(am, lm, *more), whole(logits, *more), strict=True):
            torch.testing.assert_close(found, wanted)


def test_smoothed_paths_cost_what_the_smoothed_loss_says() -> None:
    """The occupation of an arc is what the loss's gradient in its logarithm is."""
    scales = {"lm_only_scale": 0.25, "am_only_scale": 0.1}
    am, lm = torch.randn(2, 6, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    more = torch.randint(1, 5, (2, 2)), torch.tensor([6, 5]), torch.tensor([2, 1])
    costs = el.SimpleTransducerLoss(reduction="none", **scales)(am, lm, *more)
    _, emissions, found = el.SimpleTransducerPosterior(**scales)(am, lm, *more)
    torch.testing.assert_close(found, costs)
    torch.testing.assert_close(emissions.sum(1), torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64))
    path = el.SimpleTransducerAlign(**scales)(am, lm, *more)[-1]
    assert (path < -costs).all()
    am, lm = 2000 * am, 2000 * lm  # which leaves one path to each item
    sharp = el.SimpleTransducerAlign(**scales)(am, lm, *more)[-1]
    torch.testing.assert_close(-sharp, el.SimpleTransducerLoss(0, "none", **scales)(am, lm, *more))
