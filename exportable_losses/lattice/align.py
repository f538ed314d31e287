"""The best path through a transducer's lattice: where each label of a target begins and ends."""

import torch
from torch import Tensor

from ..checks import check_choice
from ..contract import Contract, Total
from ..settings import settings_repr
from .arcs import TOPOLOGIES, OfLattice, arcs_of
from .ctc_align import PATH, Aligned
from .durations import TDT, check_multi_blank, check_tdt, multi_blank_emissions, tdt_emissions
from .hybrid import check_hat, hat_emissions
from .pruned import PRUNED, pruned_arcs, pruned_lengths
from .sums import SIMPLE, OfSimple
from .transducer import TRANSDUCER, absolute_lengths, transducer_emissions, transducer_lengths

__all__ = [
    "HATAlign",
    "MultiBlankTransducerAlign",
    "PrunedTransducerAlign",
    "SimpleTransducerAlign",
    "TDTAlign",
    "TransducerAlign",
]

TRANSDUCER_ALIGN = Contract(TRANSDUCER.inputs, PATH, totals=(Total("path_scores"),))
TDT_ALIGN = Contract(TDT.inputs, PATH, totals=(Total("path_scores"),))
SIMPLE_ALIGN = Contract(SIMPLE.inputs, PATH, totals=(Total("path_scores"),))
PRUNED_ALIGN = Contract(PRUNED.inputs, PATH, totals=(Total("path_scores"),))


class TransducerAlign(OfLattice):
    """The most probable path through a transducer's lattice: when each label is emitted.

        path = argmax over the paths from (0, 0) to (T, U) of the product of the probabilities of their arcs

    The Viterbi algorithm on the lattice of Graves 2012, https://arxiv.org/abs/1211.3711. Of equally probable
    paths it takes the one that emits earlier the last label on which they differ. No gradient flows to
    `logits`.

    Args:
        blank_index: the class of the blank.
        topology: ``regular``, ``modified`` or ``constrained``, as in `TransducerLoss`.

    The call takes what `TransducerLoss` takes. It returns:

    - `tokens` `[B, U]`: the labels, -1 beyond the length of an item;
    - `starts` and `ends` `[B, U]`: the frame at which each label is emitted, and the next; zero beyond the
      length;
    - `scores` `[B, U]`: the log-probability of each label's arc; zero beyond the length;
    - `path_scores` `[B]`: the log-probability of the whole path, blanks included.

    Where no path is possible, frames are zero and all scores are -inf.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below V.

    Examples:
        >>> import torch
        >>> ones = torch.tensor([1.0])
        >>> logits = torch.zeros(1, 3, 2, 4)
        >>> logits[0, 1, 0, 3] = 5.0  # label 3 at frame 1, when none has been emitted yet
        >>> tokens, starts, ends, *_ = TransducerAlign()(logits, torch.tensor([[3]]), ones, ones)
        >>> tokens, starts, ends
        (tensor([[3]]), tensor([[1]]), tensor([[2]]))
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0, topology: str = "regular") -> None:
        super().__init__()
        self.blank_index = blank_index
        self.topology = check_choice("topology", topology, TOPOLOGIES)
        self.emissions = transducer_emissions(blank_index, topology)

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Aligned:
        frames, labels = transducer_lengths(logits, targets, input_lens, target_lens, self.blank_index)
        return self.emissions.align(logits, targets, frames, labels)


class TDTAlign(OfLattice):
    """The most probable path through a TDT's lattice: when each token is emitted, and how long it lasts.

        path = argmax over the paths of `TDTLoss` of the product of the probabilities of their arcs

    The Viterbi algorithm on the lattice of Xu et al. 2023, https://arxiv.org/abs/2304.06795. Of equally
    probable paths it takes, traced back from the end, blanks before labels, and either in the order of
    `durations`. No gradient flows to `logits`.

    Args:
        blank_index: the class of the blank.
        durations: in frames, in the order of their logits.

    The call takes what `TDTLoss` takes, and returns what `TransducerAlign` returns: here a token's `end` is
    its start and its duration, which may be none, and its score is that of the token and the duration
    together.

    Raises:
        ValueError: as `TDTLoss` does.

    Examples:
        >>> import torch
        >>> ones, logits = torch.tensor([1.0]), torch.zeros(1, 4, 2, 3 + 3)
        >>> logits[0, 0, 0, 2] = logits[0, 0, 0, 3 + 2] = 9.0  # at first token 2, for the third duration
        >>> align = TDTAlign(durations=(0, 1, 2))
        >>> tokens, starts, ends, *_ = align(logits, torch.tensor([[2]]), ones, ones)
        >>> tokens, starts, ends
        (tensor([[2]]), tensor([[0]]), tensor([[2]]))
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0, durations: tuple[int, ...] = (0, 1, 2, 3, 4)) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.durations = tuple(durations)
        self.emissions = tdt_emissions(blank_index, self.durations)

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Aligned:
        if not torch.jit.is_scripting():
            check_tdt(logits, targets, input_lens, target_lens, self.blank_index, self.durations)
        frames, labels = absolute_lengths(logits.shape[1], targets, input_lens, target_lens)
        return self.emissions.align(logits, targets, frames, labels)


class MultiBlankTransducerAlign(OfLattice):
    """The most probable path through the lattice of a transducer with big blanks: when each label is emitted.

        path = argmax over the paths of `MultiBlankTransducerLoss` of the product of the probabilities of
        their arcs

    The Viterbi algorithm on the lattice of Xu et al. 2022, https://arxiv.org/abs/2211.03541. Of equally
    probable paths it takes, traced back from the end, the blank before the big ones, and these before labels.
    No gradient flows to `logits`.

    Args:
        blank_index: the class of the blank; the i-th big blank, from 0, is class `blank_index - 1 - i`.
        big_blank_durations: of the big blanks, in frames.

    The call takes what `MultiBlankTransducerLoss` takes, and returns what `TransducerAlign` returns.

    Raises:
        ValueError: as `MultiBlankTransducerLoss` does.

    Examples:
        >>> import torch
        >>> ones, logits = torch.tensor([1.0]), torch.zeros(1, 3, 2, 4)
        >>> logits[0, 0, 0, 0] = logits[0, 2, 0, 3] = 9.0  # a big blank at first, then label 3 at frame 2
        >>> align = MultiBlankTransducerAlign(blank_index=1, big_blank_durations=(2,))
        >>> align(logits, torch.tensor([[3]]), ones, ones)[1]
        tensor([[2]])
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 2, big_blank_durations: tuple[int, ...] = (2, 4)) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.big_blank_durations = tuple(big_blank_durations)
        self.emissions = multi_blank_emissions(blank_index, self.big_blank_durations)

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Aligned:
        if not torch.jit.is_scripting():
            check_multi_blank(
                logits, targets, input_lens, target_lens, self.blank_index, self.big_blank_durations
            )
        frames, labels = absolute_lengths(logits.shape[1], targets, input_lens, target_lens)
        return self.emissions.align(logits, targets, frames, labels)


class HATAlign(OfLattice):
    """The most probable path through the lattice of a hybrid transducer: when each label is emitted.

        path = argmax over the paths of `HATLoss` of the product of the probabilities of their arcs

    The Viterbi algorithm on the lattice of Variani et al. 2020, https://arxiv.org/abs/2003.07705; equally
    probable paths as in `TransducerAlign`. No gradient flows to `logits`.

    Args:
        blank_index: the class of the blank.

    The call takes what `HATLoss` takes, and returns what `TransducerAlign` returns.

    Raises:
        ValueError: as `HATLoss` does.

    Examples:
        >>> import torch
        >>> ones, logits = torch.tensor([1.0]), torch.zeros(1, 3, 2, 4)
        >>> logits[0, 1, 0, 0] = -9.0  # at frame 1 it will not be the blank
        >>> HATAlign()(logits, torch.tensor([[3]]), ones, ones)[1]
        tensor([[1]])
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.emissions = hat_emissions(blank_index)

    def forward(self, logits: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Aligned:
        if not torch.jit.is_scripting():
            check_hat(logits)
        frames, labels = transducer_lengths(logits, targets, input_lens, target_lens, self.blank_index)
        return self.emissions.align(logits, targets, frames, labels)


class PrunedTransducerAlign(OfLattice):
    """The most probable path through a transducer's lattice within ranges: when each label is emitted.

        path = argmax over the paths of `PrunedTransducerLoss` of the product of the probabilities of their
        arcs

    The Viterbi algorithm on the lattice of Kuang et al. 2022, https://arxiv.org/abs/2206.13236; equally
    probable paths as in `TransducerAlign`. No gradient flows to `logits`.

    Args:
        blank_index: the class of the blank.
        topology: ``regular``, ``modified`` or ``constrained``, as in `TransducerLoss`.

    The call takes what `PrunedTransducerLoss` takes, and returns what `TransducerAlign` returns.

    Raises:
        ValueError: as `PrunedTransducerLoss` does.

    Examples:
        >>> import torch
        >>> ones, logits = torch.tensor([1.0]), torch.zeros(1, 3, 2, 4)
        >>> logits[0, 1, 0, 3] = 5.0
        >>> every = torch.arange(2).expand(1, 3, 2)
        >>> PrunedTransducerAlign()(logits, every, torch.tensor([[3]]), ones, ones)[1]
        tensor([[1]])
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0, topology: str = "regular") -> None:
        super().__init__()
        self.blank_index = blank_index
        self.topology = check_choice("topology", topology, TOPOLOGIES)
        self.arcs = arcs_of(topology)

    def forward(
        self, logits: Tensor, ranges: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> Aligned:
        blank = self.blank_index
        frames, labels = pruned_lengths(logits, ranges, targets, input_lens, target_lens, blank)
        constrained = self.topology == "constrained"
        arcs = pruned_arcs(logits.detach(), ranges, targets, frames, labels, blank, 0.0, constrained)
        return self.arcs.align(arcs, targets, frames, labels)


class SimpleTransducerAlign(OfSimple):
    """The most probable path of a transducer whose logits are am(t) + lm(u): when each label is emitted.

        path = argmax over the paths of `SimpleTransducerLoss` of the product of the probabilities of their
        arcs

    The Viterbi algorithm on the lattice of Kuang et al. 2022, https://arxiv.org/abs/2206.13236; equally
    probable paths as in `TransducerAlign`. No gradient flows to `am` and `lm`.

    Args:
        blank_index: the class of the blank.
        lm_only_scale: as in `SimpleTransducerLoss`.
        am_only_scale: as in `SimpleTransducerLoss`.
        topology: ``regular``, ``modified`` or ``constrained``, as in `TransducerLoss`.

    The call takes what `SimpleTransducerLoss` takes, and returns what `TransducerAlign` returns.

    Raises:
        ValueError: as `SimpleTransducerLoss` does.

    Examples:
        >>> import torch
        >>> ones, am, lm = torch.tensor([1.0]), torch.zeros(1, 3, 4), torch.zeros(1, 2, 4)
        >>> am[0, 1, 3] = 5.0
        >>> SimpleTransducerAlign()(am, lm, torch.tensor([[3]]), ones, ones)[1]
        tensor([[1]])
    """

    def forward(
        self, am: Tensor, lm: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> Aligned:
        arcs, frames, labels = self.leaving(am, lm, targets, input_lens, target_lens)
        return self.arcs.align(arcs, targets, frames, labels)
