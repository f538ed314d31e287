"""The operators as programs of torch's `scan`: the numbers of the plain loops, and what enumeration gives."""

from collections.abc import Callable

import pytest
import torch
from computer_cases import HARD, Lattice, behind
from edit_cases import batch_of, by_recursion, every_pair, random_pairs
from enumeration import assignment_by_enumeration

from exportable_losses import ops
from exportable_losses.lengths import absolute_length
from exportable_losses.ops import scans

PATHS = (("ctc_posterior",), ("ctc_align", False), ("ctc_align", True))


def test_every_operator_has_a_program() -> None:
    ours = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("exportable_losses::")}
    programs = {operator.name() for operator in scans.table()}
    # these gradients are of training alone: no row's output is one
    trained = {
        f"exportable_losses::{name}_grad"
        for name in ("ctc_loss", "emissions_loss", "fused_joint", "joint_arcs", "picked", "arcs_walk")
    }
    assert ours - trained == programs


@pytest.mark.parametrize("hard", HARD, ids=lambda hard: hard.__name__)
def test_costs_of_ctc(hard: Callable[[str], Lattice]) -> None:
    given = hard("ctc")
    expected = ops.ctc_costs(*given[:5])
    torch.testing.assert_close(scans.ctc_costs(*given[:5]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("hard", HARD, ids=lambda hard: hard.__name__)
def test_costs_and_gradient_of_the_transducer(hard: Callable[[str], Lattice]) -> None:
    given = hard("transducer")
    costs, grad = ops.transducer_costs_and_grad(*given)
    torch.testing.assert_close(scans.transducer_costs(*given[:5]), costs, rtol=1e-10, atol=1e-10)
    again, ours = scans.transducer_costs_and_grad(*given)
    torch.testing.assert_close(again, costs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours, grad, rtol=1e-9, atol=1e-11)
    assert not ours[behind(given)].any()


@pytest.mark.parametrize("hard", HARD, ids=lambda hard: hard.__name__)
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_occupation_and_best_paths(path: tuple[str, ...], hard: Callable[[str], Lattice]) -> None:
    name, *more = path
    given = (*hard("ctc")[:5], *more)
    for got, expected in zip(getattr(scans, name)(*given), getattr(ops, name)(*given), strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sources", range(1, 6))
def test_permutations(sources: int) -> None:
    draw = torch.Generator().manual_seed(sources)
    costs = torch.randn(6, sources, sources, generator=draw, dtype=torch.float64)
    costs[3:] = torch.randint(2, (3, sources, sources), generator=draw).double()  # with ties
    for item, permutation in zip(costs, scans.best_permutation(costs), strict=True):
        assert tuple(permutation.tolist()) == assignment_by_enumeration(item)[1]


@pytest.mark.parametrize("pairs", [every_pair(), random_pairs(0, 40, 12)], ids=["every", "random"])
def test_edits(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    predictions, targets, prediction_lens, target_lens = batch_of(pairs)
    lengths = (
        absolute_length(prediction_lens, predictions.shape[1]),
        absolute_length(target_lens, targets.shape[1]),
    )
    expected = torch.tensor([by_recursion(*pair)[2:] for pair in pairs])
    assert torch.equal(scans.edit_counts(predictions, targets, *lengths), expected)
