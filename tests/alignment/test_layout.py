"""Lines of words: nothing lost, nothing twice, no label on another."""

import numpy as np
import pytest

from exportable_losses.runtime.alignment.layout import SECONDS, lines
from exportable_losses.runtime.alignment.words import Word


def word(start: float, end: float, text: str = "a") -> Word:
    return Word(text, start, end, 0.9)


def test_a_line_ends_where_a_word_begins_that_does_not_fit() -> None:
    first, second = lines([word(0, 1), word(5.5, 6.5), word(7, 7.5)], 9.0)
    assert (first.start, first.end, second.start, second.end) == (0, 5.5, 5.5, 9.0)
    assert [piece.number for piece in second.pieces] == [1, 2]
    assert all(piece.first for piece in first.pieces + second.pieces)


def test_a_long_word_goes_on() -> None:
    found = lines([word(1, 15)], 16.0)
    assert [(line.start, line.end) for line in found] == [(0, 6), (6, 12), (12, 16)]
    assert [(p.start, p.end, p.first) for line in found for p in line.pieces] == [
        (1, 6, True),
        (6, 12, False),
        (12, 15, False),
    ]


@pytest.mark.parametrize(("words", "duration", "count"), [([], 0, 0), ([], 13.0, 3), ([word(0, 0)], 0, 1)])
def test_next_to_nothing(words: list[Word], duration: float, count: int) -> None:
    assert len(lines(words, duration)) == count


def test_any_words_are_all_there_once() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        starts = random.uniform(0, 30, random.integers(1, 60))
        words = [
            word(start, start + random.exponential(1.0), "x" * random.integers(1, 12)) for start in starts
        ]
        found = lines(words, 25.0)
        assert [line.start for line in found[1:]] == [line.end for line in found[:-1]]
        assert all(0 < line.end - line.start < SECONDS + 1e-9 for line in found)
        pieces = [piece for line in found for piece in line.pieces]
        assert sorted(piece.number for piece in pieces if piece.first) == list(range(len(words)))
        for number, each in enumerate(words):
            length = sum(piece.end - piece.start for piece in pieces if piece.number == number)
            assert length == pytest.approx(each.end - each.start)


def test_labels_that_would_collide_stand_beneath_each_other() -> None:
    (line,) = lines([word(0, 0.1, "considerable"), word(0.1, 0.2, "I"), word(2, 2.1, "far")], 3.0)
    assert [piece.row for piece in line.pieces] == [0, 1, 0]
    assert line.rows == 2
