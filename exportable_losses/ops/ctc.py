"""The CTC lattice in plain torch: torch's own kernel, mended where it is not defined.

Graves et al. 2006, "Connectionist Temporal Classification: Labelling Unsegmented Sequence Data
with Recurrent Neural Networks", https://www.cs.toronto.edu/~graves/icml_2006.pdf.
"""

import torch
from torch import Tensor
from torch.nn.functional import ctc_loss


def ctc_costs(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    zero_infinity: bool = False,
) -> Tensor:
    """Minus the log-probability of each target, summed over its alignments: `[B]`.

    Args:
        log_probs: `[B, T, C]`.
        targets: `[B, S]`; what lies behind an item's length is not read.
        input_lengths: frames per item `[B]`, int64.
        target_lengths: labels per item `[B]`, int64.
        blank_index: the class of the blank.
        zero_infinity: give zero instead of infinity to a target that cannot be aligned.
    """
    return ctc_loss(
        log_probs.transpose(0, 1),
        targets,
        input_lengths,
        target_lengths,
        blank_index,
        reduction="none",
        zero_infinity=zero_infinity,
    )


def ctc_costs_and_grad(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank_index: int,
    grad_costs: Tensor,
) -> tuple[Tensor, Tensor]:
    """The costs `[B]` and the gradient of their sum, weighted by `grad_costs`, in `log_probs`.

    The gradient is torch's: `exp(log_probs) - occupation`, the gradient in the logits when
    `log_probs` come from a log-softmax. It is zero where the cost is infinite, and where a
    log-probability is (torch gives NaN there).
    """
    frames_first = log_probs.transpose(0, 1)
    costs, log_alpha = torch.ops.aten._ctc_loss.Tensor(
        frames_first, targets, input_lengths, target_lengths, blank_index
    )
    grad = torch.ops.aten._ctc_loss_backward.Tensor(
        grad_costs,
        frames_first,
        targets,
        input_lengths,
        target_lengths,
        costs,
        log_alpha,
        blank_index,
        True,
    ).transpose(0, 1)
    return costs, grad.masked_fill(log_probs.isneginf(), 0.0)
