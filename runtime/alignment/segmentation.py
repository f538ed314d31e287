"""Words cut into pieces of a vocabulary; a character that no piece has is a piece of its own."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

_UNKNOWN = 10.0  # SentencePiece: an unknown character costs so much more than the worst piece


class Segmenter(Protocol):
    """Cuts a word."""

    def cut(self, word: str) -> list[str]:
        """The pieces of `word`, in order."""


@dataclass(frozen=True)
class Whole:
    """A word is one piece: the vocabulary has words, or phonemes with spaces between them."""

    def cut(self, word: str) -> list[str]:
        return [word]


@dataclass(frozen=True)
class BestScore:
    """The pieces with the largest sum of scores, as the unigram model of SentencePiece has it.

    Kudo 2018, "Subword Regularization", https://arxiv.org/abs/1804.10959. Of equally good ones it takes those
    with the longest first piece.

    Args:
        scores: of each piece; all alike, the fewest pieces win.
    """

    scores: Mapping[str, float]

    @functools.cached_property
    def _longest(self) -> int:
        return max(map(len, self.scores), default=1)

    @functools.cached_property
    def _unknown(self) -> float:
        return min(self.scores.values(), default=0.0) - _UNKNOWN

    def cut(self, word: str) -> list[str]:
        size = len(word)
        best, ends = [-math.inf] * size + [0.0], [size] * size
        for start in reversed(range(size)):
            for end in range(min(size, start + self._longest), start, -1):
                unknown = self._unknown if end == start + 1 else -math.inf
                score = self.scores.get(word[start:end], unknown) + best[end]
                if score > best[start]:
                    best[start], ends[start] = score, end
        found, at = [], 0
        while at < size:
            found.append(word[at : ends[at]])
            at = ends[at]
        return found


@dataclass(frozen=True)
class Longest:
    """The longest piece that fits, from left to right, as WordPiece has it.

    Args:
        pieces: whatever they stand for.
    """

    pieces: Mapping[str, int]

    @functools.cached_property
    def _longest(self) -> int:
        return max(map(len, self.pieces), default=1)

    def cut(self, word: str) -> list[str]:
        found, at = [], 0
        while at < len(word):
            ends = range(min(len(word), at + self._longest), at + 1, -1)
            end = next((end for end in ends if word[at:end] in self.pieces), at + 1)
            found.append(word[at:end])
            at = end
        return found


@dataclass(frozen=True)
class Merges:
    """Characters, of which again and again the best pair of neighbours becomes one: byte-pair encoding.

    Sennrich et al. 2016, https://arxiv.org/abs/1508.07909. Of equally good pairs it takes the first.

    Args:
        ranks: of a pair, the lower the better; those of SentencePiece depend on what becomes of the pair
            alone, and stand under that.
    """

    ranks: Mapping[tuple[str, str] | str, float]

    def cut(self, word: str) -> list[str]:
        parts = list(word)
        while len(parts) > 1:
            pairs = [(self._rank(*parts[at : at + 2]), at) for at in range(len(parts) - 1)]
            rank, at = min(pairs)
            if rank == math.inf:
                break
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        return parts

    def _rank(self, left: str, right: str) -> float:
        return self.ranks.get((left, right), self.ranks.get(left + right, math.inf))
