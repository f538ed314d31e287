"""Permutation-invariant training against all permutations, and the ratios against their definition."""

import itertools
import math

import pytest
import torch
from enumeration import assignment_by_enumeration
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses import functional as F
from exportable_losses import speechbrain as losses

F64 = torch.float64


def pairwise_costs(preds: Tensor, targets: Tensor) -> Tensor:
    """The squared error of prediction j for target i at (i, j), by a loop: `[B, S, S]`."""
    batch, sources = preds.shape[0], preds.shape[-1]
    costs = torch.empty(batch, sources, sources, dtype=preds.dtype)
    for b, i, j in itertools.product(range(batch), range(sources), range(sources)):
        costs[b, i, j] = ((preds[b, ..., j] - targets[b, ..., i]) ** 2).mean()
    return costs


@pytest.mark.parametrize("scripted", [False, True], ids=["eager", "scripted"])
@pytest.mark.parametrize("base_loss", [None, nn.MSELoss(reduction="none")], ids=["default", "given"])
@pytest.mark.parametrize("sources", [1, 2, 3, 4, 5])
def test_pit_finds_the_best_permutation(sources: int, base_loss: nn.Module | None, scripted: bool) -> None:
    generator = torch.Generator().manual_seed(sources)
    preds, targets = (torch.randn(20, 3, 2, sources, generator=generator, dtype=F64) for _ in range(2))
    module = el.PITLoss(base_loss)
    loss, permutations = (torch.jit.script(module) if scripted else module)(preds, targets)
    for b, costs in enumerate(pairwise_costs(preds, targets)):
        best, permutation = assignment_by_enumeration(costs)
        assert tuple(permutations[b].tolist()) == permutation
        torch.testing.assert_close(loss[b], best)


@pytest.mark.parametrize("sources", [2, 3, 4, 5])
def test_ties_go_to_the_first_permutation(sources: int) -> None:
    # whole numbers so small that many permutations cost the same
    generator = torch.Generator().manual_seed(sources)
    costs = torch.randint(0, 3, (200, sources, sources), generator=generator).to(F64)
    chosen = torch.ops.exportable_losses.best_permutation(costs)
    for item, permutation in zip(costs, chosen.tolist(), strict=True):
        assert tuple(permutation) == assignment_by_enumeration(item)[1]
    equal = torch.zeros(1, 4, sources)
    assert el.PITLoss()(equal, equal)[1].tolist() == [list(range(sources))]


def test_ten_sources() -> None:
    # 10! permutations are out of reach of enumeration: hide one and find it
    targets = torch.randn(4, 50, 10, generator=torch.Generator().manual_seed(0))
    hidden = torch.stack([torch.randperm(10, generator=torch.Generator().manual_seed(b)) for b in range(4)])
    preds = targets.gather(2, hidden.unsqueeze(1).expand_as(targets))
    loss, permutations = el.PITLoss()(preds, targets)
    assert torch.equal(permutations, hidden.argsort(1))
    assert torch.equal(loss, torch.zeros(4))


def test_infinite_costs_are_avoided() -> None:
    costs = torch.tensor([[[math.inf, 1.0], [2.0, 0.0]]])
    assert torch.ops.exportable_losses.best_permutation(costs).tolist() == [[1, 0]]


def test_pit_gradcheck() -> None:
    preds, targets = (torch.randn(2, 3, 4, dtype=F64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda p, t: el.PITLoss()(p, t)[0], (preds, targets))


def test_the_drop_in_gives_its_base_loss_one_item_at_a_time() -> None:
    # time comes first in cal_si_snr, so a batch in front of it would be taken for time
    targets = torch.randn(3, 40, 2, generator=torch.Generator().manual_seed(0))
    preds = targets[..., [1, 0]] + 0.1 * torch.randn(3, 40, 2, generator=torch.Generator().manual_seed(1))
    loss, permutations = losses.PitWrapper(losses.cal_si_snr)(preds, targets)
    torch.testing.assert_close(loss, F.get_si_snr_with_pitwrapper(preds, targets))
    assert permutations == [(1, 0)] * 3


def test_reorder_tensor_takes_a_permutation_for_each_item() -> None:
    tensor = torch.arange(12.0).reshape(2, 2, 3)
    reordered = losses.PitWrapper(nn.MSELoss()).reorder_tensor(tensor, [(2, 0, 1), (0, 2, 1)])
    assert reordered.tolist() == [[[2.0, 0.0, 1.0], [5.0, 3.0, 4.0]], [[6.0, 8.0, 7.0], [9.0, 11.0, 10.0]]]


def decibels(signal: Tensor, noise: Tensor) -> float:
    return 10 * math.log10(float(signal.square().sum()) / (float(noise.square().sum()) + 1e-8) + 1e-8)


@pytest.mark.parametrize("shape", [(30, 2, 3), (30, 2, 2, 3)])
def test_ratios_by_their_definition(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    source, estimate = (torch.randn(shape, generator=generator, dtype=F64) + 3 for _ in range(2))
    si_snr, snr = F.cal_si_snr(source, estimate), F.cal_snr(source, estimate)
    assert si_snr.shape == snr.shape == (1, *shape[1:])
    for at in itertools.product(*map(range, shape[1:])):
        s, e = (x[(slice(None), *at)] - x[(slice(None), *at)].mean() for x in (source, estimate))
        projection = (e @ s) / (s @ s) * s
        assert si_snr[(0, *at)] == pytest.approx(-decibels(projection, e - projection))
        assert snr[(0, *at)] == pytest.approx(-decibels(s, e - s))


@pytest.mark.parametrize(("ratio", "shape"), [("si_snr", (2, 30, 3)), ("snr", (2, 30, 2, 3))])
def test_the_best_ratio_over_all_permutations(ratio: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    source, estimate = (torch.randn(shape, generator=generator, dtype=F64) for _ in range(2))
    got = getattr(F, f"get_{ratio}_with_pitwrapper")(source, estimate)
    each = getattr(F, f"cal_{ratio}")
    for b in range(2):
        one, other = source[b].unsqueeze(1), estimate[b].unsqueeze(1)  # time first, then a batch of one
        permutations = itertools.permutations(range(shape[-1]))
        mean_of = [each(one[..., list(p)], other).mean() for p in permutations]
        torch.testing.assert_close(got[b], torch.stack(mean_of).min())


def test_a_silent_source_is_finite() -> None:
    silent = torch.zeros(10, 1, 1)
    noise = torch.randn(10, 1, 1, generator=torch.Generator().manual_seed(0))
    for ratio in (F.cal_si_snr, F.cal_snr):
        assert ratio(silent, noise).isfinite().all()
        assert ratio(silent, silent).isfinite().all()
