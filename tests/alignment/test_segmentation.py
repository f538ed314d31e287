"""What cuts words, held to all ways to cut them, and to merges in naive loops."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from exportable_losses.runtime.alignment.segmentation import BestScore, Longest, Merges, Whole


def ways(word: str) -> Iterator[list[str]]:
    """All ways to cut a word."""
    for cuts in itertools.product([False, True], repeat=len(word) - 1):
        edges = [0, *(at for at, cut in enumerate(cuts, 1) if cut), len(word)]
        yield [word[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("seed", range(20))
def test_the_best_score_is_that_of_all_ways(seed: int) -> None:
    random = np.random.default_rng(seed)
    letters = "abc"
    pieces = {"".join(random.choice(list(letters), random.integers(1, 4))) for _ in range(9)}
    scores = {piece: float(random.normal(-3)) for piece in sorted(pieces)}
    unknown = min(scores.values()) - 10

    def total(way: list[str]) -> float:
        return sum(scores.get(piece, unknown if len(piece) == 1 else -math.inf) for piece in way)

    for _ in range(10):
        word = "".join(random.choice(list(letters + "x"), 8))
        found = BestScore(scores).cut(word)
        assert "".join(found) == word
        assert total(found) == pytest.approx(max(map(total, ways(word))))


def test_of_equally_few_pieces_the_first_is_the_longest() -> None:
    assert BestScore(dict.fromkeys(["a", "b", "ab", "ba"], -1.0)).cut("aba") == ["ab", "a"]
    assert BestScore(dict.fromkeys(["a", "ab", "abc", "bcd", "d"], -1.0)).cut("abcd") == ["abc", "d"]


def test_longest_first_may_need_more_pieces() -> None:
    pieces = dict.fromkeys(["a", "b", "c", "ab", "abc", "cd"], 0)
    assert Longest(pieces).cut("abcd") == ["abc", "d"]
    assert Longest(pieces).cut("xabx") == ["x", "ab", "x"]


@pytest.mark.parametrize("seed", range(20))
def test_merges_are_done_by_rank_and_from_the_left(seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = ["a", "b", "c"]
    pairs: list[tuple[str, str]] = []
    while len(pairs) < 7:
        pair = (str(random.choice(parts)), str(random.choice(parts)))
        if pair not in pairs:
            pairs.append(pair)
            parts.append("".join(pair))
    merges = Merges({pair: rank for rank, pair in enumerate(pairs)})
    for _ in range(20):
        word = "".join(random.choice(list("abc"), 9))
        wanted = list(word)
        while True:  # the best pair that is anywhere, at its first place
            there = [rank for rank, pair in enumerate(pairs) if pair in itertools.pairwise(wanted)]
            if not there:
                break
            left, right = pairs[there[0]]
            at = next(i for i, pair in enumerate(itertools.pairwise(wanted)) if pair == (left, right))
            wanted[at : at + 2] = [left + right]
        assert merges.cut(word) == wanted


def test_a_word_as_a_whole() -> None:
    assert Whole().cut("HH") == ["HH"]


@pytest.mark.parametrize("segmenter", [BestScore({}), Longest({}), Merges({}), Whole()])
def test_nothing_is_cut_into_nothing_or_itself(segmenter: Whole) -> None:
    assert "".join(segmenter.cut("")) == ""
    assert "".join(segmenter.cut("ab")) == "ab"
