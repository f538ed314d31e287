"""Classification losses and the classification error, at the level of frames or of items."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .checks import check_choice, check_inputs, check_tensors
from .contract import Contract, Input, Total
from .lengths import absolute_length, mask_of, zero_behind
from .masking import LENGTH, as_floating, as_index, reduce_masked, truncate
from .ops.scores import widened
from .settings import settings_repr

__all__ = ["BCEWithLogitsLoss", "ClassificationError", "KLDivLoss", "NLLLoss"]


def class_contract(
    name: str,
    legal: str,
    differentiable: bool = True,
    outputs: tuple[str, ...] = ("loss",),
    total: Total | None = None,
) -> Contract:
    """The contract of scores of classes, called `name`, beside class indices."""
    inputs = (Input(name, "B T? C", legal), Input("targets", "B N?", "index", below="C"), LENGTH)
    totals = (total or Total(outputs[0], by="T"),)
    return Contract(inputs, outputs, (name,) if differentiable else (), ("T", "N"), totals=totals)


ERROR = class_contract("probabilities", "probability", differentiable=False)
LOG_PROBABILITIES = class_contract("log_probabilities", "log_probability")
# smoothed values are SpeechBrain's, which depend on the padding
DIVERGENCE = class_contract(
    "log_probabilities", "log_probability", total=Total("loss", by="T", only=(("label_smoothing", 0.0),))
)
BINARY = Contract(
    (Input("inputs", "B T? * 1?"), Input("targets", "B N? *", "binary"), LENGTH),
    differentiable=("inputs", "targets"),
    aligned=("T", "N"),
    totals=(Total("loss", by="T *"),),
)


def classification_error(
    probabilities: Tensor,
    targets: Tensor,
    length: Tensor | None = None,
    allowed_len_diff: int = 3,
    reduction: str = "mean",
) -> Tensor:
    """The share of items or frames whose most probable class is not the target.

        error = number of frames with argmax p != target / number of frames

    Args:
        probabilities: `[B, C]` or `[B, T, C]`, or any scores of classes.
        targets: class indices `[B]` or `[B, N]`; the longer of the two is cut.
        length: lengths `[B]`, relative in (0, 1] or integers in frames; every frame counts without it.
        allowed_len_diff: the largest difference between T and N that is tolerated, in frames.
        reduction: as in `l1_loss`.

    Returns:
        A scalar, `[B]` for ``batch``; for ``sum`` and ``none`` 1.0 at each error, 0.0 elsewhere.

    Raises:
        ValueError: the shapes do not match, an index is not below C or a length is out of range.

    Examples:
        >>> import torch
        >>> probabilities = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]])
        >>> classification_error(probabilities, torch.tensor([[1, 1]]))
        tensor(0.5000)
    """
    if not torch.jit.is_scripting():
        check_tensors({"probabilities": probabilities, "targets": targets})
    if (
        targets.dim() == probabilities.dim() - 2
    ):  # the targets of a batch of one, as SpeechBrain's example has them
        targets = targets.unsqueeze(0)
    if not torch.jit.is_scripting():
        given = {"probabilities": probabilities, "targets": targets, "length": length}
        check_inputs(ERROR, given, allowed_len_diff=allowed_len_diff)
    probabilities = widened(probabilities)
    best = probabilities.argmax(-1)
    if probabilities.dim() == 3:
        best, targets = truncate(best, targets, allowed_len_diff)
    return reduce_masked((best != targets).to(probabilities.dtype), mask_of(best, length), reduction)


def nll_loss(
    log_probabilities: Tensor,
    targets: Tensor,
    length: Tensor | None = None,
    label_smoothing: float = 0.0,
    allowed_len_diff: int = 3,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The negative log-likelihood of the target classes.

        nll = -weight(y) · ln p(y)
        loss = (1 - s) · nll - s · mean of ln p(c) over classes c

    s is `label_smoothing`: Pereyra et al. 2017, "Regularizing Neural Networks by Penalizing Confident Output
    Distributions", https://arxiv.org/abs/1701.06548.

    Args:
        log_probabilities: `[B, C]` or `[B, T, C]`.
        targets: class indices `[B]` or `[B, N]`; the longer of the two is cut.
        length: lengths `[B]`, relative in (0, 1] or integers in frames; every frame counts without it.
        label_smoothing: s, in [0, 1).
        allowed_len_diff: the largest difference between T and N that is tolerated, in frames.
        weight: a weight for each class `[C]`. As in SpeechBrain, ``mean`` divides by the number of frames,
            not by the sum of the weights.
        reduction: as in `l1_loss`.

    Returns:
        A scalar, `[B]` for ``batch``; for ``sum`` and ``none`` a loss for each target.

    Raises:
        ValueError: the shapes do not match, an index is not below C or a length is out of range.

    Examples:
        >>> import torch
        >>> log_probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
        >>> nll_loss(log_probabilities, torch.tensor([1, 1]))
        tensor(1.2040)
    """
    if not torch.jit.is_scripting():
        given = {"log_probabilities": log_probabilities, "targets": targets, "length": length}
        check_inputs(LOG_PROBABILITIES, given, allowed_len_diff=allowed_len_diff)
    log_probabilities = widened(log_probabilities)
    index = as_index(targets)
    if log_probabilities.dim() == 3:
        _, index = truncate(log_probabilities, index, allowed_len_diff)
    mask = mask_of(index, length)
    if log_probabilities.dim() == 3:  # an index for each frame: the large tensor is not cut
        index = zero_behind(index, mask)
        padding = torch.zeros_like(log_probabilities[..., 0], dtype=torch.int64)
        index = torch.cat([index, padding], 1)[:, : log_probabilities.shape[1]]
    loss = -log_probabilities.gather(log_probabilities.dim() - 1, index.unsqueeze(-1)).squeeze(-1)
    if weight is not None:
        loss = loss * weight.to(loss.dtype)[index]
    if label_smoothing > 0:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_probabilities.mean(-1)
    if log_probabilities.dim() == 3:
        loss, _ = truncate(loss, targets, allowed_len_diff)
    return reduce_masked(loss, mask, reduction)


def bce_loss(
    inputs: Tensor,
    targets: Tensor,
    length: Tensor | None = None,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: str = "mean",
    allowed_len_diff: int = 3,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The binary cross-entropy of logits.

        loss = -weight · (pos_weight · y · ln sigmoid(x) + (1 - y) · ln(1 - sigmoid(x)))

    On sequences, where SpeechBrain fails, label smoothing moves the targets towards one half:
    `(1 - s) * y + s / 2`. With one logit per item, `[B]` or `[B, 1]`, it subtracts the logit from the loss of
    that item: `(1 - s) * loss - s * x`. Only the mean of `[B]` follows SpeechBrain, which subtracts the sum
    of all logits of the batch from each item.

    Args:
        inputs: logits `[B]`, `[B, 1]`, `[B, T]`, `[B, T, 1]` or `[B, T, C]`.
        targets: `[B]`, `[B, N]` or `[B, N, C]`, of any dtype; the longer of the two is cut.
        length: lengths `[B]`, relative in (0, 1] or integers in frames; every frame counts without it.
        weight: multiplies the loss of each element; `[B]` is one weight per item.
        pos_weight: multiplies the positive part; one value, or one for each class `[C]`.
        reduction: as in `l1_loss`.
        allowed_len_diff: the largest difference between T and N that is tolerated, in frames.
        label_smoothing: s, in [0, 1).

    Returns:
        A scalar, `[B]` for ``batch``; for ``sum`` and ``none`` a loss for each target (`[B, 1]`
        for one logit per item, as SpeechBrain does).

    Raises:
        ValueError: the shapes do not match, a length is out of range, or `length` is given with
            one logit per item.

    Examples:
        >>> import torch
        >>> bce_loss(torch.tensor([10.0, -6.0]), torch.tensor([1, 0]))
        tensor(0.0013)
    """
    if not torch.jit.is_scripting():
        check_inputs(
            BINARY,
            {"inputs": inputs, "targets": targets, "length": length},
            allowed_len_diff=allowed_len_diff,
        )
    inputs, targets = widened(inputs), widened(targets)
    flat = inputs.dim() == 1
    if inputs.dim() == targets.dim() + 1:
        inputs = inputs.squeeze(-1)
    targets = targets.to(inputs.dtype)
    by_item = inputs.dim() == 1
    if by_item:
        mask_of(inputs, length)  # refused
        inputs, targets = inputs.unsqueeze(-1), targets.unsqueeze(-1)
    inputs, targets = truncate(inputs, targets, allowed_len_diff)
    mask = mask_of(inputs, length)
    inputs, targets = zero_behind(inputs, mask), zero_behind(targets, mask)
    if label_smoothing > 0 and not by_item:
        targets = (1 - label_smoothing) * targets + label_smoothing / 2
    # by softplus, since exporters write torch's own function as log(sigmoid), which underflows
    positive = targets if pos_weight is None else _weighted("pos_weight", targets, pos_weight)
    loss = (1 - targets) * inputs + (1 + positive - targets) * softplus(-inputs)
    if weight is not None:
        by_element = weight.reshape([-1] + [1] * (loss.dim() - 1)) if weight.dim() == 1 else weight
        loss = _weighted("weight", loss, by_element)
    if label_smoothing > 0 and by_item:
        logits = inputs.sum() if flat and reduction == "mean" else inputs
        loss = (1 - label_smoothing) * loss - label_smoothing * logits
    return reduce_masked(loss, mask, reduction)


def _weighted(name: str, x: Tensor, weight: Tensor) -> Tensor:
    """`x * weight`, which has the shape of `x`.

    Raises:
        ValueError: there are more weights than elements to weigh.
    """
    found = x * weight
    if not torch.jit.is_scripting() and torch.compiler.is_compiling():
        return found  # sizes are open there
    if found.shape != x.shape:
        raise ValueError(
            f"{name}: got shape {list(weight.shape)}, expected one that multiplies {list(x.shape)}"
        )
    return found


def kldiv_loss(
    log_probabilities: Tensor,
    targets: Tensor,
    length: Tensor | None = None,
    label_smoothing: float = 0.0,
    allowed_len_diff: int = 3,
    pad_idx: int = 0,
    reduction: str = "mean",
    mask_length: bool = False,
) -> Tensor:
    """The Kullback-Leibler divergence from smoothed targets. Without smoothing it is `nll_loss`.

        loss = sum over c of t(c) · (ln t(c) - ln p(c))
        t(c) = 1 - s for the true class, s / (C - 1) for every other class

    s is `label_smoothing`. By default the smoothed values are SpeechBrain's: targets equal to `pad_idx` count
    as padding, `length` is not read, ``mean`` and ``sum`` both return the sum, and ``batch`` divides the sum
    of each item by its *relative* length. With `mask_length` the loss is reduced over the frames that are
    within `length` and are not `pad_idx`, as in every other loss here.

    Args:
        log_probabilities: `[B, C]` or `[B, T, C]`.
        targets: class indices `[B]` or `[B, N]`; the longer of the two is cut.
        length: lengths `[B]`, relative in (0, 1] or integers in frames.
        label_smoothing: s, in [0, 1).
        allowed_len_diff: the largest difference between T and N that is tolerated, in frames.
        pad_idx: the target that stands for padding, read when smoothing only.
        reduction: see above; ``none`` gives `[B * T, C]` when smoothing.
        mask_length: whether smoothed losses are reduced over the frames that count.

    Raises:
        ValueError: the shapes do not match, an index is not below C, a length is out of range, or
            ``batch`` is asked for without `length` when smoothing.

    Examples:
        >>> import torch
        >>> log_probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
        >>> kldiv_loss(log_probabilities, torch.tensor([1, 1]))
        tensor(1.2040)
    """
    if label_smoothing <= 0:
        return nll_loss(
            log_probabilities, targets, length, allowed_len_diff=allowed_len_diff, reduction=reduction
        )
    if not torch.jit.is_scripting():
        given = {"log_probabilities": log_probabilities, "targets": targets, "length": length}
        check_inputs(
            LOG_PROBABILITIES,
            given,
            allowed_len_diff=allowed_len_diff,
            label_smoothing=label_smoothing,
            mask_length=mask_length,
        )
        check_choice("reduction", reduction)
    elif length is not None and log_probabilities.dim() > 2:
        absolute_length(length, log_probabilities.shape[1])  # refused where it is illegal, read or not
    if log_probabilities.dim() == 2:
        log_probabilities, targets = log_probabilities.unsqueeze(1), targets.unsqueeze(1)
    log_probabilities, targets = truncate(log_probabilities, targets, allowed_len_diff)
    divergence = _smoothed_divergence(log_probabilities, targets, label_smoothing)
    padding = targets == pad_idx
    divergence = divergence.masked_fill(padding.unsqueeze(-1), 0.0)
    if mask_length:
        return _reduce_over_targets(divergence.sum(-1), ~padding, length, reduction)
    if reduction == "batch":
        if length is None:
            raise ValueError("length: got None, expected lengths for reduction='batch'")
        relative = length if length.is_floating_point() else as_floating(length) / divergence.shape[1]
        return divergence.flatten(1).sum(1) / relative
    if reduction == "none":
        return divergence.flatten(0, 1)
    return divergence.sum() / divergence.shape[0] if reduction == "batchmean" else divergence.sum()


def _smoothed_divergence(log_probabilities: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """`t * (log t - log p)` for the smoothed targets t: `[B, T, C]`."""
    classes = log_probabilities.shape[-1]
    is_target = as_index(targets).unsqueeze(-1) == torch.arange(classes, device=targets.device)
    rest = torch.full_like(log_probabilities[:1, :1, :1], label_smoothing) / (classes - 1)
    target = torch.where(is_target, 1 - label_smoothing, rest)
    return target * (target.log() - log_probabilities)


def _reduce_over_targets(loss: Tensor, counts: Tensor, length: Tensor | None, reduction: str) -> Tensor:
    """Reduce `[B, T]` over the frames that count and are within `length`."""
    mask = mask_of(loss, length)
    share = reduce_masked(counts.to(loss.dtype), mask, reduction)
    loss = reduce_masked(loss, mask, reduction)
    return loss / share if reduction == "mean" or reduction == "batch" else loss


class ClassificationError(nn.Module):
    """`classification_error` as a module: settings go here, tensors to the call."""

    extra_repr = settings_repr

    def __init__(self, allowed_len_diff: int = 3, reduction: str = "mean") -> None:
        super().__init__()
        self.allowed_len_diff = allowed_len_diff
        self.reduction = check_choice("reduction", reduction)

    def forward(self, probabilities: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        return classification_error(probabilities, targets, length, self.allowed_len_diff, self.reduction)


class NLLLoss(nn.Module):
    """`nll_loss` as a module: settings go here (`weight` is a buffer), tensors to the call."""

    weight: Tensor | None

    extra_repr = settings_repr

    def __init__(
        self,
        label_smoothing: float = 0.0,
        allowed_len_diff: int = 3,
        weight: Tensor | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.allowed_len_diff = allowed_len_diff
        self.register_buffer("weight", weight)
        self.reduction = check_choice("reduction", reduction)

    def forward(self, log_probabilities: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        return nll_loss(
            log_probabilities,
            targets,
            length,
            self.label_smoothing,
            self.allowed_len_diff,
            self.weight,
            self.reduction,
        )


class BCEWithLogitsLoss(nn.Module):
    """`bce_loss` as a module: settings go here (`weight`, `pos_weight` are buffers), tensors to the call."""

    weight: Tensor | None
    pos_weight: Tensor | None

    extra_repr = settings_repr

    def __init__(
        self,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        reduction: str = "mean",
        allowed_len_diff: int = 3,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.reduction = check_choice("reduction", reduction)
        self.allowed_len_diff = allowed_len_diff
        self.label_smoothing = label_smoothing

    def forward(self, inputs: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        return bce_loss(
            inputs,
            targets,
            length,
            self.weight,
            self.pos_weight,
            self.reduction,
            self.allowed_len_diff,
            self.label_smoothing,
        )


class KLDivLoss(nn.Module):
    """`kldiv_loss` as a module: settings go here, tensors to the call."""

    extra_repr = settings_repr

    def __init__(
        self,
        label_smoothing: float = 0.0,
        allowed_len_diff: int = 3,
        pad_idx: int = 0,
        reduction: str = "mean",
        mask_length: bool = False,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.allowed_len_diff = allowed_len_diff
        self.pad_idx = pad_idx
        self.reduction = check_choice("reduction", reduction)
        self.mask_length = mask_length

    def forward(self, log_probabilities: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        return kldiv_loss(
            log_probabilities,
            targets,
            length,
            self.label_smoothing,
            self.allowed_len_diff,
            self.pad_idx,
            self.reduction,
            self.mask_length,
        )
