"""Edit distance and error rates of token sequences."""

import torch
from torch import Tensor, nn

from . import ops
from .checks import check_inputs
from .contract import Contract, Input, Total
from .lengths import absolute_length
from .masking import as_floating

__all__ = ["EditDistance", "TokenErrorRate"]


def _inputs(nonempty: bool) -> tuple[Input, ...]:
    return (
        Input("predictions", "B K", "token", lengths="prediction_lens"),
        Input("targets", "B S", "token", lengths="target_lens", nonempty=nonempty),
        Input("prediction_lens", "B", "relative_length_or_zero", of="K"),
        Input("target_lens", "B", "relative_length_or_zero", of="S"),
    )


_COUNTS = ("distance", "insertions", "deletions", "substitutions", "target_lengths")
EDITS = Contract(_inputs(nonempty=False), _COUNTS, totals=tuple(Total(name, "sum") for name in _COUNTS))
_SUMS = ("errors", "insertions", "deletions", "substitutions", "tokens")
RATE = Contract(
    _inputs(nonempty=True),
    ("rate", *_SUMS),
    totals=(Total("rate", "ratio", "errors tokens"), *(Total(name, "sum") for name in _SUMS)),
)


def edits_and_lengths(
    predictions: Tensor, targets: Tensor, prediction_lens: Tensor, target_lens: Tensor, nonempty: bool
) -> tuple[Tensor, Tensor]:
    """Insertions, deletions and substitutions `[B, 3]`, and the tokens of each target `[B]`, int64.

    An eager call checks the inputs; `nonempty` says whether some target must have a token.
    """
    if not torch.jit.is_scripting():
        given = {
            "predictions": predictions,
            "targets": targets,
            "prediction_lens": prediction_lens,
            "target_lens": target_lens,
        }
        check_inputs(RATE if nonempty else EDITS, given)
    prediction_lengths = absolute_length(prediction_lens, predictions.shape[1], least=0)
    target_lengths = absolute_length(target_lens, targets.shape[1], least=0)
    if torch.jit.is_scripting():
        counts = ops.edit_counts(predictions, targets, prediction_lengths, target_lengths)
    else:
        counts = torch.ops.exportable_losses.edit_counts(
            predictions, targets, prediction_lengths, target_lengths
        )
    return counts, target_lengths


class EditDistance(nn.Module):
    """The fewest insertions, deletions and substitutions that turn each target into its prediction.

        d(i, j) = min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (0 if the tokens are equal, else 1))

    Levenshtein distance: Wagner and Fischer 1974, "The String-to-String Correction Problem",
    https://doi.org/10.1145/321796.321811. Of several ways with as few edits, the counts are those of one with
    the most substitutions. A token that only the prediction has is an insertion, one that only the target has
    is a deletion.

    The call takes `predictions` `[B, K]` and `targets` `[B, S]`, any integers (padding is not read), and the
    lengths `prediction_lens` and `target_lens` `[B]`, relative in [0, 1] or integers in tokens. It returns
    the distances, insertions, deletions, substitutions and numbers of target tokens, int64 `[B]` each, so
    that sums over a corpus are exact.

    Raises:
        ValueError: the shapes do not match, or a length is out of range.

    Examples:
        >>> import torch
        >>> predictions, targets = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 3, 5]])
        >>> EditDistance()(predictions, targets, torch.ones(1), torch.ones(1))
        (tensor([2]), tensor([1]), tensor([0]), tensor([1]), tensor([3]))
    """

    def forward(
        self, predictions: Tensor, targets: Tensor, prediction_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        counts, lengths = edits_and_lengths(
            predictions, targets, prediction_lens, target_lens, nonempty=False
        )
        return counts.sum(1), counts[:, 0].clone(), counts[:, 1].clone(), counts[:, 2].clone(), lengths


class TokenErrorRate(nn.Module):
    """The edits of a batch divided by the tokens of its targets: with words as tokens, the word error rate.

        rate = sum of (insertions + deletions + substitutions) / sum of target tokens

    `EditDistance` says what is counted, and has the reference: Wagner and Fischer 1974,
    https://doi.org/10.1145/321796.321811. The counts are outputs, so that the rate of a corpus in batches is
    exact: add up `errors` and `tokens` and divide once.

    The call takes what `EditDistance` takes, with at least one token in some target. It returns the rate, in
    the dtype of `target_lens` (float32 if those are integers), and as int64 the errors, insertions,
    deletions, substitutions and target tokens, all scalars. On a GPU, where lengths are not checked, the rate
    of a batch without tokens is infinite, or NaN if nothing was predicted either.

    Raises:
        ValueError: the shapes do not match, a length is out of range, or no target has a token.

    Examples:
        >>> import torch
        >>> predictions, targets = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 3, 5]])
        >>> rate, errors, *_, tokens = TokenErrorRate()(predictions, targets, torch.ones(1), torch.ones(1))
        >>> rate, errors, tokens
        (tensor(0.6667), tensor(2), tensor(3))
    """

    def forward(
        self, predictions: Tensor, targets: Tensor, prediction_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        counts, lengths = edits_and_lengths(predictions, targets, prediction_lens, target_lens, nonempty=True)
        each = counts.sum(0)
        errors, tokens = each.sum(0), lengths.sum(0)
        lens = as_floating(target_lens)
        rate = errors.to(lens.dtype) / tokens.to(lens.dtype)
        return rate, errors, each[0].clone(), each[1].clone(), each[2].clone(), tokens
