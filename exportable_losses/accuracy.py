"""Metrics of class probabilities: accuracy, calibration and perplexity, of items or of frames."""

import torch
from torch import Tensor, nn

from .checks import check_choice, check_inputs
from .classification import class_contract, nll_loss
from .contract import Total
from .lengths import mask_of, zero_behind
from .masking import as_index, reduce_masked, truncate
from .ops.scores import widened
from .settings import settings_repr

__all__ = ["Accuracy", "ExpectedCalibrationError", "Perplexity"]

ACCURACY = class_contract("probabilities", "probability", differentiable=False, outputs=("accuracy",))
CALIBRATION = class_contract(
    "probabilities",
    "probability",
    outputs=("calibration_error", "gaps", "frames"),
    total=Total("calibration_error", "calibration", "gaps frames"),
)
PERPLEXITY = class_contract(
    "log_probabilities",
    "log_probability",
    outputs=("perplexity",),
    total=Total("perplexity", "exp_mean", "T"),
)


class Accuracy(nn.Module):
    """The share of items or frames whose target is among the `top_k` most probable classes.

        accuracy = number of frames whose target is among the top_k / number of frames

    Among equal scores the lower index ranks first. With `top_k=1` this is one minus SpeechBrain's
    `classification_error`. A NaN ranks above every number, so that it never produces a hit.

    Args:
        top_k: how many of the most probable classes count.
        allowed_len_diff: the largest difference between T and N that is tolerated, in frames.
        reduction: as in `l1_loss`; ``sum`` and ``none`` return 1.0 at each hit, and 0.0 elsewhere and
            beyond a length.

    The call takes `probabilities` `[B, C]` or `[B, T, C]` (any class scores), `targets`, class indices `[B]`
    or `[B, N]` (the longer of the two is cut), and `length` `[B]`, relative in (0, 1] or integers in frames;
    every frame counts without it.

    Raises:
        ValueError: the shapes do not match, an index is not below C or a length is out of range.

    Examples:
        >>> import torch
        >>> probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]])
        >>> Accuracy(top_k=2)(probabilities, torch.tensor([1, 2]))
        tensor(0.5000)
    """

    extra_repr = settings_repr

    def __init__(self, top_k: int = 1, allowed_len_diff: int = 3, reduction: str = "mean") -> None:
        super().__init__()
        if top_k < 1:
            raise ValueError(f"top_k: got {top_k}, expected at least 1")
        self.top_k = top_k
        self.allowed_len_diff = allowed_len_diff
        self.reduction = check_choice("reduction", reduction)

    def forward(self, probabilities: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        if not torch.jit.is_scripting():
            given = {"probabilities": probabilities, "targets": targets, "length": length}
            check_inputs(ACCURACY, given, allowed_len_diff=self.allowed_len_diff)
        probabilities = widened(probabilities)
        if probabilities.dim() == 3:
            probabilities, targets = truncate(probabilities, targets, self.allowed_len_diff)
        mask = mask_of(targets, length)
        target = zero_behind(as_index(targets), mask).unsqueeze(-1)
        score = probabilities.gather(probabilities.dim() - 1, target)
        earlier = torch.arange(probabilities.shape[-1], device=targets.device) < target
        # what is not at most the target's score is ahead of it: so is a NaN
        ahead = ~(probabilities <= score) | ((probabilities == score) & earlier)
        hit = ahead.long().sum(-1) < self.top_k
        return reduce_masked(hit.to(probabilities.dtype), mask, self.reduction)


class ExpectedCalibrationError(nn.Module):
    """How far confidence is from accuracy: the mean gap between them over bins of confidence.

        error = sum over bins m of n(m) / n · |accuracy(m) - confidence(m)|

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, https://arxiv.org/abs/1706.04599.
    The confidence of a frame is its highest probability. Bin m of M holds the n(m) frames whose confidence is
    above (m - 1) / M and at most m / M.

    Args:
        n_bins: M, the number of bins.
        allowed_len_diff: the largest difference between T and N that is tolerated, in frames.

    The call takes `probabilities` `[B, C]` or `[B, T, C]`, `targets`, class indices `[B]` or `[B, N]` (the
    longer of the two is cut), and `length` `[B]`, relative in (0, 1] or integers in frames; every frame
    counts without it. It returns the error and its parts, so that batches of a corpus add up exactly: for
    each bin the sum of hits minus confidences `[M]` (float64), and the number of frames (int64).

    Raises:
        ValueError: the shapes do not match, an index is not below C, a length is out of range, or
            `length` is given where each item is one frame.

    Examples:
        >>> import torch
        >>> probabilities = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
        >>> ExpectedCalibrationError()(probabilities, torch.tensor([0, 1]))[0]
        tensor(0.2500)
    """

    extra_repr = settings_repr

    def __init__(self, n_bins: int = 15, allowed_len_diff: int = 3) -> None:
        super().__init__()
        if n_bins < 1:
            raise ValueError(f"n_bins: got {n_bins}, expected at least 1")
        self.n_bins = n_bins
        self.allowed_len_diff = allowed_len_diff

    def forward(
        self, probabilities: Tensor, targets: Tensor, length: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not torch.jit.is_scripting():
            given = {"probabilities": probabilities, "targets": targets, "length": length}
            check_inputs(CALIBRATION, given, allowed_len_diff=self.allowed_len_diff)
        probabilities = widened(probabilities)
        if probabilities.dim() == 3:
            probabilities, targets = truncate(probabilities, targets, self.allowed_len_diff)
        best = probabilities.argmax(-1)
        confidence = probabilities.gather(probabilities.dim() - 1, best.unsqueeze(-1)).squeeze(-1)
        gap = (best == targets).to(confidence.dtype) - confidence
        frames = torch.ones_like(best).sum()
        mask = mask_of(gap, length)
        if mask is not None:
            gap = zero_behind(gap, mask)
            frames = mask.long().sum()
        edges = torch.arange(1, self.n_bins, device=gap.device).to(gap.dtype) / self.n_bins
        bins = (confidence.detach().unsqueeze(-1) > edges).long().sum(-1)
        # in float64: a bin may hold millions of frames
        gaps = torch.zeros(self.n_bins, dtype=torch.float64, device=gap.device)
        gaps = gaps.scatter_add(0, bins.reshape(-1), gap.double().reshape(-1))
        return (gaps.abs().sum() / frames.double()).to(gap.dtype), gaps, frames


class Perplexity(nn.Module):
    """The exponential of the mean negative log-likelihood of the target classes.

        perplexity = exp(-sum of ln p(target) / number of frames)

    Jelinek et al. 1977, "Perplexity: a measure of the difficulty of speech recognition tasks",
    https://doi.org/10.1121/1.2016299.

    Args:
        allowed_len_diff: the largest difference between T and N that is tolerated, in frames.
        reduction: ``mean`` for the perplexity of all frames together, ``batch`` for that of each
            item `[B]`.

    The call takes `log_probabilities` `[B, C]` or `[B, T, C]`, `targets`, class indices `[B]` or
    `[B, N]` (the longer of the two is cut), and `length` `[B]`, relative in (0, 1] or
    integers in frames; every frame counts without it.

    Raises:
        ValueError: the shapes do not match, an index is not below C or a length is out of range.

    Examples:
        >>> import torch
        >>> log_probabilities = torch.full((1, 3, 4), 0.25).log()
        >>> Perplexity()(log_probabilities, torch.tensor([[0, 1, 3]]))
        tensor(4.)
    """

    extra_repr = settings_repr

    def __init__(self, allowed_len_diff: int = 3, reduction: str = "mean") -> None:
        super().__init__()
        self.allowed_len_diff = allowed_len_diff
        self.reduction = check_choice("reduction", reduction, ("mean", "batch"))

    def forward(self, log_probabilities: Tensor, targets: Tensor, length: Tensor | None = None) -> Tensor:
        if not torch.jit.is_scripting():
            given = {"log_probabilities": log_probabilities, "targets": targets, "length": length}
            check_inputs(PERPLEXITY, given, allowed_len_diff=self.allowed_len_diff)
        loss = nll_loss(
            log_probabilities,
            targets,
            length,
            allowed_len_diff=self.allowed_len_diff,
            reduction=self.reduction,
        )
        return loss.exp()
