"""Autoencoder losses whose every term is an output."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .checks import check_choice, check_inputs
from .contract import Contract, Input, Total
from .lengths import mask_of, refuse_absolute, zero_behind
from .masking import LENGTH, reduce_masked
from .ops.scores import widened
from .settings import settings_repr

__all__ = [
    "AutoencoderLoss",
    "AutoencoderLossDetails",
    "VariationalAutoencoderLoss",
    "VariationalAutoencoderLossDetails",
]

_BY_FRAME = (("len_dim", 1),)
AUTOENCODER = Contract(
    (Input("rec", "B T *"), Input("targets", "B T *"), LENGTH),
    ("loss", "rec_loss"),
    ("rec", "targets"),
    totals=tuple(Total(name, by="T *", only=_BY_FRAME) for name in ("loss", "rec_loss")),
)
VARIATIONAL = Contract(
    (
        Input("rec", "B T *"),
        Input("mean", "B L Z?"),
        Input("log_var", "B L Z?"),
        Input("targets", "B T *"),
        replace(LENGTH, of="T L"),
    ),
    ("loss", "rec_loss", "dist_loss", "weighted_dist_loss"),
    ("rec", "mean", "log_var", "targets"),
    totals=(
        Total("loss", "plus", "rec_loss weighted_dist_loss", only=_BY_FRAME),
        Total("rec_loss", by="T *", only=_BY_FRAME),
        Total("dist_loss", by="L Z", only=_BY_FRAME),
        Total("weighted_dist_loss", by="L Z", only=_BY_FRAME),
    ),
)


class AutoencoderLossDetails(NamedTuple):
    """What `AutoencoderLoss` returns: `loss` and `rec_loss`, the same number."""

    loss: Tensor
    rec_loss: Tensor


class VariationalAutoencoderLossDetails(NamedTuple):
    """What `VariationalAutoencoderLoss` returns: the loss and its terms."""

    loss: Tensor
    rec_loss: Tensor
    dist_loss: Tensor
    weighted_dist_loss: Tensor


def reduce_details(loss: Tensor, mask: Tensor | None, len_dim: int, reduction: str) -> Tensor:
    """Reduce over the frames along `len_dim` that are in `mask`."""
    return reduce_masked(loss.movedim(len_dim, 1), mask, reduction)


class AutoencoderLoss(nn.Module):
    """The reconstruction loss of an autoencoder.

        loss = rec_loss = sum of (rec - target)² / B,  over the elements within length

    Args:
        rec_loss: a module that takes `targets` and `rec` and reduces nothing; by default the squared error.
        len_dim: the dimension that `length` counts.
        reduction: as in `l1_loss`; the formula has the default, ``batchmean``.

    The call takes `rec` and `targets` `[B, T, *]` and, optionally, `length` `[B]`, relative in (0, 1] or
    integers in frames. It returns `AutoencoderLossDetails`.

    Examples:
        >>> import torch
        >>> loss = AutoencoderLoss(reduction="mean")
        >>> loss(torch.tensor([[0.8, 1.0]]), torch.tensor([[0.9, 1.1]])).loss
        tensor(0.0100)
    """

    extra_repr = settings_repr

    def __init__(
        self, rec_loss: nn.Module | None = None, len_dim: int = 1, reduction: str = "batchmean"
    ) -> None:
        super().__init__()
        self.rec_loss = nn.MSELoss(reduction="none") if rec_loss is None else rec_loss
        self.len_dim = len_dim
        self.reduction = check_choice("reduction", reduction)

    def forward(self, rec: Tensor, targets: Tensor, length: Tensor | None = None) -> AutoencoderLossDetails:
        if not torch.jit.is_scripting():
            given = {"rec": rec, "targets": targets, "length": length}
            check_inputs(AUTOENCODER, given, len_dim=self.len_dim)
        rec, targets = widened(rec), widened(targets)
        mask = mask_of(rec, length, self.len_dim)
        rec, targets = zero_behind(rec, mask, self.len_dim), zero_behind(targets, mask, self.len_dim)
        loss = reduce_details(self.rec_loss(targets, rec), mask, self.len_dim, self.reduction)
        return AutoencoderLossDetails(loss, loss)


class VariationalAutoencoderLoss(nn.Module):
    """The negative evidence lower bound of a variational autoencoder.

        loss = rec_loss + dist_loss_weight · dist_loss
        rec_loss = sum of (rec - target)² / B
        dist_loss = -0.5 · sum of (1 + log_var - mean² - exp(log_var)) / B

    Kingma and Welling 2013, "Auto-Encoding Variational Bayes", equation 10, https://arxiv.org/abs/1312.6114,
    with a weight on the divergence from the prior.

    Args:
        rec_loss: a module that takes `targets` and `rec` and reduces nothing; by default the squared error.
        len_dim: the dimension that `length` counts.
        dist_loss_weight: the weight of the divergence.
        reduction: as in `l1_loss`; the formula has the default, ``batchmean``.

    The call takes `rec` `[B, T, *]`, `mean` and `log_var` `[B, L, Z]` or `[B, L]`, `targets` `[B, T, *]` and,
    optionally, `length` `[B]`: relative in (0, 1], or integers in frames, for which T and L must be equal. It
    returns `VariationalAutoencoderLossDetails`.

    Examples:
        >>> import torch
        >>> loss = VariationalAutoencoderLoss(dist_loss_weight=0.5, reduction="mean")
        >>> x = torch.tensor([[0.8, 1.0]])
        >>> loss(x, torch.zeros(1, 2), torch.zeros(1, 2), x).loss
        tensor(0.)
    """

    extra_repr = settings_repr

    def __init__(
        self,
        rec_loss: nn.Module | None = None,
        len_dim: int = 1,
        dist_loss_weight: float = 0.001,
        reduction: str = "batchmean",
    ) -> None:
        super().__init__()
        self.rec_loss = nn.MSELoss(reduction="none") if rec_loss is None else rec_loss
        self.len_dim = len_dim
        self.dist_loss_weight = dist_loss_weight
        self.reduction = check_choice("reduction", reduction)

    def forward(
        self, rec: Tensor, mean: Tensor, log_var: Tensor, targets: Tensor, length: Tensor | None = None
    ) -> VariationalAutoencoderLossDetails:
        if not torch.jit.is_scripting():
            given = {"rec": rec, "mean": mean, "log_var": log_var, "targets": targets, "length": length}
            check_inputs(VARIATIONAL, given, len_dim=self.len_dim)
        refuse_absolute(length, rec, mean, self.len_dim)
        rec, mean, log_var, targets = widened(rec), widened(mean), widened(log_var), widened(targets)
        mask = mask_of(rec, length, self.len_dim)
        rec, targets = zero_behind(rec, mask, self.len_dim), zero_behind(targets, mask, self.len_dim)
        rec_loss = reduce_details(self.rec_loss(targets, rec), mask, self.len_dim, self.reduction)
        mask = mask_of(mean, length, self.len_dim)
        mean, log_var = zero_behind(mean, mask, self.len_dim), zero_behind(log_var, mask, self.len_dim)
        divergence = -0.5 * (1 + log_var - mean * mean - log_var.exp())
        dist_loss = reduce_details(divergence, mask, self.len_dim, self.reduction)
        weighted = self.dist_loss_weight * dist_loss
        return VariationalAutoencoderLossDetails(rec_loss + weighted, rec_loss, dist_loss, weighted)
