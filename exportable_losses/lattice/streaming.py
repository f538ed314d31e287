"""The CTC loss of audio as it arrives: the forward recursion with its state in and out."""

import torch
from torch import Tensor, nn

from .. import ops
from ..checks import check_inputs
from ..contract import Contract, Input
from ..lengths import absolute_length
from ..ops.scores import widened
from ..settings import settings_repr
from .ctc import CTC

__all__ = ["CTCForwardChunk"]

_SCORES, _TARGETS, _, _TARGET_LENS = CTC.inputs
CHUNK = Contract(
    (
        _SCORES,
        _TARGETS,
        Input("input_lens", "B", "relative_length_or_zero", of="T"),
        _TARGET_LENS,
        Input("alpha", "B 2 S+1", "state"),
        Input("offset", "B 2", "state"),
    ),
    ("costs", "alpha_out", "offset_out"),
)


class CTCForwardChunk(nn.Module):
    """CTC's forward recursion over some frames, from where the frames before them have led.

    Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf, section 4.1. A device that gets
    its audio in pieces hands each piece to this, with what the call before gave. However the frames are
    divided, even one by one, the costs of the last call are those of the whole, to float32's last place.

    Args:
        blank_index: the class of the blank.

    Forward takes the next frames' `log_probs` `[B, T, C]`, `targets` `[B, S]`, the lengths `[B]`,
    relative in [0, 1] or integers, `input_lens` of these frames (0 for an item that is over) and
    `target_lens`, and the state: `alpha` `[B, 2, S+1]`, the log-probabilities of the blanks before each
    label and behind the last, and of the labels (the last of these is none), and `offset` `[B, 2]`, what
    an item's all lack, as a sum. `initial_state` gives both for the first frame: in `alpha` zero for the
    first blank and -inf for all else, and in `offset` zeros. It returns the `costs` `[B]` in nats that
    the target has if no more frames come, infinite where it cannot be aligned, and the new state. No
    gradient flows.

    Raises:
        ValueError: the shapes do not fit, a length is outside its range, or a label is the blank
            or not below C.

    Example:
        >>> import torch
        >>> log_probs, targets = torch.full((1, 4, 3), 1 / 3).log(), torch.tensor([[1, 2]])
        >>> chunk, whole = CTCForwardChunk(), torch.ones(1)
        >>> alpha, offset = chunk.initial_state(targets)
        >>> for piece in log_probs.split(3, dim=1):
        ...     costs, alpha, offset = chunk(piece, targets, whole, whole, alpha, offset)
        >>> costs  # 15 of 81 alignments
        tensor([1.6864])
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index

    def forward(
        self,
        log_probs: Tensor,
        targets: Tensor,
        input_lens: Tensor,
        target_lens: Tensor,
        alpha: Tensor,
        offset: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        blank_index = self.blank_index
        if not torch.jit.is_scripting():
            given = {
                "log_probs": log_probs,
                "targets": targets,
                "input_lens": input_lens,
                "target_lens": target_lens,
                "alpha": alpha,
                "offset": offset,
            }
            check_inputs(CHUNK, given, blank_index=blank_index)
        log_probs, alpha, offset = log_probs.detach(), widened(alpha.detach()), widened(offset.detach())
        input_lengths = absolute_length(input_lens, log_probs.shape[1], least=0)
        target_lengths = absolute_length(target_lens, targets.shape[1], least=0)
        if torch.jit.is_scripting():
            return ops.ctc_forward(
                log_probs, targets, input_lengths, target_lengths, blank_index, alpha, offset
            )
        return torch.ops.exportable_losses.ctc_forward(
            log_probs, targets, input_lengths, target_lengths, blank_index, alpha, offset
        )

    @torch.jit.export
    def initial_state(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """`alpha` and `offset` before the first frame, float32, on the device of `targets` `[B, S]`."""
        batch, labels = targets.shape
        alpha = torch.full([batch, 2, labels + 1], -torch.inf, device=targets.device)
        alpha[:, 0, 0] = 0.0
        return alpha, torch.zeros(batch, 2, device=targets.device)
