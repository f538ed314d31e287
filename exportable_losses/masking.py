"""Length masks, truncation and reduction, of which every masked loss is made."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .checks import check_choice, check_inputs
from .contract import Contract, Input, Total
from .lengths import absolute_length, mask_of, zero_behind
from .ops.scores import widened
from .settings import settings_repr

__all__ = ["LengthMask", "MaskedLoss", "ReduceLoss", "SourceMask", "Truncate"]

LENGTH = Input("length", "B", "relative_length", optional=True, of="T")
MASK_SHAPES = ("targets", "predictions", "loss")

LENGTH_MASK = Contract((Input("data", "B T *"), LENGTH), ("mask",))
TRUNCATE = Contract(
    (Input("predictions", "B T *"), Input("targets", "B N *")),
    ("predictions_out", "targets_out"),
    ("predictions", "targets"),
    aligned=("T", "N"),
    any_rank=True,
)
MASKED_LOSS = Contract(
    (Input("predictions", "B T *"), Input("targets", "B T *"), LENGTH),
    differentiable=("predictions", "targets"),
    any_rank=True,
    totals=(Total("loss", by="T *"),),
)
REDUCE_LOSS = Contract(
    (Input("loss", "B T *"), Input("mask", "B T *", "mask")),
    ("reduced",),
    ("loss",),
    totals=(Total("reduced", by="mask"),),
)
SOURCE_MASK = Contract(
    (Input("source", "T E? B C"), Input("source_lengths", "B", "count", below="T")), ("mask",)
)


def as_index(x: Tensor) -> Tensor:
    """Class indices as int64.

    Raises:
        TypeError: they are no integers.
    """
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"targets: got {x.dtype}, expected integers: class indices")
    return x.long()


def as_floating(x: Tensor) -> Tensor:
    """`x`, `widened`, or its values as float32 where it holds integers."""
    return widened(x) if x.is_floating_point() else x.float()


def _by_item(x: Tensor) -> Tensor:
    """`[B, *]` as one row for each item: `[B, n]`."""
    return x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)


def reduce_masked(loss: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Reduce a loss `[B, T, *]` over the frames in `mask` `[B, T]`, over all without one.

    ``mean`` is the sum over what counts divided by its number, ``batch`` the same for each item,
    ``batchmean`` the sum divided by B. ``sum`` and ``none`` give the masked loss itself: that is
    what SpeechBrain 1.1.2 returns for ``sum``.

    Raises:
        ValueError: an unknown `reduction`.
    """
    if not torch.jit.is_scripting():
        check_choice("reduction", reduction)
    if mask is None:
        if reduction == "mean":
            return loss.mean()
        if reduction == "batch":
            return _by_item(loss).mean(1)
        return loss.sum() / loss.shape[0] if reduction == "batchmean" else loss
    if reduction == "sum" or reduction == "none":
        return zero_behind(loss, mask)
    count = mask.to(loss.dtype).sum(1)
    for size in loss.shape[2:]:
        count = count * size
    if loss.dim() > 2:  # within frames first: what is masked is then `[B, T]`
        loss = loss.flatten(2).sum(2)
    total = loss.masked_fill(~mask, 0.0).sum(1)
    if reduction == "mean":
        return total.sum() / count.sum()
    return total / count if reduction == "batch" else total.sum() / total.shape[0]


def compute_length_mask(data: Tensor, length: Tensor | None = None, len_dim: int = 1) -> Tensor:
    """The mask of what lies within each item's length, in the shape and dtype of `data`.

        mask(b, t) = 1 if t < length(b) · T - 1e-6, else 0

    Args:
        data: `[B, T, *]`, any dtype; only its shape and dtype matter.
        length: lengths `[B]`, relative in (0, 1] or integers in frames; everything counts without it.
        len_dim: the dimension of `data` that `length` counts.

    Returns:
        Ones and zeros in the shape and dtype of `data` (float32 if that has 16 bits).

    Raises:
        ValueError: `length` is not of shape `[B]`, or one is out of range.

    Examples:
        >>> import torch
        >>> compute_length_mask(torch.zeros(2, 4), torch.tensor([1.0, 0.5]))
        tensor([[1., 1., 1., 1.],
                [1., 1., 0., 0.]])
    """
    if not torch.jit.is_scripting():
        check_inputs(LENGTH_MASK, {"data": data, "length": length}, len_dim=len_dim)
    mask = mask_of(data, length, len_dim)
    if mask is None:
        return widened(torch.ones_like(data))
    for _ in range(data.dim() - 2):
        mask = mask.unsqueeze(-1)
    return widened(mask.transpose(1, len_dim).to(data.dtype) * data.new_ones(data.shape[1:]))


def truncate(predictions: Tensor, targets: Tensor, allowed_len_diff: int = 3) -> tuple[Tensor, Tensor]:
    """Cut the longer of two tensors along dimension 1.

        predictions[:, :min(T, N)], targets[:, :min(T, N)]

    Args:
        predictions: `[B, T, *]`.
        targets: `[B, N, *]`.
        allowed_len_diff: the largest difference between T and N that is tolerated, in frames.

    Returns:
        Both, with `min(T, N)` frames, in float32 if they have 16 bits.

    Raises:
        ValueError: T and N differ by more than `allowed_len_diff`.

    Examples:
        >>> import torch
        >>> a, b = truncate(torch.zeros(2, 7, 3), torch.zeros(2, 6))
        >>> a.shape, b.shape
        (torch.Size([2, 6, 3]), torch.Size([2, 6]))
    """
    if torch.jit.is_scripting():
        if abs(predictions.shape[1] - targets.shape[1]) > allowed_len_diff:
            raise ValueError("targets: length differs from predictions by more than allowed_len_diff")
        shorter = min(predictions.shape[1], targets.shape[1])
    else:
        pair = {"predictions": predictions, "targets": targets}
        check_inputs(TRUNCATE, pair, allowed_len_diff=allowed_len_diff)
        shorter = torch.sym_min(predictions.shape[1], targets.shape[1])
    return widened(predictions[:, :shorter]), widened(targets[:, :shorter])


def reduce_loss(
    loss: Tensor,
    mask: Tensor,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    predictions: Tensor | None = None,
    targets: Tensor | None = None,
) -> Tensor:
    """Reduce a loss that has been masked already.

        mean: sum of loss / sum of mask;  batch: the same for each item;  batchmean: sum of loss / B

    Args:
        loss: `[B, *]`, zero where `mask` is.
        mask: ones and zeros in the shape of `loss`.
        reduction: ``mean``, ``batch``, ``batchmean``; ``sum`` and ``none`` return `loss`.
        label_smoothing: the weight of the mean prediction that is subtracted, in [0, 1).
        predictions: log-probabilities `[B, C, *]`, needed for label smoothing only.
        targets: `[B, *]`, not read; accepted because SpeechBrain passes it.

    Returns:
        A scalar, `[B]` for ``batch``, the shape of `loss` for ``sum`` and ``none``.

    Raises:
        ValueError: an unknown `reduction`, or label smoothing without `predictions`.

    Examples:
        >>> import torch
        >>> reduce_loss(torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
        tensor(2.)
    """
    if not torch.jit.is_scripting():
        check_choice("reduction", reduction)
    loss, mask = widened(loss), widened(mask)
    if label_smoothing > 0:
        if predictions is None:
            raise ValueError("predictions: got None, expected log-probabilities since label_smoothing > 0")
        loss = (1 - label_smoothing) * loss - label_smoothing * widened(predictions).mean(1) * mask
    if reduction == "mean":
        return loss.sum() / mask.sum()
    if reduction == "batch":
        return _by_item(loss).sum(1) / _by_item(mask).sum(1)
    return loss.sum() / loss.shape[0] if reduction == "batchmean" else loss


def compute_masked_loss(
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    predictions: Tensor,
    targets: Tensor,
    length: Tensor | None = None,
    label_smoothing: float = 0.0,
    mask_shape: str = "targets",
    reduction: str = "mean",
) -> Tensor:
    """Reduce a loss per element over the frames within `length`.

        loss = sum of mask · loss_fn(predictions, targets) / sum of mask

    Args:
        loss_fn: takes `predictions` and `targets`, returns a loss for each element.
        predictions: `[B, T, *]`.
        targets: `[B, T, *]`.
        length: lengths `[B]`, relative in (0, 1] or integers in frames; everything counts without it.
        label_smoothing: see `reduce_loss`.
        mask_shape: ``targets``, ``predictions`` or ``loss``: whose shape the mask takes.
        reduction: see `reduce_loss`.

    Raises:
        ValueError: an unknown `mask_shape`, or a `length` that does not fit.

    Examples:
        >>> import torch
        >>> from torch.nn.functional import l1_loss
        >>> l1 = lambda a, b: l1_loss(a, b, reduction="none")
        >>> x, y = torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 9.0, 9.0]])
        >>> compute_masked_loss(l1, x, y, torch.tensor([0.5]))
        tensor(1.)
    """
    check_choice("mask_shape", mask_shape, MASK_SHAPES)
    predictions, targets = widened(predictions), widened(targets)
    if predictions.shape == targets.shape:  # else only `loss_fn` knows where the frames are
        frames = mask_of(targets, length)
        predictions, targets = zero_behind(predictions, frames), zero_behind(targets, frames)
    loss = loss_fn(predictions, targets)
    shaped = {"targets": targets, "predictions": predictions, "loss": loss}[mask_shape]
    mask = compute_length_mask(shaped, length)
    return reduce_loss(_masked(loss, mask), mask, reduction, label_smoothing, predictions, targets)


def _masked(loss: Tensor, mask: Tensor) -> Tensor:
    """`loss` where `mask` is one, zero elsewhere: an infinity times zero would be a NaN."""
    return torch.where(mask != 0, loss, 0.0)


def get_mask(source: Tensor, source_lengths: Tensor) -> Tensor:
    """The mask of the samples within each item's integer length.

        mask(t, b) = 1 if t < source_lengths(b), else 0

    Args:
        source: `[T, B, C]` or `[T, E, B, C]`; only its shape and dtype matter.
        source_lengths: samples per item `[B]`, integers.

    Returns:
        Ones and zeros `[T, B, 1]` or `[T, E, B, 1]` in the dtype of `source` (float32 if that has 16 bits).

    Raises:
        ValueError: `source_lengths` does not have one entry for each item, or one outside [0, T].

    Examples:
        >>> import torch
        >>> get_mask(torch.zeros(3, 2, 1), torch.tensor([1, 3])).squeeze(-1)
        tensor([[1., 1.],
                [0., 1.],
                [0., 1.]])
    """
    if not torch.jit.is_scripting():
        check_inputs(SOURCE_MASK, {"source": source, "source_lengths": source_lengths})
    source_lengths = absolute_length(source_lengths, source.shape[0], least=0)
    samples = torch.arange(source.shape[0], device=source.device)
    for _ in range(source.dim() - 1):
        samples = samples.unsqueeze(-1)
    mask = widened((samples < source_lengths.unsqueeze(-1)).to(source.dtype))
    return mask if source.dim() == 3 else mask.repeat(1, source.shape[1], 1, 1)


class LengthMask(nn.Module):
    """`compute_length_mask` as a module. The call takes `data` and `length`."""

    extra_repr = settings_repr

    def __init__(self, len_dim: int = 1) -> None:
        super().__init__()
        self.len_dim = len_dim

    def forward(self, data: Tensor, length: Tensor | None = None) -> Tensor:
        return compute_length_mask(data, length, self.len_dim)


class Truncate(nn.Module):
    """`truncate` as a module. The call takes `predictions` and `targets` and returns both."""

    extra_repr = settings_repr

    def __init__(self, allowed_len_diff: int = 3) -> None:
        super().__init__()
        self.allowed_len_diff = allowed_len_diff

    def forward(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return truncate(predictions, targets, self.allowed_len_diff)


class MaskedLoss(nn.Module):
    """`compute_masked_loss` as a module.

    Args:
        loss_fn: a module that takes predictions and targets and reduces nothing; by default the L1 loss.
        mask_shape: whose shape the mask takes.
        reduction: see `reduce_loss`.
    """

    extra_repr = settings_repr

    def __init__(
        self, loss_fn: nn.Module | None = None, mask_shape: str = "targets", reduction: str = "mean"
    ) -> None:
        super().__init__()
        self.loss_fn = nn.L1Loss(reduction="none") if loss_fn is None else loss_fn
        self.mask_shape = check_choice("mask_shape", mask_shape, MASK_SHAPES)
        self.reduction = check_choice("reduction", reduction)

    def forward(self, predictions: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        if not torch.jit.is_scripting():
            given = {"predictions": predictions, "targets": targets, "length": length}
            check_inputs(MASKED_LOSS, given)
        predictions, targets = widened(predictions), widened(targets)
        frames = mask_of(targets, length)
        predictions, targets = zero_behind(predictions, frames), zero_behind(targets, frames)
        loss = self.loss_fn(predictions, targets)
        shaped = targets
        if self.mask_shape == "predictions":
            shaped = predictions
        elif self.mask_shape == "loss":
            shaped = loss
        mask = compute_length_mask(shaped, length)
        return reduce_loss(_masked(loss, mask), mask, self.reduction)


class ReduceLoss(nn.Module):
    """`reduce_loss` as a module, without label smoothing. The call takes `loss` and `mask`."""

    extra_repr = settings_repr

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = check_choice("reduction", reduction)

    def forward(self, loss: Tensor, mask: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            check_inputs(REDUCE_LOSS, {"loss": loss, "mask": mask})
        return reduce_loss(loss, mask, self.reduction)


class SourceMask(nn.Module):
    """`get_mask` as a module. The call takes `source` and `source_lengths`."""

    def forward(self, source: Tensor, source_lengths: Tensor) -> Tensor:
        return get_mask(source, source_lengths)
