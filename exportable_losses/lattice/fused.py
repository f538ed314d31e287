"""Transducers whose logits are never in memory: they are made in tiles, of what a joint network is given.

Its last layer, and its weights, belong to the loss: `ops.fused_joint`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..checks import check_choice, check_inputs
from ..contract import Contract, Input, Total
from ..settings import settings_repr
from .arcs import TOPOLOGIES, Emissions, OfLattice, check_weight, reduced
from .durations import tdt_emissions
from .hybrid import hat_emissions
from .transducer import TRANSDUCER, absolute_lengths, transducer_emissions

__all__ = ["FusedTransducerLoss"]

FUSED = Contract(
    (
        Input("encoder", "B T H"),
        Input("predictor", "B U+1 H"),
        Input("weight", "V H"),
        Input("bias", "V"),
        *TRANSDUCER.inputs[1:],
    ),
    differentiable=("encoder", "predictor", "weight", "bias"),
    totals=(Total("loss"),),
    classes="V",
)


def of_one_type(
    encoder: Tensor, predictor: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The factors of a product in the type in which it is computed, which autocast says where it is on."""
    dtype = encoder.dtype if encoder.is_floating_point() else torch.float32
    for other in (predictor, weight, bias):
        if other.is_floating_point():
            dtype = torch.promote_types(dtype, other.dtype)
    if not torch.jit.is_scripting():
        device = encoder.device.type
        if torch.is_autocast_enabled(device) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
    return encoder.to(dtype), predictor.to(dtype), weight.to(dtype), bias.to(dtype)


def fused_emissions(
    blank_index: int, topology: str, durations: Sequence[int], hybrid: bool, sigma: float = 0.0
) -> Emissions:
    """What leaves a node: tokens with durations, a hybrid's, or a blank and a label of one softmax.

    Raises:
        ValueError: it would be of several kinds, or there is a `sigma` without durations.
    """
    if sigma != 0.0 and not durations:
        raise ValueError(f"sigma: got {sigma}, expected 0 without durations")
    kinds = {"topology": topology != "regular", "durations": len(durations) > 0, "hybrid": hybrid}
    given = [name for name, is_given in kinds.items() if is_given]
    if len(given) > 1:
        raise ValueError(f"{given[0]}: got another than the default with {given[1]}, expected one of them")
    if durations:
        return tdt_emissions(blank_index, durations)
    return hat_emissions(blank_index) if hybrid else transducer_emissions(blank_index, topology)


def fused_arcs(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    frames: Tensor,
    labels: Tensor,
    activation: str,
    token: list[int],
    logit: list[int],
    durations: int,
    hybrid: int,
    constrained: bool = False,
    sigma: float = 0.0,
    fastemit_lambda: float = 0.0,
    delay_penalty: float = 0.0,
) -> Tensor:
    """The arcs `[B, T, U+1, K]` of `ops.emitted_arcs`, of the logits of a joint network."""
    encoder, predictor, weight, bias = of_one_type(encoder, predictor, weight, bias)
    label = ops.next_labels(ops.illegal_seen(targets), labels, -1)
    others, classes = durations, [label]
    if hybrid >= 0:  # its blank goes behind the labels, which have a softmax of their own
        others = 1
        row = torch.arange(weight.shape[0] - 1, device=weight.device)
        order = torch.cat([row + (row >= hybrid).long(), torch.full_like(row[:1], hybrid)])
        weight, bias = weight[order], bias[order]
        label = torch.where(label == hybrid, 1 << 40, label)  # which is refused where it is looked up
        classes = [label - (label > hybrid).long()]
    else:
        for c in ops.classes_of(token)[0][:-1]:
            classes.insert(-1, torch.full_like(label, c))
    wanted, places = torch.stack(classes, 2), labels + 1
    if torch.jit.is_scripting():
        found = ops.fused_joint(encoder, predictor, weight, bias, wanted, frames, places, others, activation)
    else:
        found = torch.ops.exportable_losses.fused_joint(
            encoder, predictor, weight, bias, wanted, frames, places, others, activation
        )
    log_probs, behind = found[..., : wanted.shape[2]], found[..., wanted.shape[2] :]
    if hybrid >= 0:
        log_probs = ops.decided(behind[..., 0], log_probs[..., 0])
    return ops.arcs_of_tokens(
        log_probs, behind, frames, token, logit, constrained, sigma, fastemit_lambda, delay_penalty
    )


class FusedTransducerLoss(OfLattice):
    """The loss of a transducer whose logits `[B, T, U+1, V]` are made inside, and never all at once.

        logits(t, u) = activation(encoder(t) + predictor(u)) · weightᵀ + bias
        cost = -ln sum over the paths from (0, 0) to (T, U) of the product of the probabilities of their arcs

    Graves 2012, https://arxiv.org/abs/1211.3711. The loss is that of `TransducerLoss`, or of `TDTLoss` with
    `durations`, or of `HATLoss` with `hybrid`.
    Of each row of logits a few numbers are kept, and the gradient computes the rows again: four products of
    matrices instead of three. What lies behind the lengths is not computed at all.

    Args:
        blank_index: the class of the blank.
        reduction: ``none`` and ``batch`` for costs in nats `[B]`, ``sum``, ``mean`` and ``batchmean`` for
            their mean over items.
        activation: ``tanh``, ``relu``, ``silu`` or ``identity``.
        fastemit_lambda: FastEmit: by how much more labels count in the gradient; the cost stays.
        delay_penalty: added to the logarithm of a label's arc for each frame that it comes before the middle
            of its item.
        topology: ``regular``, ``modified`` or ``constrained``, as `TransducerLoss` has them.
        durations: of a TDT, in frames, in the order of their logits, which are the last rows of `weight`.
        sigma: of a TDT, subtracted from the log-probability of each token.
        hybrid: whether the blank is a decision of its own, as in `HATLoss`.

    The call takes `encoder` `[B, T, H]`, `predictor` `[B, U+1, H]`, `weight` `[V, H]` and `bias` `[V]`
    (`[V + D, H]` and `[V + D]` with D durations), `targets` `[B, U]` (integers without the blank; padding is
    not read), and the lengths `input_lens` and `target_lens` `[B]`, relative (to T in (0, 1], to U in [0, 1])
    or integers in frames and labels. Gradients flow to the first four. Under autocast products are in 16
    bits, and what is made of them in 32. A tanh in float32 is within 2e-7 of torch's.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below V.

    Examples:
        >>> import torch
        >>> encoder, predictor = torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)
        >>> weight, bias = torch.zeros(4, 5), torch.zeros(4)
        >>> loss, ones = FusedTransducerLoss(blank_index=0, reduction="sum"), torch.ones(1)
        >>> loss(encoder, predictor, weight, bias, torch.tensor([[3]]), ones, ones)
        tensor(3.4657)
    """

    extra_repr = settings_repr

    def __init__(
        self,
        blank_index: int = 0,
        reduction: str = "mean",
        activation: str = "tanh",
        fastemit_lambda: float = 0.0,
        delay_penalty: float = 0.0,
        topology: str = "regular",
        durations: tuple[int, ...] = (),
        sigma: float = 0.0,
        hybrid: bool = False,
    ) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.reduction = check_choice("reduction", reduction)
        self.activation = check_choice("activation", activation, ops.ACTIVATIONS)
        self.fastemit_lambda = check_weight("fastemit_lambda", fastemit_lambda, 0.0)
        self.delay_penalty = check_weight("delay_penalty", delay_penalty)
        self.topology = check_choice("topology", topology, TOPOLOGIES)
        self.durations = tuple(durations)
        self.sigma = check_weight("sigma", sigma, 0.0)
        self.hybrid = hybrid
        self.emissions = fused_emissions(blank_index, topology, self.durations, hybrid, self.sigma)

    def forward(
        self,
        encoder: Tensor,
        predictor: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        input_lens: Tensor,
        target_lens: Tensor,
    ) -> Tensor:
        if not torch.jit.is_scripting():
            given = {
                "encoder": encoder,
                "predictor": predictor,
                "weight": weight,
                "bias": bias,
                "targets": targets,
                "input_lens": input_lens,
                "target_lens": target_lens,
            }
            contract = FUSED.fitted({"durations": self.durations})
            check_inputs(contract, given, blank_index=self.blank_index)
        frames, labels = absolute_lengths(encoder.shape[1], targets, input_lens, target_lens)
        arcs = fused_arcs(
            encoder,
            predictor,
            weight,
            bias,
            targets,
            frames,
            labels,
            self.activation,
            self.emissions.token,
            self.emissions.logit,
            self.emissions.durations,
            self.emissions.hybrid,
            self.emissions.constrained,
            self.sigma,
            self.fastemit_lambda,
            self.delay_penalty,
        )
        return reduced(self.emissions.arcs(arcs, frames, labels), self.reduction)


def fused_transducer_loss(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int = 0,
    reduction: str = "mean",
    activation: str = "tanh",
    fastemit_lambda: float = 0.0,
    delay_penalty: float = 0.0,
    topology: str = "regular",
    durations: tuple[int, ...] = (),
    sigma: float = 0.0,
    hybrid: bool = False,
) -> Tensor:
    """`FusedTransducerLoss` as a function."""
    weights = fastemit_lambda, delay_penalty
    loss = FusedTransducerLoss(
        blank_index, reduction, activation, *weights, topology, durations, sigma, hybrid
    )
    return loss(encoder, predictor, weight, bias, targets, input_lens, target_lens)
