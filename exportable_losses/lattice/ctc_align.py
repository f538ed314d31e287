"""The best path through CTC's lattice: where each label of a target begins and ends."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import ops
from ..checks import check_choice
from ..contract import Contract, Total
from ..ops.scores import widened
from ..settings import settings_repr
from .ctc import CTC, ctc_lengths
from .priors import check_classes, checked_priors, without_priors
from .wildcard import WILDCARDS, with_wildcard

__all__ = ["CTCAlign"]

Aligned = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

PATH = ("tokens", "starts", "ends", "scores", "path_scores")
CTC_ALIGN = Contract(CTC.inputs, PATH, totals=(Total("path_scores"),))


def sums_by_state(values: Tensor, states: Tensor, number: int) -> Tensor:
    """Add up `values` `[B, T]` over the frames of each of `number` states: `[B, number]`.

    `states` `[B, T]` is int64, -1 where the value does not count.
    """
    place = torch.where(states < 0, number, states)
    sums = torch.zeros(values.shape[0], number + 1, dtype=values.dtype, device=values.device)
    return sums.scatter_add(1, place, values)[:, :-1]


class CTCAlign(nn.Module):
    """The best path of a target through the frames: where each label begins and ends, and its score.

        path = argmax over the paths of the target of  p(1, path(1)) · p(2, path(2)) · ... · p(T, path(T))

    The Viterbi algorithm on the lattice of Graves et al. 2006,
    https://www.cs.toronto.edu/~graves/icml_2006.pdf. Of equally good paths it takes the one whose labels end
    early: traced back from the last frame, staying in a state is preferred to a step from the previous state,
    and that to a skip over a blank. No gradient flows to `log_probs`.

    Args:
        blank_index: the class of the blank.
        wildcard: if not ``none``, the label C in `targets` stands for what a transcript lacks, a word or
            several, and at each frame has the largest of the labels' probabilities (``max``), their
            ``sum``, their ``mean``, or one (``zero``).
        free_ends: the audio may begin before the transcript and go on behind it: of the frames before the
            first label and behind the last, whatever they hold has probability one, as in Cai et al. 2022,
            https://openreview.net/forum?id=0RqDp8FCW5Z.
        log_priors: `[C]`, how probable each class is in general, as logarithms. They are subtracted from
            `log_probs` where paths are compared, which keeps a blank that is everywhere from being preferred:
            Huang et al. 2024, https://arxiv.org/abs/2406.02560. A wildcard has none.

    The call takes what `CTCLoss` takes. It returns:

    - `tokens` `[B, S]`: the targets, -1 beyond the length of an item;
    - `starts` and `ends` `[B, S]`: the first frame of each label and the frame after its last, int64; zero
      beyond the length;
    - `scores` `[B, S]`: the mean log-probability of the label over its frames; zero beyond the length;
    - `path_scores` `[B]`: the log-probability of the whole path, blanks included, less its priors.

    For a target that cannot be aligned, starts and ends are zero and all scores are -inf.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below C (or above it, with a wildcard).

    Examples:
        >>> import torch
        >>> log_probs = (9 * torch.eye(3)[[0, 1, 1, 0, 2]]).log_softmax(-1).unsqueeze(0)
        >>> align = CTCAlign(blank_index=0)
        >>> tokens, starts, ends, *_ = align(log_probs, torch.tensor([[1, 2]]), torch.ones(1), torch.ones(1))
        >>> tokens, starts, ends
        (tensor([[1, 2]]), tensor([[1, 4]]), tensor([[3, 5]]))
    """

    log_priors: Tensor | None

    extra_repr = settings_repr

    def __init__(
        self,
        blank_index: int = 0,
        wildcard: str = "none",
        free_ends: bool = False,
        log_priors: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.wildcard = check_choice("wildcard", wildcard, WILDCARDS)
        self.free_ends = free_ends
        self.register_buffer("log_priors", None if log_priors is None else checked_priors(log_priors))

    def forward(
        self, log_probs: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        blank_index, free_ends, priors = self.blank_index, self.free_ends, self.log_priors
        if priors is not None:
            check_classes(log_probs, priors)
        input_lengths, target_lengths = ctc_lengths(
            log_probs, targets, input_lens, target_lens, blank_index, self.wildcard
        )
        log_probs = with_wildcard(log_probs.detach(), blank_index, self.wildcard)
        compared = log_probs if priors is None else without_priors(log_probs, priors, self.wildcard)
        if torch.jit.is_scripting():
            states, path_scores = ops.ctc_align(
                compared, targets, input_lengths, target_lengths, blank_index, free_ends
            )
        else:
            states, path_scores = torch.ops.exportable_losses.ctc_align(
                compared, targets, input_lengths, target_lengths, blank_index, free_ends
            )
        width = targets.shape[1]
        within = torch.arange(width, device=targets.device) < target_lengths.unsqueeze(1)
        tokens = torch.where(within, targets.long(), -1)
        # a path goes through the states in order: the frames of those before add up to where one begins
        frames = sums_by_state(torch.ones_like(states), states, 2 * width + 1)
        ends = frames.cumsum(1)[:, 1::2].masked_fill(~within, 0)
        starts = ends - frames[:, 1::2]
        label = torch.nn.functional.pad(tokens, [0, 1]).gather(1, states.clamp(min=0) // 2).clamp(min=0)
        emitted = widened(log_probs.gather(2, label.unsqueeze(2)).squeeze(2))
        sums = sums_by_state(emitted, states, 2 * width + 1)[:, 1::2]
        scores = sums / frames[:, 1::2].to(sums.dtype)
        scores = torch.where(path_scores.isneginf().unsqueeze(1), -torch.inf, scores)
        return tokens, starts, ends, scores.masked_fill(~within, 0.0), path_scores
