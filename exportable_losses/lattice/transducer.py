"""The transducer, or RNN-T."""

from typing import Any, Final

import torch
from torch import Tensor

from .. import ops
from ..checks import check_choice, check_inputs
from ..contract import Contract, Input, Total
from ..lengths import absolute_length
from ..masking import as_index
from ..settings import settings_repr
from .arcs import TOPOLOGIES, Emissions, OfLattice, arcs_of, check_blank, check_weight, reduced

__all__ = ["TransducerLoss"]

TRANSDUCER = Contract(
    (
        Input("logits", "B T U+1 V"),
        Input("targets", "B U", "index", below="V", lengths="target_lens"),
        Input("input_lens", "B", "relative_length", of="T"),
        Input("target_lens", "B", "relative_length_or_zero", of="U"),
    ),
    differentiable=("logits",),
    totals=(Total("loss"),),
)


def transducer_lengths(
    logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor, blank_index: int
) -> tuple[Tensor, Tensor]:
    """The frames and the labels of each item `[B]`, int64, of inputs that an eager call checks."""
    if not torch.jit.is_scripting():
        check_inputs(
            TRANSDUCER,
            {"logits": logits, "targets": targets, "input_lens": input_lens, "target_lens": target_lens},
            blank_index=blank_index,
        )
    return absolute_lengths(logits.shape[1], targets, input_lens, target_lens)


def absolute_lengths(
    frames: int, targets: Tensor, input_lens: Tensor, target_lens: Tensor
) -> tuple[Tensor, Tensor]:
    """The frames and the labels of each item `[B]`, int64."""
    as_index(targets)  # compiled code checks nothing else
    return absolute_length(input_lens, frames), absolute_length(target_lens, targets.shape[1], least=0)


def transducer_emissions(blank_index: int, topology: str) -> Emissions:
    """A blank and a label of one softmax."""
    token = [check_blank(blank_index), -1]
    return Emissions(arcs_of(topology), token, constrained=topology == "constrained")


class TransducerLoss(OfLattice):
    """The negative log-likelihood of label sequences under a transducer's lattice.

        cost = -ln sum over the paths from (0, 0) to (T, U) of the product of the probabilities of their arcs
        arcs: a blank from (t, u) to (t + 1, u), label u + 1 from (t, u) to (t, u + 1)

    Graves 2012, "Sequence Transduction with Recurrent Neural Networks", section 2.4,
    https://arxiv.org/abs/1211.3711. The last arc is a blank.

    Args:
        blank_index: the class of the blank.
        reduction: ``none`` and ``batch`` for costs in nats `[B]`, ``sum``, ``mean`` and
            ``batchmean`` for their mean over items.
        normalize: divide each cost by the number of frames of its item, as SpeechBrain's Numba
            transducer does; torchaudio's does not.
        fastemit_lambda: FastEmit (Yu et al. 2021, https://arxiv.org/abs/2010.11148): by how much more labels
            count in the gradient; the cost stays.
        delay_penalty: added to the logarithm of a label's arc for each frame that it comes before the middle
            of its item (Kang et al. 2023, https://arxiv.org/abs/2211.00490).
        topology: ``regular``; ``modified``, where a label takes a frame, so that it leads to (t + 1, u + 1);
            ``constrained``, where it takes the blank of (t, u + 1) as well.

    The call takes `logits` `[B, T, U+1, V]` (normalised inside), `targets` `[B, U]` (integers without the
    blank; padding is not read), and the lengths `input_lens` and `target_lens` `[B]`, relative (to T in
    (0, 1], to U in [0, 1]) or integers in frames and labels.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below V.

    Examples:
        >>> import torch
        >>> loss = TransducerLoss(blank_index=0, reduction="sum")
        >>> ones = torch.tensor([1.0])
        >>> loss(torch.zeros(1, 2, 2, 4), torch.tensor([[3]]), ones, ones)
        tensor(3.4657)
    """

    custom_ops: Final[bool]  # script to our operator instead of plain torch; see to_torchscript
    plain: bool  # the transducer of Graves, which has an operator of its own
    __constants__ = ("plain",)

    extra_repr = settings_repr

    def __init__(
        self,
        blank_index: int = 0,
        reduction: str = "mean",
        normalize: bool = False,
        fastemit_lambda: float = 0.0,
        delay_penalty: float = 0.0,
        topology: str = "regular",
    ) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.reduction = check_choice("reduction", reduction)
        self.normalize = normalize
        self.fastemit_lambda = check_weight("fastemit_lambda", fastemit_lambda, 0.0)
        self.delay_penalty = check_weight("delay_penalty", delay_penalty)
        self.topology = check_choice("topology", topology, TOPOLOGIES)
        self.custom_ops = False
        self._settle()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("fastemit_lambda", "delay_penalty") and "plain" in self.__dict__:
            self._settle()  # recipes change the weights while they train

    def _settle(self) -> None:
        weighted = self.fastemit_lambda != 0.0 or self.delay_penalty != 0.0
        self.plain = self.topology == "regular" and not weighted
        if not self.plain and "emissions" not in self._modules:
            self.emissions = transducer_emissions(self.blank_index, self.topology)

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Tensor:
        blank_index = self.blank_index
        input_lengths, target_lengths = transducer_lengths(
            logits, targets, input_lens, target_lens, blank_index
        )
        if not self.plain:
            costs = self.emissions(
                logits, targets, input_lengths, target_lengths, 0.0, self.fastemit_lambda, self.delay_penalty
            )
        elif torch.jit.is_scripting():
            if self.custom_ops:
                costs = torch.ops.exportable_losses.transducer_loss(
                    logits, targets, input_lengths, target_lengths, blank_index
                )
            else:
                costs = ops.transducer_costs(logits, targets, input_lengths, target_lengths, blank_index)
        else:
            costs = torch.ops.exportable_losses.transducer_loss(
                logits, targets, input_lengths, target_lengths, blank_index
            )
        if self.normalize:
            costs = costs / input_lengths.to(costs.dtype)
        return reduced(costs, self.reduction)


def transducer_loss(
    logits: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int,
    reduction: str = "mean",
    use_torchaudio: bool = True,
    fastemit_lambda: float = 0.0,
    delay_penalty: float = 0.0,
    topology: str = "regular",
) -> Tensor:
    """`TransducerLoss` as a function, with the argument names of SpeechBrain.

    SpeechBrain's two transducers disagree: with `use_torchaudio` costs are torchaudio's, without it each is
    divided by its number of frames. Neither torchaudio nor Numba is needed here.
    """
    weights = fastemit_lambda, delay_penalty
    loss = TransducerLoss(blank_index, reduction, not use_torchaudio, *weights, topology)
    return loss(logits, targets, input_lens, target_lens)
