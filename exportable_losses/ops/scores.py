"""Scores of 16 bits: computed in float32, and so are costs; a gradient is rounded once to their type."""

import torch
from torch import Tensor

HALVES = {torch.bfloat16, torch.float16}


def computed(dtype: torch.dtype) -> torch.dtype:
    """The type in which scores of `dtype` are computed, and of their costs."""
    return torch.float32 if dtype in HALVES else dtype


def widened(scores: Tensor) -> Tensor:
    """`scores` themselves, or as float32 where they have 16 bits."""
    return scores.float() if scores.dtype == torch.float16 or scores.dtype == torch.bfloat16 else scores
