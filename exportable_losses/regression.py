"""Regression losses over padded sequences."""

import torch
from torch import Tensor, nn

from .checks import check_choice, check_inputs
from .contract import Contract, Input, Total
from .lengths import mask_of, zero_behind
from .masking import LENGTH, as_floating, reduce_masked, truncate
from .settings import settings_repr

__all__ = ["DistanceDiffLoss", "L1Loss", "MSELoss"]

PAIR = Contract(
    (Input("predictions", "B T *"), Input("targets", "B N *"), LENGTH),
    differentiable=("predictions", "targets"),
    aligned=("T", "N"),
    totals=(Total("loss", by="T *"),),
)
DISTANCE = Contract(
    (Input("predictions", "B T", "probability"), Input("targets", "B", "position"), LENGTH),
    differentiable=("predictions",),
    totals=(Total("loss", by="T"),),
)


def _aligned(
    predictions: Tensor, targets: Tensor, length: Tensor | None, allowed_len_diff: int
) -> tuple[Tensor, Tensor]:
    if not torch.jit.is_scripting():
        given = {"predictions": predictions, "targets": targets, "length": length}
        check_inputs(PAIR, given, allowed_len_diff=allowed_len_diff)
    predictions, targets = truncate(predictions, targets, allowed_len_diff)
    return as_floating(predictions), as_floating(targets)


def l1_loss(
    predictions: Tensor,
    targets: Tensor,
    length: Tensor | None = None,
    allowed_len_diff: int = 3,
    reduction: str = "mean",
) -> Tensor:
    """The mean absolute error over the frames within `length`.

        loss = sum of |prediction - target| / n,  over the n elements within length

    Args:
        predictions: `[B, T, *]`.
        targets: `[B, N, *]`; the longer of the two is cut.
        length: lengths `[B]`, relative in (0, 1] or integers in frames; every frame counts without it.
        allowed_len_diff: the largest difference between T and N that is tolerated, in frames.
        reduction: ``mean`` over the elements that count, ``batch`` the same for each item, ``batchmean`` for
            the sum divided by B; ``sum`` and ``none`` return the masked errors themselves, as SpeechBrain
            does.

    Returns:
        A scalar, `[B]` for ``batch``, `[B, min(T, N), *]` for ``sum`` and ``none``.

    Raises:
        ValueError: the shapes do not match, or a length is out of range.

    Examples:
        >>> import torch
        >>> l1_loss(torch.tensor([[0.9, 0.1, 0.1, 0.9]]), torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
        tensor(0.1000)
    """
    predictions, targets = _aligned(predictions, targets, length, allowed_len_diff)
    mask = mask_of(predictions, length)
    return reduce_masked(zero_behind(predictions - targets, mask).abs(), mask, reduction)


def mse_loss(
    predictions: Tensor,
    targets: Tensor,
    length: Tensor | None = None,
    allowed_len_diff: int = 3,
    reduction: str = "mean",
) -> Tensor:
    """The mean squared error over the frames within `length`.

        loss = sum of (prediction - target)² / n,  over the n elements within length

    Arguments, result and errors are those of `l1_loss`.

    Examples:
        >>> import torch
        >>> mse_loss(torch.tensor([[0.9, 0.1, 0.1, 0.9]]), torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
        tensor(0.0100)
    """
    predictions, targets = _aligned(predictions, targets, length, allowed_len_diff)
    mask = mask_of(predictions, length)
    error = zero_behind(predictions - targets, mask)
    return reduce_masked(error * error, mask, reduction)


def distance_diff_loss(
    predictions: Tensor,
    targets: Tensor,
    length: Tensor | None = None,
    beta: float = 0.25,
    max_weight: float = 100.0,
    reduction: str = "mean",
) -> Tensor:
    """Penalise probability mass by its distance from the true position.

        loss(i) = p(i) · min(exp(beta · |i - target|) - 1, max_weight)

    For a model that predicts a distribution over an interval scale, such as the length of a sequence.

    Args:
        predictions: `[B, T]`, a probability or weight for each position.
        targets: the true positions `[B]`.
        length: lengths `[B]`, relative in (0, 1] or integers; every position counts without it.
        beta: how fast the penalty grows with distance, per position.
        max_weight: the largest weight.
        reduction: see `l1_loss`.

    Returns:
        A scalar, `[B]` for ``batch``, `[B, T, 1]` for ``sum`` and ``none``.

    Raises:
        ValueError: the shapes do not match, or a length is out of range.

    Examples:
        >>> import torch
        >>> distance_diff_loss(torch.tensor([[0.25, 0.5, 0.25, 0.0]]), torch.tensor([1.0]))
        tensor(0.0355)
    """
    if not torch.jit.is_scripting():
        check_inputs(DISTANCE, {"predictions": predictions, "targets": targets, "length": length})
    predictions = as_floating(predictions)
    positions = torch.arange(predictions.shape[1], device=predictions.device).to(predictions.dtype)
    distance = (positions.unsqueeze(0) - targets.to(predictions.dtype).unsqueeze(1)).abs()
    weight = ((beta * distance).exp() - 1.0).clamp(max=max_weight)
    return reduce_masked((weight * predictions).unsqueeze(-1), mask_of(predictions, length), reduction)


class L1Loss(nn.Module):
    """`l1_loss` as a module: settings go here, tensors to the call."""

    extra_repr = settings_repr

    def __init__(self, allowed_len_diff: int = 3, reduction: str = "mean") -> None:
        super().__init__()
        self.allowed_len_diff = allowed_len_diff
        self.reduction = check_choice("reduction", reduction)

    def forward(self, predictions: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        return l1_loss(predictions, targets, length, self.allowed_len_diff, self.reduction)


class MSELoss(nn.Module):
    """`mse_loss` as a module: settings go here, tensors to the call."""

    extra_repr = settings_repr

    def __init__(self, allowed_len_diff: int = 3, reduction: str = "mean") -> None:
        super().__init__()
        self.allowed_len_diff = allowed_len_diff
        self.reduction = check_choice("reduction", reduction)

    def forward(self, predictions: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        return mse_loss(predictions, targets, length, self.allowed_len_diff, self.reduction)


class DistanceDiffLoss(nn.Module):
    """`distance_diff_loss` as a module: settings go here, tensors to the call."""

    extra_repr = settings_repr

    def __init__(self, beta: float = 0.25, max_weight: float = 100.0, reduction: str = "mean") -> None:
        super().__init__()
        self.beta = beta
        self.max_weight = max_weight
        self.reduction = check_choice("reduction", reduction)

    def forward(self, predictions: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        return distance_diff_loss(predictions, targets, length, self.beta, self.max_weight, self.reduction)
