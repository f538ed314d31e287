"""Losses of audio that arrives in pieces: the forward recursion with its state in and out."""

import torch
from torch import Tensor, nn

from .. import ops
from ..checks import check_choice, check_inputs
from ..contract import Contract, Input
from ..lengths import absolute_length
from ..ops.scores import widened
from ..settings import settings_repr
from .arcs import OfLattice
from .ctc import CTC
from .fused import FUSED, fused_arcs, fused_emissions

__all__ = ["CTCForwardChunk", "TransducerForwardChunk"]

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
TRANSDUCER_CHUNK = Contract(
    (
        *FUSED.inputs[:5],
        Input("input_lens", "B", "relative_length_or_zero", of="T"),
        FUSED.inputs[6],
        Input("alpha", "B U+1", "state"),
        Input("offset", "B 2", "state"),
    ),
    CHUNK.outputs,
    classes="V",
)


class CTCForwardChunk(nn.Module):
    """CTC's forward recursion over a chunk of frames, continued from the state after the previous chunk.

        alpha(t, s) = p(t, label of s) · (alpha(t - 1, s) + alpha(t - 1, s - 1) + alpha(t - 1, s - 2))

    The last term is there only between two different labels: Graves et al. 2006, section 4.1,
    https://www.cs.toronto.edu/~graves/icml_2006.pdf. A device that receives audio in pieces passes each piece
    with the state that the previous call returned. However the frames are divided, even one by one, the costs
    after the last call are those of the whole, to the last place of float32.

    Args:
        blank_index: the class of the blank.

    The call takes `log_probs` `[B, T, C]` of the next frames, `targets` `[B, S]`, `input_lens` `[B]` of these
    frames (0 for an item that has ended) and `target_lens` `[B]`, relative in [0, 1] or integers, and the
    state: `alpha` `[B, 2, S+1]`, the log-probabilities of the blanks (one before each label, one after the
    last) and of the labels (the last place is unused), and `offset` `[B, 2]`, a sum that is to be added to
    all of an item's. `initial_state` returns the state before the first frame. The call returns the `costs`
    `[B]` in nats of the target if no more frames follow, infinite where it cannot be aligned, and the new
    state. No gradient flows.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below C.

    Examples:
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


class TransducerForwardChunk(OfLattice):
    """A transducer's forward recursion over a chunk of frames, continued from the state after the last.

        alpha(t, u) = alpha(t - 1, u) · p(blank | t - 1, u) + alpha(t, u - 1) · p(label u | t, u - 1)
        logits(t, u) = activation(encoder(t) + predictor(u)) · weightᵀ + bias

    Graves 2012, section 2.4, https://arxiv.org/abs/1211.3711. The logits are made inside and never all at
    once, as in `FusedTransducerLoss`. However the frames are divided, even one by one, the costs after the
    last call are those of the whole, to the last place of float32.

    Args:
        blank_index: the class of the blank.
        activation: ``tanh``, ``relu``, ``silu`` or ``identity``.
        hybrid: whether the blank is a decision of its own, as in `HATLoss`.

    The call takes `encoder` `[B, T, H]` of the next frames, `predictor` `[B, U+1, H]`, `weight` `[V, H]`,
    `bias` `[V]`, `targets` `[B, U]`, `input_lens` `[B]` of these frames (0 for an item that has ended) and
    `target_lens` `[B]`, relative in [0, 1] or integers, and the state: `alpha` `[B, U+1]`, the
    log-probability of coming to the first of these frames at each u, and `offset` `[B, 2]`, a sum that is to
    be added to all of an item's. `initial_state` returns the state before the first frame. The call returns
    the `costs` `[B]` in nats of the target if no more frames follow, infinite where it cannot be aligned, and
    the new state. No gradient flows.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below V.

    Examples:
        >>> import torch
        >>> encoder, predictor = torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)
        >>> layer, targets, whole = (torch.zeros(4, 5), torch.zeros(4)), torch.tensor([[3]]), torch.ones(1)
        >>> chunk = TransducerForwardChunk()
        >>> alpha, offset = chunk.initial_state(targets)
        >>> for piece in encoder.split(1, dim=1):
        ...     costs, alpha, offset = chunk(piece, predictor, *layer, targets, whole, whole, alpha, offset)
        >>> costs  # as the loss of both frames
        tensor([3.4657])
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0, activation: str = "tanh", hybrid: bool = False) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.activation = check_choice("activation", activation, ops.ACTIVATIONS)
        self.hybrid = hybrid
        self.emissions = fused_emissions(blank_index, "regular", (), hybrid)

    def forward(
        self,
        encoder: Tensor,
        predictor: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        input_lens: Tensor,
        target_lens: Tensor,
        alpha: Tensor,
        offset: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not torch.jit.is_scripting():
            given = {
                "encoder": encoder,
                "predictor": predictor,
                "weight": weight,
                "bias": bias,
                "targets": targets,
                "input_lens": input_lens,
                "target_lens": target_lens,
                "alpha": alpha,
                "offset": offset,
            }
            check_inputs(TRANSDUCER_CHUNK, given, blank_index=self.blank_index)
        frames = absolute_length(input_lens, encoder.shape[1], least=0)
        labels = absolute_length(target_lens, targets.shape[1], least=0)
        arcs = fused_arcs(
            encoder.detach(),
            predictor.detach(),
            weight.detach(),
            bias.detach(),
            targets,
            frames,
            labels,
            self.activation,
            self.emissions.token,
            self.emissions.logit,
            0,
            self.emissions.hybrid,
        )
        alpha, offset = alpha.detach().to(arcs.dtype), offset.detach().to(arcs.dtype)
        if torch.jit.is_scripting():
            return ops.transducer_forward(arcs, frames, labels, alpha, offset)
        return torch.ops.exportable_losses.transducer_forward(arcs, frames, labels, alpha, offset)

    @torch.jit.export
    def initial_state(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """`alpha` and `offset` before the first frame, float32, on the device of `targets` `[B, U]`."""
        alpha = torch.full([targets.shape[0], targets.shape[1] + 1], -torch.inf, device=targets.device)
        alpha[:, 0] = 0.0
        return alpha, torch.zeros(targets.shape[0], 2, device=targets.device)
