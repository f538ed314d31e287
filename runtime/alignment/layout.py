"""Words on lines, as text is set: lines break between words, and labels make room for each other."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from .words import Word

SECONDS = 6.0  # of a line that is full
REM = 10.5  # of the page, for a second
_LETTER, _GAP = 0.49, 0.35  # rem that a letter takes, and what is free behind a label
_ROWS = 4


@dataclass(frozen=True)
class Piece:
    """A word on a line, or that part of it which the line has.

    Args:
        number: of the word in its item.
        word: the word.
        start: from where on this line shows it, in seconds.
        end: to where.
        row: of its label, the uppermost is 0.
    """

    number: int
    word: Word
    start: float
    end: float
    row: int

    @property
    def first(self) -> bool:
        """Whether the word begins here."""
        return self.start == self.word.start


@dataclass
class Line:
    """A line: from when to when, in seconds, and what is on it."""

    start: float
    end: float
    pieces: list[Piece] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows its labels take."""
        return 1 + max((piece.row for piece in self.pieces), default=0)


def lines(words: Sequence[Word], duration: float) -> list[Line]:
    """Break a recording into lines of at most `SECONDS`.

    A line ends where a word begins that does not fit, unless that left it less than half full: such a word
    goes on in the next line.

    Args:
        words: in any order.
        duration: of the recording, in seconds.
    """
    waiting = sorted(enumerate(words), key=lambda each: each[1].start)
    duration = max(duration, max((word.end for word in words), default=0.0))
    found: list[Line] = []
    start, at = 0.0, 0
    going: list[tuple[int, Word]] = []  # words that the line before has not finished
    while start < duration or at < len(waiting):
        end, last = start + SECONDS, at
        while last < len(waiting) and waiting[last][1].start < end:
            last += 1
            word = waiting[last - 1][1]
            if word.end > end and word.start >= start + SECONDS / 2:
                end, last = word.start, last - 1
        line = Line(start, min(end, duration) if last == len(waiting) else end)
        here = going + waiting[at:last]
        line.pieces = _pieces(here, line)
        found.append(line)
        going = [each for each in here if each[1].end > end]
        start, at = end, last
    return found


def _pieces(words: list[tuple[int, Word]], line: Line) -> list[Piece]:
    free = [line.start] * _ROWS  # from when on each row is
    pieces = []
    for number, word in words:
        start = max(word.start, line.start)
        row = next((row for row in range(_ROWS) if free[row] <= start), free.index(min(free)))
        if word.start >= line.start:  # a label stands where the word begins
            free[row] = start + (_GAP + _LETTER * _width(word.text)) / REM
        pieces.append(Piece(number, word, start, max(start, min(word.end, line.end)), row))
    return pieces


def _width(text: str) -> float:
    """How wide a text is, about: in Latin letters."""
    return sum(_letter(letter) for letter in text)


def _letter(letter: str) -> float:
    if unicodedata.combining(letter):
        return 0
    if unicodedata.east_asian_width(letter) in "WF":
        return 2
    return 1.45 if letter.isupper() or letter in "mw" else 1
