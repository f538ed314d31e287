"""Intervals hold what they say that they hold, of few items too."""

import itertools

import numpy as np
import pytest

from exportable_losses.contract import Total
from exportable_losses.runtime.corpus import compare
from exportable_losses.runtime.corpus.intervals import bootstrap, interval, student


def test_a_bootstrap_is_the_mean_over_every_draw() -> None:
    """Of three items there are 27 draws: their mean and variance are known."""
    table = np.array([[1.0, 10.0], [2.0, -5.0], [4.0, 0.0]])
    every = np.array([table[list(draw)].sum(0) for draw in itertools.product(range(3), repeat=3)])
    drawn = bootstrap(table, 40_000, 0)
    np.testing.assert_allclose(drawn.mean(0), every.mean(0), atol=0.25)
    np.testing.assert_allclose(drawn.var(0), every.var(0), rtol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T)[0, 1], np.cov(every.T, bias=True)[0, 1], rtol=0.06)
    assert set(map(tuple, drawn)) == set(map(tuple, every))


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706205), (2, 4.302653), (4, 2.776445), (5, 2.570582), (99, 1.984217)]
)
def test_student_s_distribution_is_that_of_tables(freedom: int, expected: float) -> None:
    assert student(0.975, freedom) == pytest.approx(expected, rel=1e-6)
    assert student(0.95, 10**6) == pytest.approx(1.6449, abs=2e-4)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("items", [3, 5, 12])
def test_an_interval_of_few_items_holds_the_truth(items: int, weighted: bool) -> None:
    """95 times in 100, of 2000; fewer than 93 by chance once in 20,000. Percentiles alone: 81."""
    random, held = np.random.default_rng(items), 0
    totals = {"loss": Total("loss")}
    for _ in range(2000):
        weights = random.integers(1, 9, items) * 1.0 if weighted else np.ones(items)
        runs = [{"loss": values, "loss_weight": weights} for values in random.normal(0, 1, (2, items))]
        paired = compare._Paired(totals, "loss", runs)
        draws = random.multinomial(items, np.full(items, 1 / items), 400)
        low, high = paired.interval(draws @ paired.table, 0.95)
        held += low <= 0 <= high
    assert held >= 0.93 * 2000


@pytest.mark.parametrize("items", [1, 2, 3, 19, 20])
def test_a_few_items_that_moved_alike_tell_nothing_of_others(items: int) -> None:
    moved, stayed = np.full(items, 0.1), np.zeros(items)
    unknown = items < 20
    expected = (-np.inf, np.inf) if unknown else (0.1, 0.1)
    assert interval(0.1, moved, np.full(50, 0.1), 0.95) == pytest.approx(expected)
    assert interval(0.0, stayed, np.zeros(50), 0.95) == (0.0, 0.0)
