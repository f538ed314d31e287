"""Words in seconds, of an alignment in frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .tokens import CONTINUES, MARK, SEPARATORS, STAR, WILDCARD, Spelling, of_classes, text_of

_LONGEST_HOP = 3600
ALIGNMENT = ("tokens", "starts", "ends", "scores")  # of what `CTCAlign` gives


@dataclass(frozen=True)
class Token:
    """A token and where it is.

    Args:
        text: its name, `*` for a wildcard.
        start: in seconds.
        end: in seconds.
        confidence: exp of its mean log-probability per frame.
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Word:
    """A word and where it is.

    Args:
        text: as it is written; `*` stands for a wildcard where that is not known.
        start: of its first token, in seconds.
        end: of its last token, in seconds.
        confidence: exp of the mean log-probability per frame of its tokens. Wildcards do not count, unless
            there is nothing else.
        wildcard: whether a part of it, or all, is a wildcard.
        tokens: of which it is made.
    """

    text: str
    start: float
    end: float
    confidence: float
    wildcard: bool = False
    tokens: tuple[Token, ...] = ()


def words(
    alignment: Mapping[str, ArrayLike], tokens: Sequence[str], hop: float, offset: float = 0.0
) -> list[Word]:
    """The words of an alignment, with their times in seconds.

    A word begins at a token that begins with ``▁`` and at a wildcard among such tokens; and behind a ``|``,
    a ``<space>`` or a space, which belong to no word. A token that begins with ``##`` continues one. Where
    the names have no such marks, each token is a word.

    Args:
        alignment: what `CTCAlign` gives for one item: `tokens`, `starts` and `ends` in frames, and `scores`,
            `[S]` each. -1 among the tokens is padding; a number behind the last name is a wildcard.
        tokens: the names of the classes, from 0. Those of no class at the end, ``#0`` and so on, do not
            count.
        hop: the seconds from one frame to the next.
        offset: the seconds at which the first frame begins. What begins before zero begins at zero.

    Raises:
        ValueError: an array is missing or of another size, the target could not be aligned, or `hop` is not
            positive.

    Examples:
        >>> alignment = {"tokens": [2, 3, 4], "starts": [1, 3, 6], "ends": [2, 5, 9]}
        >>> alignment["scores"] = [-0.1, -0.1, 0.0]
        >>> for word in words(alignment, ["-", "<unk>", "▁so", "ft", "▁rain"], hop=0.02):
        ...     print(word.text, round(word.start, 2), round(word.end, 2), round(word.confidence, 2))
        soft 0.02 0.1 0.9
        rain 0.12 0.18 1.0
    """
    tokens = of_classes(tokens)
    given = _arrays(alignment)["tokens"].tolist()
    if -1 in given:
        given, padding = given[: given.index(-1)], given[given.index(-1) :]
        if set(padding) != {-1}:
            raise ValueError("alignment: got -1 among the tokens, expected it behind them alone")
    if min(given, default=0) < 0:
        raise ValueError(f"alignment: got {min(given)} among the tokens, expected -1 behind them alone")
    labels = [label if label < len(tokens) else WILDCARD for label in given]
    texts, spans = _written([STAR if label == WILDCARD else tokens[label] for label in labels], tokens)
    return timed(alignment, Spelling(texts, tuple(labels), spans), tokens, hop, offset)


def check_times(hop: float, offset: float) -> None:
    """Refuse what makes no seconds of frames."""
    for name, value in (("hop", hop), ("offset", offset)):
        if not isinstance(value, (int, float)):
            raise TypeError(f"{name}: got {value!r}, expected a number of seconds")
    if not 0 < hop <= _LONGEST_HOP:
        raise ValueError(f"hop: got {hop}, expected a positive number of seconds, of at most {_LONGEST_HOP}")
    if not math.isfinite(offset):
        raise ValueError(f"offset: got {offset}, expected a number of seconds")


def timed(
    alignment: Mapping[str, ArrayLike], spelling: Spelling, tokens: Sequence[str], hop: float, offset: float
) -> list[Word]:
    """The words of a spelling, as `words` has them; its labels say which are wildcards."""
    check_times(hop, offset)
    found = _arrays(alignment)
    labels = spelling.labels
    scores = found["scores"][: len(labels)].astype(float)
    if not np.isfinite(scores).all():
        got = f"got scores of {scores[~np.isfinite(scores)][0]}"
        raise ValueError(f"alignment: {got}, expected those of a target that could be aligned")
    starts, ends = (found[name][: len(labels)].astype(int) for name in ("starts", "ends"))
    if (wrong := ends < starts).any():
        got = f"got a token of frames {starts[wrong][0]} to {ends[wrong][0]}"
        raise ValueError(f"alignment: {got}, expected none that ends before it starts")
    seconds = np.maximum(offset + hop * np.stack([starts, ends]), 0.0)
    sure, frames = np.exp(scores), np.maximum(ends - starts, 1)  # a transducer's token may take no frame
    names = [STAR if label == WILDCARD else tokens[label] for label in labels]
    result = []
    for text, (first, last) in zip(spelling.words, spelling.spans, strict=True):
        # a mark alone is the pause before the word
        at = [i for i in range(first, last) if names[i].strip(MARK)] or list(range(first, last))
        known = [i for i in at if labels[i] != WILDCARD]
        counted = known or at
        confidence = float(np.exp(np.average(scores[counted], weights=frames[counted])))
        parts = [Token(names[i], float(seconds[0, i]), float(seconds[1, i]), float(sure[i])) for i in at]
        wildcard = len(known) < len(at)
        result.append(Word(text, parts[0].start, parts[-1].end, confidence, wildcard, tuple(parts)))
    return result


def _arrays(alignment: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    missing = [name for name in ALIGNMENT if name not in alignment]
    if missing:
        got = f"{', '.join(missing)} missing, found {', '.join(alignment) or 'none'}"
        raise ValueError(f"alignment: {got}, expected {', '.join(ALIGNMENT)}")
    found = {name: np.asarray(alignment[name]) for name in ALIGNMENT}
    for name, array in found.items():
        if array.shape != found["tokens"].shape or array.ndim != 1:
            shapes = f"shape {list(array.shape)} beside tokens of {list(found['tokens'].shape)}"
            raise ValueError(f"alignment: got {name} of {shapes}, expected those of one item, [S] each")
    return found


def _written(
    names: Sequence[str], tokens: Sequence[str]
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """The words that some of the `tokens` write, and which of them each is made of."""
    marked = any(name.startswith(MARK) for name in tokens)
    continued = any(name.startswith(CONTINUES) for name in tokens)
    separators = set() if marked or continued else set(SEPARATORS) & set(tokens)

    def begins(name: str) -> bool:
        if marked:
            return name.startswith(MARK) or name == STAR
        return not name.startswith(CONTINUES) if continued else not separators

    spans: list[tuple[int, int]] = []
    inside = False
    for at, name in enumerate(names):
        if name in separators:
            inside = False
        elif inside and not begins(name):
            spans[-1] = (spans[-1][0], at + 1)
        else:
            spans.append((at, at + 1))
            inside = True
    texts = (text_of(name.removeprefix(CONTINUES) for name in names[first:last]) for first, last in spans)
    return tuple(text.replace(MARK, "") for text in texts), tuple(spans)
