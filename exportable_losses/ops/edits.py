"""The edits between sequences of tokens by Wagner and Fischer's programme (1974), in plain torch."""

import torch
from torch import Tensor


def edit_counts(
    predictions: Tensor, targets: Tensor, prediction_lengths: Tensor, target_lengths: Tensor
) -> Tensor:
    """For each item the fewest insertions, deletions and substitutions that make a target its prediction.

    Among the ways with the fewest edits it counts one with the most substitutions: a substitution
    costs W, a gap W + 1, and W is more than there can be gaps. The least cost then holds both the
    number of edits (its quotient by W) and that of gaps (the remainder).

    Args:
        predictions: integers `[B, K]`.
        targets: integers `[B, S]`.
        prediction_lengths: tokens per prediction `[B]`, int64.
        target_lengths: tokens per target `[B]`, int64.

    Returns:
        int64 `[B, 3]`: insertions, deletions, substitutions.
    """
    weight = predictions.shape[1] + targets.shape[1] + 1
    # what the first j tokens of the target cost as deletions
    deleted = (weight + 1) * torch.arange(targets.shape[1] + 1, device=targets.device)
    row = deleted.unsqueeze(0).repeat(targets.shape[0], 1)
    for i in range(predictions.shape[1]):
        inserted = row + (weight + 1)
        kept = row[:, :-1] + weight * (predictions[:, i : i + 1] != targets).long()
        cost = torch.cat([inserted[:, :1], torch.minimum(inserted[:, 1:], kept)], 1)
        # then any number of deletions: a running minimum once what they cost is taken off
        cost = (cost - deleted).cummin(1)[0] + deleted
        row = torch.where((i < prediction_lengths).unsqueeze(1), cost, row)
    cost = row.gather(1, target_lengths.unsqueeze(1)).squeeze(1)
    return counts_of(cost, weight, prediction_lengths - target_lengths)


def counts_of(cost: Tensor, weight: int, longer: Tensor) -> Tensor:
    """What `edit_counts` gives, of the least costs `[B]` and by how much predictions are longer `[B]`."""
    edits = cost // weight
    gaps = cost - edits * weight
    return torch.stack([(gaps + longer) // 2, (gaps - longer) // 2, edits - gaps], 1)
