"""Losses of a student against a teacher."""

from typing import Final

import torch
from torch import Tensor, nn

from . import ops
from .checks import check_inputs
from .contract import Contract, Input, Total
from .lattice.ctc import reduce_ctc
from .lattice.decode import greedy_labels
from .lengths import absolute_length, zero_behind
from .ops.scores import widened
from .settings import settings_repr

__all__ = ["CTCDistillationLoss", "CrossEntropyDistillationLoss", "NLLDistillationLoss"]

CTC_KD = Contract(
    (
        Input("log_probs", "B T C", "log_probability"),
        Input("targets", "B T C", "probability"),
        Input("input_lens", "B", "relative_length", of="T"),
    ),
    differentiable=("log_probs",),
    totals=(Total("loss"),),
)
CE_KD = Contract(
    (Input("inp", "N C", "log_probability"), Input("target", "N C", "probability")),
    differentiable=("inp", "target"),
    totals=(Total("loss", by="N", each=True),),
)
NLL_KD = Contract(
    (
        Input("probabilities", "B T C", "log_probability"),
        Input("targets", "B T C", "probability"),
        Input("rel_lab_lengths", "B", "relative_length", of="T"),
    ),
    differentiable=("probabilities", "targets"),
    totals=(Total("loss", by="T"),),
)


class CTCDistillationLoss(nn.Module):
    """The CTC loss of a student against the greedy labels of a teacher.

        loss = mean over items of  CTC cost(student, greedy labels of the teacher) / number of these labels

    Gao et al. 2020, "Distilling Knowledge from Ensembles of Acoustic Models for Joint CTC-Attention
    End-to-End Speech Recognition", https://arxiv.org/abs/2005.09310. Labels that cannot be aligned count as
    zero.

    Args:
        blank_index: the class of the blank.

    The call takes `log_probs` of the student `[B, T, C]`, `targets`, the scores of the teacher `[B, T, C]`,
    and `input_lens` `[B]`, relative in (0, 1] or integers in frames. It returns a scalar.

    Raises:
        ValueError: the shapes do not match, or a length is out of range.

    Examples:
        >>> import torch
        >>> teacher = torch.eye(3)[[1, 1, 0, 2]].unsqueeze(0)
        >>> CTCDistillationLoss()((0.9 * teacher + 0.1 / 3).log(), teacher, torch.tensor([1.0]))
        tensor(0.0678)
    """

    custom_ops: Final[bool]  # script to our operator instead of plain torch; see to_torchscript

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.custom_ops = False

    def forward(self, log_probs: Tensor, targets: Tensor, input_lens: Tensor) -> Tensor:
        blank_index = self.blank_index
        if not torch.jit.is_scripting():
            given = {"log_probs": log_probs, "targets": targets, "input_lens": input_lens}
            check_inputs(CTC_KD, given, blank_index=blank_index)
        input_lengths = absolute_length(input_lens, log_probs.shape[1])
        labels, label_lengths = greedy_labels(targets, input_lengths, blank_index)
        if torch.jit.is_scripting():
            if self.custom_ops:
                costs = torch.ops.exportable_losses.ctc_loss(
                    log_probs, labels, input_lengths, label_lengths, blank_index
                )
            else:
                costs = ops.ctc_costs(log_probs, labels, input_lengths, label_lengths, blank_index)
        else:
            costs = torch.ops.exportable_losses.ctc_loss(
                log_probs, labels, input_lengths, label_lengths, blank_index
            )
        return reduce_ctc(costs, label_lengths, "mean", True)


def ctc_loss_kd(
    log_probs: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    blank_index: int,
    device: str | torch.device | None = None,
) -> Tensor:
    """`CTCDistillationLoss` as a function. `device` is accepted as in SpeechBrain, but not read."""
    return CTCDistillationLoss(blank_index)(log_probs, targets, input_lens)


def ce_kd(inp: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy of each row: minus the sum of `target * inp` over classes.

        loss(n) = -sum over c of target(n, c) · inp(n, c)

    Args:
        inp: the student's log-probabilities `[N, C]`.
        target: the teacher's probabilities `[N, C]`.

    Returns:
        `[N]`.

    Raises:
        ValueError: the shapes differ.

    Examples:
        >>> import torch
        >>> ce_kd(torch.tensor([[-1.0, -2.0]]), torch.tensor([[0.5, 0.5]]))
        tensor([1.5000])
    """
    if not torch.jit.is_scripting():
        check_inputs(CE_KD, {"inp": inp, "target": target})
    return -(widened(target) * widened(inp)).sum(1)


def nll_loss_kd(probabilities: Tensor, targets: Tensor, rel_lab_lengths: Tensor) -> Tensor:
    """`ce_kd` averaged over the frames within each item's length.

        loss = -sum over frames t and classes c of  teacher(t, c) · student(t, c) / number of frames

    Gao et al. 2020, https://arxiv.org/abs/2005.09310. The number of frames is `round(length * T)`, as in
    SpeechBrain.

    Args:
        probabilities: the student's `[B, T, C]`; log-probabilities for a cross-entropy.
        targets: the teacher's probabilities `[B, T, C]`.
        rel_lab_lengths: lengths `[B]`, relative in (0, 1] or integers in frames.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not match, or a length is out of range.

    Examples:
        >>> import torch
        >>> student = torch.tensor([[[0.8, 0.2], [0.2, 0.8]]])
        >>> teacher = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]])
        >>> nll_loss_kd(student, teacher, torch.tensor([1.0]))
        tensor(-0.7400)
    """
    if not torch.jit.is_scripting():
        given = {"probabilities": probabilities, "targets": targets, "rel_lab_lengths": rel_lab_lengths}
        check_inputs(NLL_KD, given)
    frame = torch.arange(targets.shape[1], device=targets.device)
    counts = frame < absolute_length(rel_lab_lengths, targets.shape[1]).unsqueeze(1)
    targets, probabilities = widened(targets), widened(probabilities)
    loss = -(zero_behind(targets, counts) * zero_behind(probabilities, counts))
    return loss.sum() / counts.to(loss.dtype).sum()


class CrossEntropyDistillationLoss(nn.Module):
    """`ce_kd` as a module. The call takes `inp` and `target`."""

    def forward(self, inp: Tensor, target: Tensor) -> Tensor:
        return ce_kd(inp, target)


class NLLDistillationLoss(nn.Module):
    """`nll_loss_kd` as a module. The call takes `probabilities`, `targets` and `rel_lab_lengths`."""

    def forward(self, probabilities: Tensor, targets: Tensor, rel_lab_lengths: Tensor) -> Tensor:
        return nll_loss_kd(probabilities, targets, rel_lab_lengths)
