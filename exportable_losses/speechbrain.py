"""A drop-in for `speechbrain.nnet.losses`: its names, its arguments, and what it returns.

The functions are `exportable_losses.functional`'s. The classes whose forward differs from the
modules of this package (SpeechBrain takes the predictions of an autoencoder as one tuple, and
the reduction with each call) are wrapped here; the others are the modules themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import autoencoder as _autoencoder
from . import separation as _separation
from . import sharpness as _sharpness
from .autoencoder import AutoencoderLossDetails, VariationalAutoencoderLossDetails
from .checks import check_inputs
from .contrastive import ContrastiveLoss
from .functional import (
    bce_loss,
    cal_si_snr,
    cal_snr,
    ce_kd,
    classification_error,
    compute_length_mask,
    compute_masked_loss,
    ctc_loss,
    ctc_loss_kd,
    distance_diff_loss,
    get_mask,
    get_si_snr_with_pitwrapper,
    get_snr_with_pitwrapper,
    kldiv_loss,
    l1_loss,
    mse_loss,
    nll_loss,
    nll_loss_kd,
    reduce_loss,
    transducer_loss,
    truncate,
)
from .margin import AdditiveAngularMargin, AngularMargin, LogSoftmaxWrapper
from .ops.scores import widened
from .sharpness import Laplacian

__all__ = [
    "AdditiveAngularMargin",
    "AngularMargin",
    "AutoencoderLoss",
    "AutoencoderLossDetails",
    "ContrastiveLoss",
    "Laplacian",
    "LaplacianVarianceLoss",
    "LogSoftmaxWrapper",
    "PitWrapper",
    "VariationalAutoencoderLoss",
    "VariationalAutoencoderLossDetails",
    "bce_loss",
    "cal_si_snr",
    "cal_snr",
    "ce_kd",
    "classification_error",
    "compute_length_mask",
    "compute_masked_loss",
    "ctc_loss",
    "ctc_loss_kd",
    "distance_diff_loss",
    "get_mask",
    "get_si_snr_with_pitwrapper",
    "get_snr_with_pitwrapper",
    "kldiv_loss",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "nll_loss_kd",
    "reduce_loss",
    "transducer_loss",
    "truncate",
]


class PitWrapper(_separation.PITLoss):
    """`PITLoss` that returns its permutations as tuples and takes any function as its base loss.

    Args:
        base_loss: a function of one item's predictions and targets `[*, S, S]` that reduces nothing. Time
            comes first, as `cal_si_snr` expects.

    Examples:
        >>> import torch
        >>> targets = torch.arange(12.0).reshape(1, 4, 3)
        >>> wrapper = PitWrapper(torch.nn.MSELoss(reduction="none"))
        >>> loss, permutations = wrapper(targets[..., [2, 0, 1]], targets)
        >>> permutations
        [(1, 2, 0)]
    """

    base_loss: Any  # a function will do

    def __init__(self, base_loss: Any) -> None:
        super().__init__(base_loss)

    def forward(self, preds: Tensor, targets: Tensor) -> tuple[Tensor, list[tuple[int, ...]]]:  # type: ignore[override]
        check_inputs(_separation.PIT, {"preds": preds, "targets": targets})
        preds, targets = widened(preds), widened(targets)
        items = [self.base_loss(*_separation.pairs(*item)) for item in zip(preds, targets, strict=True)]
        costs = torch.stack([loss.reshape(-1, *loss.shape[-2:]).mean(0) for loss in items])
        loss, permutations = _separation.best_assignment(costs)
        return loss, [tuple(p) for p in permutations.tolist()]

    def reorder_tensor(self, tensor: Tensor, p: Sequence[tuple[int, ...]]) -> Tensor:
        """`tensor` `[B, *, S]` with each item's sources in the order of its permutation."""
        order = torch.tensor(p, device=tensor.device)
        order = order.reshape(order.shape[0], *(1 for _ in tensor.shape[2:]), order.shape[1])
        return tensor.gather(-1, order.expand_as(tensor))


class AutoencoderLoss(nn.Module):
    """`exportable_losses.AutoencoderLoss` with SpeechBrain's call: a tuple with a field `rec`.

    Args:
        rec_loss: takes targets, predictions and `reduction="none"`; `mse_loss` without one.
        len_dim: the dimension that `length` counts.
    """

    def __init__(self, rec_loss: Callable[..., Tensor] | None = None, len_dim: int = 1) -> None:
        super().__init__()
        self.rec_loss = mse_loss if rec_loss is None else rec_loss
        self.len_dim = len_dim

    def forward(
        self, predictions: Any, targets: Tensor, length: Tensor | None = None, reduction: str = "batchmean"
    ) -> Tensor:
        """The loss alone."""
        return self.details(predictions, targets, length, reduction).loss

    def details(
        self, predictions: Any, targets: Tensor, length: Tensor | None = None, reduction: str = "batchmean"
    ) -> AutoencoderLossDetails:
        """The loss with its terms."""
        module = _autoencoder.AutoencoderLoss(_Unreduced(self.rec_loss), self.len_dim, reduction)
        return module(predictions.rec, targets, length)


class VariationalAutoencoderLoss(nn.Module):
    """`exportable_losses.VariationalAutoencoderLoss` with SpeechBrain's call.

    Args:
        rec_loss: takes targets, predictions and `reduction="none"`; `mse_loss` without one.
        len_dim: the dimension that `length` counts.
        dist_loss_weight: the weight of the divergence.
    """

    def __init__(
        self,
        rec_loss: Callable[..., Tensor] | None = None,
        len_dim: int = 1,
        dist_loss_weight: float = 0.001,
    ) -> None:
        super().__init__()
        self.rec_loss = mse_loss if rec_loss is None else rec_loss
        self.len_dim = len_dim
        self.dist_loss_weight = dist_loss_weight

    def forward(
        self, predictions: Any, targets: Tensor, length: Tensor | None = None, reduction: str = "batchmean"
    ) -> Tensor:
        """The loss alone."""
        return self.details(predictions, targets, length, reduction).loss

    def details(
        self, predictions: Any, targets: Tensor, length: Tensor | None = None, reduction: str = "batchmean"
    ) -> VariationalAutoencoderLossDetails:
        """The loss with its terms; `predictions` are SpeechBrain's six, or rec, mean and log_var."""
        rec, mean, log_var = predictions if len(predictions) == 3 else (predictions[i] for i in (0, 2, 3))
        module = _autoencoder.VariationalAutoencoderLoss(
            _Unreduced(self.rec_loss), self.len_dim, self.dist_loss_weight, reduction
        )
        return module(rec, mean, log_var, targets, length)


class LaplacianVarianceLoss(nn.Module):
    """`exportable_losses.LaplacianVarianceLoss` with the reduction in the call.

    Args:
        kernel_size: the side of the Laplacian's kernel.
        len_dim: the dimension that `length` counts.
    """

    def __init__(self, kernel_size: int = 3, len_dim: int = 1) -> None:
        super().__init__()
        self.len_dim = len_dim
        self.laplacian = Laplacian(kernel_size)

    def forward(
        self, predictions: Tensor, length: Tensor | None = None, reduction: str | None = None
    ) -> Tensor:
        """The loss; ``batch`` gives one per item, anything else one in all."""
        reduction = "batch" if reduction == "batch" else "mean"
        module = _sharpness.LaplacianVarianceLoss(self.laplacian.kernel_size, self.len_dim, reduction)
        return module(predictions, length)


class _Unreduced(nn.Module):
    def __init__(self, rec_loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.rec_loss = rec_loss

    def forward(self, targets: Tensor, rec: Tensor) -> Tensor:
        return self.rec_loss(targets, rec, reduction="none")
