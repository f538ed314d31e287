"""Decoding: the best labels without a target."""

import torch
from torch import Tensor, nn

from ..checks import check_inputs
from ..contract import Contract
from ..lengths import absolute_length
from ..settings import settings_repr
from .ctc import CTC

__all__ = ["CTCGreedyDecode"]

_SCORES, _, _INPUT_LENS, _ = CTC.inputs
DECODE = Contract((_SCORES, _INPUT_LENS), ("tokens", "token_lengths"))


def greedy_labels(scores: Tensor, lengths: Tensor, blank_index: int) -> tuple[Tensor, Tensor]:
    """The labels on the best path of each item: repetitions merged, blanks removed.

    Args:
        scores: `[B, T, C]`.
        lengths: frames per item `[B]`, int64.
        blank_index: the class of the blank.

    Returns:
        Labels `[B, T]`, zero behind each item's last, and their number `[B]`, int64 both.
    """
    return _merged(scores.argmax(-1), lengths, blank_index)


def merged_labels(best: Tensor, lengths: Tensor, blank_index: int, padding: int) -> tuple[Tensor, Tensor]:
    """The same of the best class of each frame `[B, T]`, `padding` behind each item's last."""
    labels, numbers = _merged(best, lengths, blank_index)
    place = torch.arange(labels.shape[1], device=labels.device)
    return labels.masked_fill(place >= numbers.unsqueeze(1), padding), numbers


def _merged(best: Tensor, lengths: Tensor, blank_index: int) -> tuple[Tensor, Tensor]:
    before = torch.nn.functional.pad(best[:, :-1], [1, 0], value=float(blank_index))
    frame = torch.arange(best.shape[1], device=best.device)
    kept = (best != before) & (best != blank_index) & (frame < lengths.unsqueeze(1))
    # a kept label goes to the place counted up to it; what is not kept adds zero somewhere
    place = (kept.long().cumsum(1) - 1).clamp(min=0)
    return torch.zeros_like(best).scatter_add(1, place, best * kept.long()), kept.long().sum(1)


class CTCGreedyDecode(nn.Module):
    """The labels on the best path of each item: repetitions merged, blanks removed.

        labels = merged and without blanks: argmax p(1, c), argmax p(2, c), ..., argmax p(T, c)

    Best path decoding: Graves et al. 2006, section 3.2, https://www.cs.toronto.edu/~graves/icml_2006.pdf.
    Among equal scores the lower class wins.

    Args:
        blank_index: the class of the blank.
        padding: fills the places after the last label of an item.

    The call takes `log_probs` `[B, T, C]` (any class scores) and `input_lens` `[B]`, relative in (0, 1] or
    integers in frames. It returns the labels `[B, T]`, padded, and their number `[B]`, both int64.

    Raises:
        ValueError: the shapes do not match, or a length is out of range.

    Examples:
        >>> import torch
        >>> log_probs = torch.eye(3)[[1, 1, 0, 1, 2]].unsqueeze(0)
        >>> CTCGreedyDecode(blank_index=0)(log_probs, torch.tensor([1.0]))
        (tensor([[1, 1, 2, 0, 0]]), tensor([3]))
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0, padding: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.padding = padding

    def forward(self, log_probs: Tensor, input_lens: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.jit.is_scripting():
            given = {"log_probs": log_probs, "input_lens": input_lens}
            check_inputs(DECODE, given, blank_index=self.blank_index)
        lengths = absolute_length(input_lens, log_probs.shape[1])
        return merged_labels(log_probs.argmax(-1), lengths, self.blank_index, self.padding)
