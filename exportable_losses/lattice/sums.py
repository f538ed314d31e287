"""The lattice of transducers whose logits are sums, am(t) + lm(u): the arcs that leave each node.

Kuang et al. 2022, "Pruned RNN-T for fast, memory-efficient ASR training", https://arxiv.org/abs/2206.13236,
section 3.2, and smoothed as in section 3.3.
"""

import torch
from torch import Tensor

from .. import ops
from ..checks import check_choice, check_inputs
from ..contract import Contract, Input, Total
from ..settings import settings_repr
from .arcs import TOPOLOGIES, OfLattice, arcs_of, check_blank, check_weight
from .transducer import TRANSDUCER, absolute_lengths

SIMPLE = Contract(
    (Input("am", "B T V"), Input("lm", "B U+1 V"), *TRANSDUCER.inputs[1:]),
    differentiable=("am", "lm"),
    totals=(Total("loss"),),
)


def simple_arcs(
    am: Tensor,
    lm: Tensor,
    targets: Tensor,
    frames: Tensor,
    labels: Tensor,
    blank_index: int,
    lm_only_scale: float,
    am_only_scale: float,
    delay_penalty: float,
    constrained: bool,
) -> Tensor:
    """The blank and the label that leave each node `[B, T, U+1, 2]`, whose logits are am(t) + lm(u)."""
    dtype = torch.promote_types(torch.promote_types(am.dtype, lm.dtype), torch.float32)
    am, lm = am.to(dtype), lm.to(dtype)
    label = ops.next_labels(targets, labels, blank_index)
    if torch.jit.is_scripting() or torch.compiler.is_compiling():
        arcs = ops.joint_arcs_everywhere(am, lm, label, frames, labels, blank_index)
    else:
        arcs = torch.ops.exportable_losses.joint_arcs(am, lm, label, frames, labels, blank_index)[0]
    at = torch.stack([torch.full_like(label, blank_index), label], 2)
    if lm_only_scale != 0.0 or am_only_scale != 0.0:
        both = 1.0 - lm_only_scale - am_only_scale
        arcs = (
            both * arcs if both != 0.0 else torch.zeros_like(arcs)
        )  # what is impossible may count for nothing
        lm = ops.without_padding(lm, labels + 1)
    if lm_only_scale != 0.0:
        arcs = arcs + lm_only_scale * lm.log_softmax(2).gather(2, at).unsqueeze(1)
    if am_only_scale != 0.0:
        # what the labels say on average, over the item's own rows
        own = (torch.arange(lm.shape[1], device=lm.device) <= labels.unsqueeze(1)).to(lm.dtype)
        tiny = 1e-38 if dtype == torch.float32 else 1e-300  # as fast_rnnt's: a class that is never said
        prior = (lm.softmax(2) * own.unsqueeze(2)).sum(1) / own.sum(1, keepdim=True)
        alone = (ops.without_padding(am, frames) + (prior + tiny).log().unsqueeze(1)).log_softmax(2)
        every = at.flatten(1).unsqueeze(1).expand(-1, am.shape[1], -1)
        arcs = arcs + am_only_scale * alone.gather(2, every).unflatten(2, at.shape[1:])
    if not constrained and delay_penalty == 0.0:
        return arcs
    stay, emit = arcs.unbind(3)
    return torch.stack([stay, ops.shaped(emit, stay, frames, constrained, delay_penalty)], 3)


def simple_lengths(
    am: Tensor, lm: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor, blank_index: int
) -> tuple[Tensor, Tensor]:
    """The frames and the labels of each item `[B]`, int64, of inputs that an eager call checks."""
    if not torch.jit.is_scripting():
        given = {"am": am, "lm": lm, "targets": targets, "input_lens": input_lens, "target_lens": target_lens}
        check_inputs(SIMPLE, given, blank_index=blank_index)
    return absolute_lengths(am.shape[1], targets, input_lens, target_lens)


class OfSimple(OfLattice):
    """The lattice of `SimpleTransducerLoss` without its gradient, for a module that looks at its paths."""

    extra_repr = settings_repr

    def __init__(
        self,
        blank_index: int = 0,
        lm_only_scale: float = 0.0,
        am_only_scale: float = 0.0,
        topology: str = "regular",
    ) -> None:
        super().__init__()
        self.blank_index = check_blank(blank_index)
        self.lm_only_scale = check_weight("lm_only_scale", lm_only_scale, 0.0)
        self.am_only_scale = check_weight("am_only_scale", am_only_scale, 0.0)
        self.topology = check_choice("topology", topology, TOPOLOGIES)
        self.arcs = arcs_of(topology)

    def leaving(
        self, am: Tensor, lm: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The arcs that leave each node `[B, T, U+1, 2]`, and the frames and labels of each item."""
        blank, scales = self.blank_index, (self.lm_only_scale, self.am_only_scale)
        frames, labels = simple_lengths(am, lm, targets, input_lens, target_lens, blank)
        constrained = self.topology == "constrained"
        arcs = simple_arcs(
            am.detach(), lm.detach(), targets, frames, labels, blank, scales[0], scales[1], 0.0, constrained
        )
        return arcs, frames, labels
