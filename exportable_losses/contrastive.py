"""The contrastive loss of wav2vec 2.0."""

import torch
from torch import Tensor, nn

from .checks import check_inputs
from .contract import Contract, Input, Total
from .ops.scores import widened
from .settings import settings_repr

__all__ = ["ContrastiveLoss"]

CONTRASTIVE = Contract(
    (Input("x", "B T C"), Input("y", "B T C"), Input("negs", "N B T C")),
    ("loss", "accuracy"),
    ("x", "y", "negs"),
    totals=(Total("loss", "sum"), Total("accuracy", by="T")),
)


class ContrastiveLoss(nn.Module):
    """Tell the true quantised frame from distractors by cosine similarity.

        loss = -sum over frames of  ln (exp(cos(x, y) / k) / sum over z in y and negs of exp(cos(x, z) / k))

    k is `logit_temp`: Baevski et al. 2020, "wav2vec 2.0", equation 3, https://arxiv.org/abs/2006.11477. A
    distractor that equals the true frame is left out.

    Args:
        logit_temp: the temperature that divides the similarities.

    The call takes `x`, context vectors `[B, T, C]`, `y`, true vectors `[B, T, C]`, and `negs`, distractors
    `[N, B, T, C]`. It returns the loss and the accuracy (the share of frames whose true vector is the most
    similar), both scalars.

    Examples:
        >>> import torch
        >>> x = torch.eye(3).unsqueeze(0)
        >>> loss, accuracy = ContrastiveLoss(0.1)(x, x, x.roll(1, 1).unsqueeze(0))
        >>> accuracy
        tensor(1.)
    """

    extra_repr = settings_repr

    def __init__(self, logit_temp: float = 0.1) -> None:
        super().__init__()
        self.logit_temp = logit_temp

    def forward(self, x: Tensor, y: Tensor, negs: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.jit.is_scripting():
            check_inputs(CONTRASTIVE, {"x": x, "y": y, "negs": negs})
        x, y, negs = widened(x), widened(y), widened(negs)
        positive = torch.cosine_similarity(x, y, dim=-1).unsqueeze(0)
        negatives = torch.cosine_similarity(x.unsqueeze(0), negs, dim=-1)
        negatives = negatives.masked_fill((y == negs).all(-1), float("-inf"))
        similarities = torch.cat([positive, negatives]) / self.logit_temp
        loss = -similarities.log_softmax(0)[0].sum()
        # argmax takes the first of equals, so the positive wins a tie
        accuracy = (similarities.argmax(0) == 0).to(x.dtype).mean()
        return loss, accuracy
