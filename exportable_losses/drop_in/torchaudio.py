"""The losses and alignment of torchaudio, computed by this package; torchaudio need not be installed.

From `torchaudio.functional`: `rnnt_loss`, `forced_align`, `merge_tokens`, `TokenSpan` and `edit_distance`.
From `torchaudio.transforms`: `RNNTLoss`. Unlike torchaudio's, `forced_align` takes batches.
"""

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..checks import check_choice
from ..edits import EditDistance
from ..lattice.ctc import ctc_lengths
from ..lattice.posterior import TransducerPosterior
from ..lattice.transducer import TransducerLoss, transducer_lengths

__all__ = ["RNNTLoss", "TokenSpan", "edit_distance", "forced_align", "merge_tokens", "rnnt_loss"]

_REDUCTIONS = ("none", "mean", "sum")
_NORMALISED = 1e-2  # how far the probabilities of a node may be from one, in nats: 16 bits are not exact


def rnnt_loss(
    logits: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = -1,
    clamp: float = -1,
    reduction: str = "mean",
    fused_log_softmax: bool = True,
) -> Tensor:
    """`torchaudio.functional.rnnt_loss`: the same arguments, defaults, value and gradient.

    Graves 2012, https://arxiv.org/abs/1211.3711.

    Args:
        logits: `[B, T, U+1, V]`.
        targets: `[B, U]`, integers without the blank; padding is not read.
        logit_lengths: `[B]`, the frames of each item, integers from 1 to T.
        target_lengths: `[B]`, the labels of each, from 0 to U.
        blank: the class of the blank; a negative one counts from the last.
        clamp: if positive, the gradient of each cost is clamped to plus and minus this.
        reduction: ``none`` for costs in nats `[B]`, ``mean`` over items, or ``sum``.
        fused_log_softmax: normalise `logits`. Without it they must be log-probabilities, and the gradient is
            that with respect to these: minus the probability of each arc.

    Raises:
        TypeError: a dtype that is not taken.
        ValueError: the shapes do not match, a length is outside its range, a label is the blank or not below
            V, or scores of ``fused_log_softmax=False`` are no log-probabilities.

    Examples:
        >>> import torch
        >>> lengths = torch.tensor([2]), torch.tensor([1])
        >>> rnnt_loss(torch.zeros(1, 2, 2, 4), torch.tensor([[3]]), *lengths, blank=0)
        tensor(3.4657)
    """
    check_choice("reduction", reduction, _REDUCTIONS)
    blank_index = blank if blank >= 0 else logits.shape[-1] + blank
    given = (logits, targets, logit_lengths, target_lengths)
    if fused_log_softmax and clamp <= 0:
        costs = TransducerLoss(blank_index, "none")(*given)
    else:
        with torch.no_grad():
            values, gradient = (_fused if fused_log_softmax else _of_arcs)(*given, blank_index)
            gradient = gradient.clamp(-clamp, clamp) if clamp > 0 else gradient
        costs = _Known.apply(logits, values, gradient)
    return costs if reduction == "none" else costs.mean() if reduction == "mean" else costs.sum()


class _Known(torch.autograd.Function):
    """Costs `[B]` of which the gradient is known."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, costs: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return costs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad.reshape(-1, 1, 1, 1).to(gradient.dtype) * gradient, None, None


def _fused(
    logits: Tensor, targets: Tensor, logit_lengths: Tensor, target_lengths: Tensor, blank: int
) -> tuple[Tensor, Tensor]:
    """The costs, and the gradient of each in the logits."""
    frames, labels = transducer_lengths(logits, targets, logit_lengths, target_lengths, blank)
    each = torch.ones(
        len(logits), device=logits.device, dtype=torch.promote_types(logits.dtype, torch.float32)
    )
    operator = torch.ops.exportable_losses.transducer_loss_grad
    return operator(logits, targets, frames, labels, blank, each)


def _of_arcs(
    log_probs: Tensor, targets: Tensor, logit_lengths: Tensor, target_lengths: Tensor, blank: int
) -> tuple[Tensor, Tensor]:
    """The costs, and the gradient of each in log-probabilities: minus the probability of every arc."""
    given = (targets, logit_lengths, target_lengths)
    nodes, emissions, costs = TransducerPosterior(blank)(log_probs, *given)
    off = log_probs.float().logsumexp(-1).abs().masked_fill(nodes == 0, 0.0).max()
    if not off <= _NORMALISED:
        raise ValueError(
            f"logits: got scores whose probabilities are {float(off):.2g} nats from one in all, expected "
            "log-probabilities where fused_log_softmax=False"
        )
    emitted = nn.functional.pad(emissions, [0, 1])
    gradient = torch.zeros_like(log_probs)
    gradient[..., blank] = (emitted - nodes).to(gradient.dtype)
    within = torch.arange(targets.shape[1], device=targets.device) < target_lengths.reshape(-1, 1)
    label = torch.where(within, targets.long(), blank)[:, None, :, None].expand(-1, log_probs.shape[1], -1, 1)
    gradient[:, :, :-1].scatter_add_(3, label, -emissions.unsqueeze(3).to(gradient.dtype))
    return costs, gradient


class RNNTLoss(nn.Module):
    """`torchaudio.transforms.RNNTLoss`; see `rnnt_loss`."""

    def __init__(
        self, blank: int = -1, clamp: float = -1.0, reduction: str = "mean", fused_log_softmax: bool = True
    ) -> None:
        super().__init__()
        self.blank = blank
        self.clamp = clamp
        self.reduction = check_choice("reduction", reduction, _REDUCTIONS)
        self.fused_log_softmax = fused_log_softmax

    def forward(
        self, logits: Tensor, targets: Tensor, logit_lengths: Tensor, target_lengths: Tensor
    ) -> Tensor:
        settings = self.blank, self.clamp, self.reduction, self.fused_log_softmax
        return rnnt_loss(logits, targets, logit_lengths, target_lengths, *settings)


def forced_align(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | None = None,
    target_lengths: Tensor | None = None,
    blank: int = 0,
) -> tuple[Tensor, Tensor]:
    """`torchaudio.functional.forced_align`: the best path of labels through the frames.

    Args:
        log_probs: `[B, T, C]`; torchaudio takes one item, here there may be many.
        targets: `[B, L]`, integers without the blank.
        input_lengths: `[B]`, the frames of each item; all of them by default.
        target_lengths: `[B]`, the labels of each; all of them by default.
        blank: the class of the blank.

    Returns:
        The class at each frame `[B, T]`, in the dtype of `targets`, and its log-probability `[B, T]`. Beyond
        the frames of an item these are the blank and zero. Of equally good paths it takes that of `CTCAlign`.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, a label is the blank or not below
            C, an item has too few frames for its labels, or no path of a probability above zero.

    Examples:
        >>> import torch
        >>> log_probs = (9 * torch.eye(3)[[0, 1, 1, 0, 2]]).log_softmax(-1).unsqueeze(0)
        >>> path, scores = forced_align(log_probs, torch.tensor([[1, 2]]))
        >>> path
        tensor([[0, 1, 1, 0, 2]])
    """
    for name, x, dims in (("log_probs", log_probs, "[B, T, C]"), ("targets", targets, "[B, L]")):
        if x.dim() != dims.count(",") + 1:
            raise ValueError(f"{name}: got shape {list(x.shape)}, expected {dims}")
    scores = log_probs.detach()
    frames = _whole(scores, 1) if input_lengths is None else input_lengths
    labels = _whole(targets, 1) if target_lengths is None else target_lengths
    frames, labels = ctc_lengths(scores, targets, frames, labels, blank)
    states, path_scores = torch.ops.exportable_losses.ctc_align(scores, targets, frames, labels, blank, False)
    for item in (~path_scores.isfinite()).nonzero().flatten().tolist():
        raise ValueError(_why_not(item, targets[item, : labels[item]], int(frames[item]), path_scores[item]))
    label = nn.functional.pad(targets, [0, 1], value=blank).gather(1, states.clamp(min=0) // 2)
    path = torch.where((states >= 0) & (states % 2 == 1), label, blank).to(targets.dtype)
    along = log_probs.gather(2, path.long().unsqueeze(2)).squeeze(2)
    return path, along.masked_fill(states < 0, 0.0)


def _why_not(item: int, labels: Tensor, frames: int, score: Tensor) -> str:
    """Why an item has no path."""
    if score.isnan():
        return f"log_probs: got a NaN or infinity in item {item}, expected log-probabilities"
    least = len(labels) + int((labels[1:] == labels[:-1]).sum())
    if frames < least:
        wanted = f"a frame for each of its {len(labels)} labels and between equal ones"
        return f"targets: got {frames} frames for item {item}, expected {wanted}"
    return f"log_probs: got a probability of zero on each path of item {item}"


def _whole(x: Tensor, dim: int) -> Tensor:
    return torch.full((len(x),), x.shape[dim], device=x.device)


@dataclass
class TokenSpan:
    """A token, its first frame, the frame after its last, and its mean score."""

    token: int
    start: int
    end: int
    score: float

    def __len__(self) -> int:
        return self.end - self.start


def merge_tokens(tokens: Tensor, scores: Tensor, blank: int = 0) -> list[TokenSpan]:
    """`torchaudio.functional.merge_tokens`: the runs of equal tokens in a path, without blanks.

    Args:
        tokens: `[T]`, the class at each frame, as `forced_align` has it.
        scores: `[T]`.
        blank: the class of the blank.

    Raises:
        ValueError: they do not have one dimension each, or differ in length.

    Examples:
        >>> import torch
        >>> merge_tokens(torch.tensor([0, 1, 1, 0]), torch.tensor([-1.0, -0.5, -1.5, -1.0]))
        [TokenSpan(token=1, start=1, end=3, score=-1.0)]
    """
    if tokens.dim() != 1 or tokens.shape != scores.shape:
        got = f"{list(tokens.shape)} and {list(scores.shape)}"
        raise ValueError(f"tokens, scores: got {got}, expected one dimension of one length")
    spans, start = [], 0
    for token, run in itertools.groupby(tokens.tolist()):
        end = start + len(list(run))
        if token != blank:
            spans.append(TokenSpan(token, start, end, scores[start:end].mean().item()))
        start = end
    return spans


def edit_distance(seq1: Sequence[Hashable], seq2: Sequence[Hashable]) -> int:
    """`torchaudio.functional.edit_distance`: the number of insertions, deletions and substitutions.

    Examples:
        >>> edit_distance("kitten", "sitting")
        3
    """
    numbers: dict[Hashable, int] = {}
    rows = [[numbers.setdefault(token, len(numbers)) for token in sequence] for sequence in (seq1, seq2)]
    lengths = [torch.tensor([len(row)]) for row in rows]
    found = EditDistance()(*(torch.tensor([row], dtype=torch.int64) for row in rows), *lengths)
    return int(found[0])
