"""The functions of a recipe with a pruned transducer: one walk for two, and the rows that meet."""

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
