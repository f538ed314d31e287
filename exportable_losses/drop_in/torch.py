"""`torch.nn.CTCLoss` and `torch.nn.functional.ctc_loss`, computed by this package."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..checks import check_choice
from ..lattice.ctc import CTCLoss as _CTCLoss
from ..lattice.ctc import reduce_ctc
from ..lengths import frame_mask, innermost

__all__ = ["CTCLoss", "ctc_loss", "patched"]

Lengths = Tensor | Sequence[int]


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """`torch.nn.functional.ctc_loss`: the same arguments, defaults, value and gradient.

    Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf. Unlike torch's own it takes 16-bit
    scores on a CPU; it computes in float32 then and returns float32.

    Args:
        log_probs: `[T, N, C]`, or `[T, C]` of one item: log-probabilities of the classes at each frame.
        targets: `[N, S]` or, one behind the other, `[sum(target_lengths)]`: integers without the blank. What
            lies behind a length is not read.
        input_lengths: `[N]`, or one number for one item: the frames of each, integers from 1 to T.
        target_lengths: likewise the labels of each, from 0 to S.
        blank: the class of the blank.
        reduction: ``none`` for costs in nats `[N]`, ``sum``, or ``mean``: each cost divided by the number of
            its labels, then averaged.
        zero_infinity: count a target that cannot be aligned as zero, with a gradient of zero. Without it the
            cost is infinite and the gradient of this item NaN, as in torch.

    Raises:
        TypeError: lengths or targets are no integers.
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank or not
            below C.

    Examples:
        >>> import torch
        >>> log_probs = torch.full((3, 1, 4), 0.25).log()
        >>> ctc_loss(log_probs, torch.tensor([[1, 2]]), (3,), (2,), reduction="sum")
        tensor(2.5494)
    """
    check_choice("reduction", reduction, ("none", "mean", "sum"))
    if log_probs.dim() not in (2, 3):
        raise ValueError(f"log_probs: got {list(log_probs.shape)}, expected [T, N, C] or [T, C]")
    alone = log_probs.dim() == 2
    scores = log_probs.unsqueeze(0) if alone else log_probs.transpose(0, 1)
    frames = _lengths("input_lengths", input_lengths, scores)
    labels = _lengths("target_lengths", target_lengths, scores)
    rows = targets.to(scores.device)
    if rows.dim() == 1:
        rows = _rows(rows, labels)
    costs = _CTCLoss(blank, "none", zero_infinity=False)(scores, rows, frames, labels)
    if scores.requires_grad and not zero_infinity:
        _blame(scores, costs.detach().isinf(), frames)
    if alone and reduction == "none":
        costs = costs.squeeze(0)
    return reduce_ctc(costs, labels, reduction, zero_infinity)


def _lengths(name: str, lengths: Lengths, scores: Tensor) -> Tensor:
    """Lengths of each item, int64 `[N]`, where the scores are."""
    found = torch.as_tensor(lengths, device=scores.device).reshape(-1)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"{name}: got {found.dtype}, expected integers")
    return found.long()


def _blame(scores: Tensor, infinite: Tensor, frames: Tensor) -> None:
    """Make the gradient NaN in the frames of items whose cost is infinite, where ours is zero."""
    within = infinite.unsqueeze(1) & frame_mask(frames, scores.shape[1])
    scores.register_hook(
        lambda grad: (
            grad.masked_fill(within.unsqueeze(2), math.nan) if bool(innermost(infinite).any()) else grad
        )
    )


def _rows(targets: Tensor, labels: Tensor) -> Tensor:
    """Concatenated targets as rows `[N, S]`; behind an item's last label stands something else."""
    if int(labels.sum()) > len(targets):
        raise ValueError(
            f"target_lengths: got {int(labels.sum())} in all, expected at most {len(targets)} labels"
        )
    width = int(labels.max()) if len(labels) else 0
    places = (labels.cumsum(0) - labels).unsqueeze(1) + torch.arange(width, device=labels.device)
    return nn.functional.pad(targets, [0, width])[places]


class CTCLoss(nn.Module):
    """`torch.nn.CTCLoss`; see `ctc_loss`."""

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__()
        self.blank = blank
        self.reduction = check_choice("reduction", reduction, ("none", "mean", "sum"))
        self.zero_infinity = zero_infinity

    def forward(
        self, log_probs: Tensor, targets: Tensor, input_lengths: Lengths, target_lengths: Lengths
    ) -> Tensor:
        settings = self.blank, self.reduction, self.zero_infinity
        return ctc_loss(log_probs, targets, input_lengths, target_lengths, *settings)


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Replace `torch.nn.functional.ctc_loss`, and so `torch.nn.CTCLoss`, by `ctc_loss` within a `with` block.

    The replacement holds for the whole process. Code that has imported the function by name keeps torch's.

    Examples:
        >>> import torch
        >>> loss = torch.nn.CTCLoss()
        >>> with patched():  # bfloat16 on a CPU, which torch's own refuses
        ...     value = loss(torch.zeros(5, 1, 3, dtype=torch.bfloat16), torch.tensor([[1]]), (5,), (1,))
        >>> value
        tensor(-2.7081)
    """
    before = nn.functional.ctc_loss
    nn.functional.ctc_loss = ctc_loss
    try:
        yield
    finally:
        nn.functional.ctc_loss = before
