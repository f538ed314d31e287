"""A transducer's forward recursion, frame by frame, with its state in and out."""

import torch
from torch import Tensor

from .ctc import within, without_largest


def transducer_forward(
    arcs: Tensor, input_lengths: Tensor, target_lengths: Tensor, alpha: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Walk on from where earlier frames have led: the costs `[B]` if this were the end, alpha and offset.

    Args:
        arcs: log-probabilities of the blank and the label that leave each node of the next frames
            `[B, T, U+1, 2]`.
        input_lengths: of these frames `[B]`, int64.
        target_lengths: labels per item `[B]`, int64.
        alpha: `[B, U+1]`, the log-probability of coming to the first frame at each u, without `offset`.
        offset: `[B, 2]`, what all of an item's have in common, as the sum of a number and its rounding.

    The largest of an item's alpha is taken out at every frame, so that no number grows with time, and here
    how the frames are divided among calls changes no bit.
    """
    active = within(input_lengths, arcs.shape[1])
    behind = ~within(target_lengths + 1, arcs.shape[2])
    alpha, high, low = alpha.masked_fill(behind, -torch.inf), offset[:, 0], offset[:, 1]
    for t in range(arcs.shape[1]):
        alpha, high, low = frame_on(alpha, high, low, arcs[:, t], active[:, t], behind)
    return frames_on(alpha, high, low, target_lengths)


def frame_on(
    alpha: Tensor, high: Tensor, low: Tensor, arcs: Tensor, active: Tensor, behind: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One frame, of arcs `[B, U+1, 2]`: labels within it, and the blank that leaves it.

    What emits from each v to each u is a sum of its own, `[B, U+1, U+1]` in 64 bits: the difference of two
    sums has no digits left behind a label that is all but impossible.
    """
    emit = arcs[:, :, 1].double().masked_fill(behind, -torch.inf)
    u = torch.arange(alpha.shape[1], device=alpha.device)
    before = u < u.unsqueeze(1)  # of v, the labels before it
    emitted = emit.unsqueeze(1).masked_fill(before, 0.0).cumsum(2)
    emitted = torch.nn.functional.pad(emitted[:, :, :-1], [1, 0])
    ways = (alpha.double().unsqueeze(2) + emitted).masked_fill(before, -torch.inf)
    reached = ways.logsumexp(1).to(alpha.dtype) + arcs[:, :, 0]
    return without_largest(reached.masked_fill(behind, -torch.inf), alpha, high, low, active)


def frames_on(
    alpha: Tensor, high: Tensor, low: Tensor, target_lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What `transducer_forward` gives of what its frames have led to."""
    ended = alpha.gather(1, target_lengths.unsqueeze(1)).squeeze(1)
    return -(high + (low + ended)), alpha, torch.stack([high, low], 1)
