"""Transducers whose arcs last several frames: tokens with durations (TDT), and big blanks."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..checks import check_choice, check_inputs
from ..contract import Input
from ..settings import settings_repr
from .arcs import Arcs, Emissions, OfLattice, check_blank, check_weight, reduced
from .transducer import TRANSDUCER, absolute_lengths

__all__ = ["MultiBlankTransducerLoss", "TDTLoss"]


# the five durations of the default; `fitted` to those of a module
TDT = replace(TRANSDUCER, inputs=(Input("logits", "B T U+1 V+5"), *TRANSDUCER.inputs[1:]))


def check_durations(name: str, durations: Sequence[int], least: int) -> tuple[int, ...]:
    """The durations of arcs, in frames.

    Raises:
        ValueError: one is smaller than `least`, given twice, or no integer.
    """
    found = tuple(durations)
    integers = all(isinstance(d, int) and not isinstance(d, bool) and d >= least for d in found)
    if not found or not integers or len(set(found)) < len(found):
        raise ValueError(f"{name}: got {found}, expected different integers of at least {least}")
    return found


def tdt_emissions(blank_index: int, durations: Sequence[int]) -> Emissions:
    """A token and a duration each: blanks of those above zero, and labels of all.

    Raises:
        ValueError: no duration is above zero.
    """
    durations = check_durations("durations", durations, least=0)
    if max(durations) == 0:
        raise ValueError(f"durations: got {durations}, expected one above 0, for blanks")
    lasting = [i for i, d in enumerate(durations) if d > 0]
    return Emissions(
        Arcs([durations[i] for i in lasting], durations),
        token=[check_blank(blank_index)] * len(lasting) + [-1] * len(durations),
        logit=[*lasting, *range(len(durations))],
        durations=len(durations),
    )


def check_tdt(
    logits: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int,
    durations: Sequence[int],
) -> None:
    """Refuse inputs that `TDTLoss` does not take."""
    if isinstance(logits, Tensor) and logits.dim() == 4 and logits.shape[3] <= len(durations):
        expected = f"more than the {len(durations)} durations, tokens before them"
        raise ValueError(f"logits: got size {logits.shape[3]} along dimension 3, expected {expected}")
    given = {"logits": logits, "targets": targets, "input_lens": input_lens, "target_lens": target_lens}
    check_inputs(TDT.fitted({"durations": durations}), given, blank_index=blank_index)


def multi_blank_emissions(blank_index: int, big_blank_durations: Sequence[int]) -> Emissions:
    """A blank of one frame, one of each of these durations, and a label."""
    durations = [1, *check_durations("big_blank_durations", big_blank_durations, least=1)]
    check_blank(blank_index, len(durations) - 1)
    return Emissions(Arcs(durations, [0]), token=[*(blank_index - i for i in range(len(durations))), -1])


def check_multi_blank(
    logits: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int,
    big_blank_durations: Sequence[int],
) -> None:
    """Refuse inputs that `MultiBlankTransducerLoss` does not take."""
    given = {"logits": logits, "targets": targets, "input_lens": input_lens, "target_lens": target_lens}
    check_inputs(TRANSDUCER, given, blank_index=blank_index, big_blank_durations=big_blank_durations)


class TDTLoss(OfLattice):
    """The negative log-likelihood of label sequences under a token-and-duration transducer (TDT).

        cost = -ln sum over the paths from (0, 0) to (T, U) of the product of the probabilities of their arcs
        arcs, for each duration d: a blank from (t, u) to (t + d, u) where d > 0, and label u + 1 from (t, u)
        to (t + d, u + 1), before frame T; each has the probability of its token times that of d

    Xu et al. 2023, "Efficient Sequence Transduction by Jointly Predicting Tokens and Durations",
    https://arxiv.org/abs/2304.06795, as NeMo and transformers train it. The last arc is a blank to frame T.

    Args:
        blank_index: the class of the blank.
        durations: in frames, in the order of their logits.
        sigma: subtracted from the log-probability of each token, labels and blanks (section 3.3).
        fastemit_lambda: FastEmit: by how much more the tokens of labels count in the gradient; the cost
            stays.
        reduction: ``none`` and ``batch`` for costs in nats `[B]`, ``sum``, ``mean`` and ``batchmean`` for
            their mean over items.

    The call takes `logits` `[B, T, U+1, V + D]` (tokens and, behind them, durations, each normalised inside),
    `targets` `[B, U]` (integers without the blank; padding is not read), and the lengths `input_lens` and
    `target_lens` `[B]`, relative (to T in (0, 1], to U in [0, 1]) or integers in frames and labels.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, a label is the blank or not
            below V, a duration is given twice, or none is above zero.

    Examples:
        >>> import torch
        >>> loss = TDTLoss(blank_index=0, durations=(0, 1), reduction="sum")
        >>> ones = torch.tensor([1.0])
        >>> loss(torch.zeros(1, 2, 2, 4 + 2), torch.tensor([[3]]), ones, ones)
        tensor(3.9357)
    """

    extra_repr = settings_repr

    def __init__(
        self,
        blank_index: int = 0,
        durations: tuple[int, ...] = (0, 1, 2, 3, 4),
        sigma: float = 0.0,
        fastemit_lambda: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.durations = tuple(durations)
        self.sigma = check_weight("sigma", sigma, 0.0)
        self.fastemit_lambda = check_weight("fastemit_lambda", fastemit_lambda, 0.0)
        self.reduction = check_choice("reduction", reduction)
        self.emissions = tdt_emissions(blank_index, self.durations)

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            check_tdt(logits, targets, input_lens, target_lens, self.blank_index, self.durations)
        frames, labels = absolute_lengths(logits.shape[1], targets, input_lens, target_lens)
        costs = self.emissions(logits, targets, frames, labels, self.sigma, self.fastemit_lambda)
        return reduced(costs, self.reduction)


class MultiBlankTransducerLoss(OfLattice):
    """The negative log-likelihood of label sequences under a transducer with big blanks.

        cost = -ln sum over the paths from (0, 0) to (T, U) of the product of the probabilities of their arcs
        arcs: a blank from (t, u) to (t + 1, u), the i-th big blank to (t + d_i, u), label u + 1 to (t, u + 1)

    Xu et al. 2022, "Multi-blank Transducers for Speech Recognition", https://arxiv.org/abs/2211.03541, as
    NeMo trains it.

    Args:
        blank_index: the class of the blank; the i-th big blank, from 0, is class `blank_index - 1 - i`.
        big_blank_durations: of the big blanks, in frames.
        sigma: subtracted from the log-probability of each token (logit under-normalisation).
        fastemit_lambda: FastEmit: by how much more labels count in the gradient; the cost stays.
        reduction: ``none`` and ``batch`` for costs in nats `[B]`, ``sum``, ``mean`` and ``batchmean`` for
            their mean over items.

    The call takes what `TransducerLoss` takes; no label is a big blank.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is a blank or not
            below V.

    Examples:
        >>> import torch
        >>> loss = MultiBlankTransducerLoss(blank_index=1, big_blank_durations=(2,), reduction="sum")
        >>> ones = torch.tensor([1.0])
        >>> loss(torch.zeros(1, 2, 2, 4), torch.tensor([[3]]), ones, ones)
        tensor(2.3671)
    """

    extra_repr = settings_repr

    def __init__(
        self,
        blank_index: int = 2,
        big_blank_durations: tuple[int, ...] = (2, 4),
        sigma: float = 0.0,
        fastemit_lambda: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.big_blank_durations = tuple(big_blank_durations)
        self.sigma = check_weight("sigma", sigma, 0.0)
        self.fastemit_lambda = check_weight("fastemit_lambda", fastemit_lambda, 0.0)
        self.reduction = check_choice("reduction", reduction)
        self.emissions = multi_blank_emissions(blank_index, self.big_blank_durations)

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            check_multi_blank(
                logits, targets, input_lens, target_lens, self.blank_index, self.big_blank_durations
            )
        frames, labels = absolute_lengths(logits.shape[1], targets, input_lens, target_lens)
        costs = self.emissions(logits, targets, frames, labels, self.sigma, self.fastemit_lambda)
        return reduced(costs, self.reduction)


def tdt_loss(
    logits: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int = 0,
    durations: tuple[int, ...] = (0, 1, 2, 3, 4),
    sigma: float = 0.0,
    fastemit_lambda: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """`TDTLoss` as a function."""
    loss = TDTLoss(blank_index, durations, sigma, fastemit_lambda, reduction)
    return loss(logits, targets, input_lens, target_lens)


def multi_blank_transducer_loss(
    logits: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int = 2,
    big_blank_durations: tuple[int, ...] = (2, 4),
    sigma: float = 0.0,
    fastemit_lambda: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """`MultiBlankTransducerLoss` as a function."""
    loss = MultiBlankTransducerLoss(blank_index, big_blank_durations, sigma, fastemit_lambda, reduction)
    return loss(logits, targets, input_lens, target_lens)
