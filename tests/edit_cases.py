"""Pairs of token sequences, and what makes one the other by a recursion over the last tokens."""

import functools
import itertools

import torch
from torch import Tensor

Tokens = tuple[int, ...]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@functools.cache
def by_recursion(prediction: Tokens, target: Tokens) -> tuple[int, int, int, int, int]:
    """The edits, the gaps, then insertions, deletions and substitutions: the least of the first two."""
    if not prediction or not target:
        n, m = len(prediction), len(target)
        return n + m, n + m, n, m, 0
    same = prediction[-1] == target[-1]
    e, g, i, d, s = by_recursion(prediction[:-1], target[:-1])
    kept = (e + (not same), g, i, d, s + (not same))
    e, g, i, d, s = by_recursion(prediction[:-1], target)
    inserted = (e + 1, g + 1, i + 1, d, s)
    e, g, i, d, s = by_recursion(prediction, target[:-1])
    return min(kept, inserted, (e + 1, g + 1, i, d + 1, s), key=lambda way: way[:2])


def batch_of(pairs: list[tuple[Tokens, Tokens]], width: int = 0) -> Batch:
    """Padded with garbage, at least `width` wide."""

    def padded(sequences: list[Tokens], garbage: int) -> tuple[Tensor, Tensor]:
        size = max(width, *map(len, sequences), 1)
        tokens = torch.full((len(sequences), size), garbage)
        for row, sequence in zip(tokens, sequences, strict=True):
            row[: len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
        return tokens, torch.tensor([len(sequence) / size for sequence in sequences], dtype=torch.float64)

    predictions, prediction_lens = padded([p for p, _ in pairs], 1)
    targets, target_lens = padded([t for _, t in pairs], 1)
    return predictions, targets, prediction_lens, target_lens


def every_pair() -> list[tuple[Tokens, Tokens]]:
    """All sequences of up to three of three tokens with all others, the empty one among them."""
    sequences = [s for n in range(4) for s in itertools.product((-1, 0, 1), repeat=n)]
    return list(itertools.product(sequences, repeat=2))


def random_pairs(seed: int, number: int, longest: int) -> list[tuple[Tokens, Tokens]]:
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tokens:
        size = int(torch.randint(1, longest + 1, (), generator=generator))
        return tuple(torch.randint(5, (size,), generator=generator).tolist())

    return [(draw(), draw()) for _ in range(number)]


def words(tokens: Tokens) -> str:
    return " ".join(f"w{token}" for token in tokens)
