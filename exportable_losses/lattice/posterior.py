"""The posterior of a lattice: how probable each of its states is, given the target."""

import torch
from torch import Tensor, nn

from .. import ops
from ..checks import check_choice
from ..contract import Contract, Total
from ..settings import settings_repr
from .arcs import TOPOLOGIES, OfLattice, arcs_of
from .ctc import CTC, ctc_lengths
from .durations import TDT, check_multi_blank, check_tdt, multi_blank_emissions, tdt_emissions
from .hybrid import check_hat, hat_emissions
from .pruned import PRUNED, pruned_arcs, pruned_lengths
from .sums import SIMPLE, OfSimple
from .transducer import TRANSDUCER, absolute_lengths, transducer_emissions, transducer_lengths

__all__ = [
    "CTCPosterior",
    "HATPosterior",
    "MultiBlankTransducerPosterior",
    "PrunedTransducerPosterior",
    "SimpleTransducerPosterior",
    "TDTPosterior",
    "TransducerPosterior",
]

Occupied = tuple[Tensor, Tensor, Tensor]

CTC_POSTERIOR = Contract(CTC.inputs, ("posteriors", "costs"), totals=(Total("costs"),))
_OCCUPIED = ("posteriors", "emissions", "costs")
TRANSDUCER_POSTERIOR = Contract(TRANSDUCER.inputs, _OCCUPIED, totals=(Total("costs"),))
TDT_POSTERIOR = Contract(TDT.inputs, _OCCUPIED, totals=(Total("costs"),))
SIMPLE_POSTERIOR = Contract(SIMPLE.inputs, _OCCUPIED, totals=(Total("costs"),))
PRUNED_POSTERIOR = Contract(PRUNED.inputs, _OCCUPIED, totals=(Total("costs"),))


class CTCPosterior(nn.Module):
    """The occupation of the lattice: how probable each state is at each frame, given the target.

        posterior(t, s) = alpha(t, s) · beta(t, s) / (p(t, label of s) · p(target))

    Graves et al. 2006, equation 14, https://www.cs.toronto.edu/~graves/icml_2006.pdf. A target of n labels
    has 2n + 1 states: blanks at the even ones, label (s - 1) / 2 at the odd ones. No gradient flows to
    `log_probs`; for the gradient of the costs, use `CTCLoss`.

    Args:
        blank_index: the class of the blank.

    The call takes what `CTCLoss` takes. It returns the probabilities `[B, T, 2S+1]`, which add up to one over
    the states of each frame, and the costs in nats `[B]`. Beyond the frames and states of an item the
    probabilities are zero. A target that cannot be aligned has an infinite cost and zeros throughout.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below C.

    Examples:
        >>> import torch
        >>> log_probs = torch.full((1, 2, 3), 1 / 3).log()
        >>> posteriors, costs = CTCPosterior()(log_probs, torch.tensor([[1]]), torch.ones(1), torch.ones(1))
        >>> posteriors
        tensor([[[0.3333, 0.6667, 0.0000],
                 [0.0000, 0.6667, 0.3333]]])
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index

    def forward(
        self, log_probs: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor]:
        blank_index = self.blank_index
        input_lengths, target_lengths = ctc_lengths(log_probs, targets, input_lens, target_lens, blank_index)
        log_probs = log_probs.detach()
        if torch.jit.is_scripting():
            costs, posteriors = ops.ctc_posterior(
                log_probs, targets, input_lengths, target_lengths, blank_index
            )
        else:
            costs, posteriors = torch.ops.exportable_losses.ctc_posterior(
                log_probs, targets, input_lengths, target_lengths, blank_index
            )
        return posteriors, costs


class TransducerPosterior(OfLattice):
    """How probable each node of a transducer's lattice is, given the labels.

        posterior(t, u) = alpha(t, u) · beta(t, u) / p(labels)
        emission(t, u) = alpha(t, u) · p(label u + 1 at (t, u)) · beta(t, u + 1) / p(labels)

    Graves 2012, section 2.5, https://arxiv.org/abs/1211.3711. No gradient flows to `logits`.

    Args:
        blank_index: the class of the blank.
        topology: ``regular``, ``modified`` or ``constrained``, as in `TransducerLoss`.

    The call takes what `TransducerLoss` takes. It returns:

    - `posteriors` `[B, T, U+1]`: the probability that a path passes through the node (t, u), where u labels
      have been emitted by frame t;
    - `emissions` `[B, T, U]`: the probability that label u is emitted at frame t;
    - `costs` `[B]`, in nats.

    Posteriors and emissions are zero beyond the frames and labels of an item, and where its cost is infinite.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below V.

    Examples:
        >>> import torch
        >>> ones = torch.tensor([1.0])
        >>> posteriors, emissions, costs = TransducerPosterior()(
        ...     torch.zeros(1, 2, 2, 4), torch.tensor([[3]]), ones, ones
        ... )
        >>> posteriors  # the label is emitted at either frame
        tensor([[[1.0000, 0.5000],
                 [0.5000, 1.0000]]])
        >>> emissions.squeeze(-1)
        tensor([[0.5000, 0.5000]])
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0, topology: str = "regular") -> None:
        super().__init__()
        self.blank_index = blank_index
        self.topology = check_choice("topology", topology, TOPOLOGIES)
        self.emissions = transducer_emissions(blank_index, topology)

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Occupied:
        frames, labels = transducer_lengths(logits, targets, input_lens, target_lens, self.blank_index)
        return self.emissions.posterior(logits, targets, frames, labels)


class TDTPosterior(OfLattice):
    """How probable each node of a TDT's lattice is, given the labels.

        posterior(t, u) = alpha(t, u) · beta(t, u) / p(labels)
        emission(t, u) = sum over d of alpha(t, u) · p(label u + 1, d at (t, u)) · beta(t + d, u + 1) /
        p(labels)

    On the lattice of Xu et al. 2023, https://arxiv.org/abs/2304.06795. No gradient flows to `logits`.

    Args:
        blank_index: the class of the blank.
        durations: in frames, in the order of their logits.

    The call takes what `TDTLoss` takes, and returns what `TransducerPosterior` returns. A path passes over
    frames that an arc of several skips: there nodes add up to less than one.

    Raises:
        ValueError: as `TDTLoss` does.

    Examples:
        >>> import torch
        >>> ones = torch.tensor([1.0])
        >>> posterior = TDTPosterior(durations=(0, 1, 2))
        >>> _, emissions, _ = posterior(torch.zeros(1, 3, 2, 4 + 3), torch.tensor([[3]]), ones, ones)
        >>> emissions.squeeze(-1)
        tensor([[0.8953, 0.0689, 0.0358]])
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0, durations: tuple[int, ...] = (0, 1, 2, 3, 4)) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.durations = tuple(durations)
        self.emissions = tdt_emissions(blank_index, self.durations)

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Occupied:
        if not torch.jit.is_scripting():
            check_tdt(logits, targets, input_lens, target_lens, self.blank_index, self.durations)
        frames, labels = absolute_lengths(logits.shape[1], targets, input_lens, target_lens)
        return self.emissions.posterior(logits, targets, frames, labels)


class MultiBlankTransducerPosterior(OfLattice):
    """How probable each node of the lattice of a transducer with big blanks is, given the labels.

        posterior(t, u) = alpha(t, u) · beta(t, u) / p(labels)
        emission(t, u) = alpha(t, u) · p(label u + 1 at (t, u)) · beta(t, u + 1) / p(labels)

    On the lattice of Xu et al. 2022, https://arxiv.org/abs/2211.03541. No gradient flows to `logits`.

    Args:
        blank_index: the class of the blank; the i-th big blank, from 0, is class `blank_index - 1 - i`.
        big_blank_durations: of the big blanks, in frames.

    The call takes what `MultiBlankTransducerLoss` takes, and returns what `TransducerPosterior` returns. A
    path passes over frames that a big blank skips.

    Raises:
        ValueError: as `MultiBlankTransducerLoss` does.

    Examples:
        >>> import torch
        >>> ones = torch.tensor([1.0])
        >>> posterior = MultiBlankTransducerPosterior(blank_index=1, big_blank_durations=(2,))
        >>> _, emissions, _ = posterior(torch.zeros(1, 2, 2, 4), torch.tensor([[3]]), ones, ones)
        >>> emissions.squeeze(-1)
        tensor([[0.8333, 0.1667]])
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 2, big_blank_durations: tuple[int, ...] = (2, 4)) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.big_blank_durations = tuple(big_blank_durations)
        self.emissions = multi_blank_emissions(blank_index, self.big_blank_durations)

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Occupied:
        if not torch.jit.is_scripting():
            check_multi_blank(
                logits, targets, input_lens, target_lens, self.blank_index, self.big_blank_durations
            )
        frames, labels = absolute_lengths(logits.shape[1], targets, input_lens, target_lens)
        return self.emissions.posterior(logits, targets, frames, labels)


class HATPosterior(OfLattice):
    """How probable each node of the lattice of a hybrid transducer is, given the labels.

        posterior(t, u) = alpha(t, u) · beta(t, u) / p(labels)
        emission(t, u) = alpha(t, u) · p(label u + 1 at (t, u)) · beta(t, u + 1) / p(labels)

    On the lattice of Variani et al. 2020, https://arxiv.org/abs/2003.07705. No gradient flows to `logits`.

    Args:
        blank_index: the class of the blank.

    The call takes what `HATLoss` takes, and returns what `TransducerPosterior` returns.

    Raises:
        ValueError: as `HATLoss` does.

    Examples:
        >>> import torch
        >>> ones = torch.tensor([1.0])
        >>> _, emissions, _ = HATPosterior()(torch.zeros(1, 2, 2, 4), torch.tensor([[3]]), ones, ones)
        >>> emissions.squeeze(-1)
        tensor([[0.5000, 0.5000]])
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.emissions = hat_emissions(blank_index)

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Occupied:
        if not torch.jit.is_scripting():
            check_hat(logits)
        frames, labels = transducer_lengths(logits, targets, input_lens, target_lens, self.blank_index)
        return self.emissions.posterior(logits, targets, frames, labels)


class PrunedTransducerPosterior(OfLattice):
    """How probable each node of a transducer's lattice is within ranges, given the labels.

        posterior(t, u) = alpha(t, u) · beta(t, u) / p(labels)
        emission(t, u) = alpha(t, u) · p(label u + 1 at (t, u)) · beta(t, u + 1) / p(labels)

    On the lattice of Kuang et al. 2022, https://arxiv.org/abs/2206.13236. No gradient flows to `logits`.

    Args:
        blank_index: the class of the blank.
        topology: ``regular``, ``modified`` or ``constrained``, as in `TransducerLoss`.

    The call takes what `PrunedTransducerLoss` takes, and returns what `TransducerPosterior` returns: of all
    numbers of labels, zero outside of the ranges.

    Raises:
        ValueError: as `PrunedTransducerLoss` does.

    Examples:
        >>> import torch
        >>> ones, every = torch.tensor([1.0]), torch.arange(2).expand(1, 2, 2)
        >>> posterior = PrunedTransducerPosterior()
        >>> _, emissions, _ = posterior(torch.zeros(1, 2, 2, 4), every, torch.tensor([[3]]), ones, ones)
        >>> emissions.squeeze(-1)
        tensor([[0.5000, 0.5000]])
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0, topology: str = "regular") -> None:
        super().__init__()
        self.blank_index = blank_index
        self.topology = check_choice("topology", topology, TOPOLOGIES)
        self.arcs = arcs_of(topology)

    def forward(
        self, logits: Tensor, ranges: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> Occupied:
        blank = self.blank_index
        frames, labels = pruned_lengths(logits, ranges, targets, input_lens, target_lens, blank)
        constrained = self.topology == "constrained"
        arcs = pruned_arcs(logits.detach(), ranges, targets, frames, labels, blank, 0.0, constrained)
        return self.arcs.posterior(arcs, frames, labels)


class SimpleTransducerPosterior(OfSimple):
    """How probable each node is of a transducer whose logits are am(t) + lm(u), given the labels.

        posterior(t, u) = alpha(t, u) · beta(t, u) / p(labels)
        emission(t, u) = alpha(t, u) · p(label u + 1 at (t, u)) · beta(t, u + 1) / p(labels)

    On the lattice of Kuang et al. 2022, https://arxiv.org/abs/2206.13236. No gradient flows to `am` and `lm`.

    Args:
        blank_index: the class of the blank.
        lm_only_scale: as in `SimpleTransducerLoss`.
        am_only_scale: as in `SimpleTransducerLoss`.
        topology: ``regular``, ``modified`` or ``constrained``, as in `TransducerLoss`.

    The call takes what `SimpleTransducerLoss` takes, and returns what `TransducerPosterior` returns.

    Raises:
        ValueError: as `SimpleTransducerLoss` does.

    Examples:
        >>> import torch
        >>> ones, am, lm = torch.tensor([1.0]), torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
        >>> _, emissions, _ = SimpleTransducerPosterior()(am, lm, torch.tensor([[3]]), ones, ones)
        >>> emissions.squeeze(-1)
        tensor([[0.5000, 0.5000]])
    """

    def forward(
        self, am: Tensor, lm: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> Occupied:
        arcs, frames, labels = self.leaving(am, lm, targets, input_lens, target_lens)
        return self.arcs.posterior(arcs, frames, labels)
