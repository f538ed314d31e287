"""Metrics of verification: how well scores separate target trials from others."""

import torch
from torch import Tensor, nn

from .checks import check_inputs
from .contract import Contract, Input, Total
from .ops.scores import widened
from .settings import settings_repr

__all__ = ["EqualErrorRate", "MinDCF"]

_SCORES = (
    Input("positive_scores", "P", nonempty=True),
    Input("negative_scores", "Q", nonempty=True),
)
EER = Contract(_SCORES, ("eer", "threshold"), totals=(Total("eer", "whole"), Total("threshold", "whole")))
MIN_DCF = Contract(_SCORES, ("min_dcf",), totals=(Total("min_dcf", "whole"),))


def operating_points(
    positive_scores: Tensor, negative_scores: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every threshold there is and what is accepted there, from the strictest on.

    Returns:
        The scores in descending order `[P + Q]`, the number of positives and of negatives among
        those up to each (int64), and whether each is the last of equal scores: only there does a
        threshold cut.
    """
    scores = torch.cat([widened(positive_scores), widened(negative_scores)]).detach()
    scores, order = scores.sort(descending=True)
    positives = (order < positive_scores.shape[0]).long().cumsum(0)
    negatives = (order >= positive_scores.shape[0]).long().cumsum(0)
    last = torch.cat([scores[1:] != scores[:-1], torch.ones_like(order[:1]) == 1])
    return scores, positives, negatives, last


def _or_nan(value: Tensor, scores: Tensor) -> Tensor:
    """`value`, or a NaN where a score is one: it has no place in the order."""
    return value.masked_fill(scores.isnan().any(), float("nan"))


class EqualErrorRate(nn.Module):
    """The error rate at the threshold where misses and false alarms are equally frequent.

        eer = miss rate(threshold) = false alarm rate(threshold)

    Exact: the point where the line through the points of the ROC, one for each distinct score, crosses
    `miss rate = false alarm rate`. SpeechBrain's is `speechbrain.utils.metric_stats.EER`.

    The call takes `positive_scores` `[P]` of target trials and `negative_scores` `[Q]` of the others, at
    least one of each. It returns two scalars, the rate and a threshold: the highest score that, if every
    score from it on is accepted, misses no more often than it raises false alarms. No gradient flows.

    Raises:
        ValueError: there are no positive or no negative scores.

    Examples:
        >>> import torch
        >>> eer, threshold = EqualErrorRate()(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0.5, 0.2, 0.1]))
        >>> eer, threshold
        (tensor(0.3333), tensor(0.5000))
    """

    def forward(self, positive_scores: Tensor, negative_scores: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.jit.is_scripting():
            check_inputs(EER, {"positive_scores": positive_scores, "negative_scores": negative_scores})
        scores, hits, alarms, last = operating_points(positive_scores, negative_scores)
        all_hits, all_alarms = hits[-1], alarms[-1]
        # whole numbers: the miss rate less that of false alarms, times P and Q. It falls from point to point
        excess = (all_hits - hits) * all_alarms - alarms * all_hits
        above, below = last & (excess > 0), last & (excess <= 0)
        dtype = scores.dtype
        start = alarms.masked_fill(~above, 0).amax(0)
        start_excess = (all_hits - hits.masked_fill(~above, 0).amax(0)) * all_alarms - start * all_hits
        most = 1 << 62
        end = alarms.masked_fill(~below, most).amin(0)
        end_excess = (all_hits - hits.masked_fill(~below, most).amin(0)) * all_alarms - end * all_hits
        share = start_excess.to(dtype) / (start_excess - end_excess).to(dtype)
        rate = (start.to(dtype) + share * (end - start).to(dtype)) / all_alarms.to(dtype)
        threshold = scores.masked_fill(~below, float("-inf")).amax(0)
        return _or_nan(rate, scores), _or_nan(threshold, scores)


class MinDCF(nn.Module):
    """The lowest detection cost over all thresholds.

        min_dcf = min over thresholds of  c_miss · p_target · miss rate
                                        + c_fa · (1 - p_target) · false alarm rate

    The cost of NIST's speaker recognition evaluations. Exact: every distinct score is tried, and so are
    accepting all and accepting none. SpeechBrain's is `speechbrain.utils.metric_stats.minDCF`.

    Args:
        c_miss: the cost of a positive that is rejected.
        c_fa: the cost of a negative that is accepted.
        p_target: the prior probability of a positive, in (0, 1).
        normalize: divide by the cost of accepting all or accepting none, whichever is lower, as NIST does;
            off by default, as in SpeechBrain.

    The call takes `positive_scores` `[P]` of target trials and `negative_scores` `[Q]` of the others, at
    least one of each. It returns a scalar, through which no gradient flows.

    Raises:
        ValueError: a setting is out of range, or there are no positive or no negative scores.

    Examples:
        >>> import torch
        >>> MinDCF(p_target=0.5)(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0.5, 0.2, 0.1]))
        tensor(0.1667)
    """

    extra_repr = settings_repr

    def __init__(
        self, c_miss: float = 1.0, c_fa: float = 1.0, p_target: float = 0.01, normalize: bool = False
    ) -> None:
        super().__init__()
        for name, cost in (("c_miss", c_miss), ("c_fa", c_fa)):
            if not 0 < cost < float("inf"):
                raise ValueError(f"{name}: got {cost}, expected a positive cost")
        if not 0 < p_target < 1:
            raise ValueError(f"p_target: got {p_target}, expected a probability in (0, 1)")
        self.c_miss = c_miss
        self.c_fa = c_fa
        self.p_target = p_target
        self.normalize = normalize

    def forward(self, positive_scores: Tensor, negative_scores: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            check_inputs(MIN_DCF, {"positive_scores": positive_scores, "negative_scores": negative_scores})
        scores, hits, alarms, last = operating_points(positive_scores, negative_scores)
        dtype = scores.dtype
        miss_rate = (hits[-1] - hits).to(dtype) / hits[-1].to(dtype)
        alarm_rate = alarms.to(dtype) / alarms[-1].to(dtype)
        reject_all, accept_all = self.c_miss * self.p_target, self.c_fa * (1 - self.p_target)
        cost = (reject_all * miss_rate + accept_all * alarm_rate).masked_fill(~last, float("inf"))
        least = cost.amin(0).clamp(max=reject_all)
        if self.normalize:
            least = least / min(reject_all, accept_all)
        return _or_nan(least, scores)
