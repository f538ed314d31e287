"""The best path through a lattice: where each label of a target begins and ends."""

import torch
from torch import Tensor, nn

from .. import ops
from ..checks import check_choice
from ..contract import Contract, Total
from ..ops.scores import widened
from ..settings import settings_repr
from .arcs import TOPOLOGIES, OfLattice, arcs_of
from .ctc import CTC, ctc_lengths
from .durations import TDT, check_multi_blank, check_tdt, multi_blank_emissions, tdt_emissions
from .hybrid import check_hat, hat_emissions
from .pruned import PRUNED, pruned_arcs, pruned_lengths
from .transducer import TRANSDUCER, absolute_lengths, transducer_emissions, transducer_lengths

__all__ = [
    "CTCAlign",
    "HATAlign",
    "MultiBlankTransducerAlign",
    "PrunedTransducerAlign",
    "TDTAlign",
    "TransducerAlign",
]

Aligned = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

_PATH = ("tokens", "starts", "ends", "scores", "path_scores")
CTC_ALIGN = Contract(CTC.inputs, _PATH, totals=(Total("path_scores"),))
TRANSDUCER_ALIGN = Contract(TRANSDUCER.inputs, _PATH, totals=(Total("path_scores"),))
TDT_ALIGN = Contract(TDT.inputs, _PATH, totals=(Total("path_scores"),))
PRUNED_ALIGN = Contract(PRUNED.inputs, _PATH, totals=(Total("path_scores"),))


def sums_by_state(values: Tensor, states: Tensor, number: int) -> Tensor:
    """Add up `values` `[B, T]` over the frames of each of `number` states: `[B, number]`.

    `states` `[B, T]` is int64, -1 where the value does not count.
    """
    place = torch.where(states < 0, number, states)
    sums = torch.zeros(values.shape[0], number + 1, dtype=values.dtype, device=values.device)
    return sums.scatter_add(1, place, values)[:, :-1]


class CTCAlign(nn.Module):
    """The best path of a target through the frames: where each label begins and ends, and its score.

        path = argmax over the paths of the target of  p(1, path(1)) · p(2, path(2)) · ... · p(T, path(T))

    The Viterbi algorithm on the lattice of Graves et al. 2006,
    https://www.cs.toronto.edu/~graves/icml_2006.pdf. Of equally good paths it takes the one whose labels end
    early: traced back from the last frame, staying in a state is preferred to a step from the previous state,
    and that to a skip over a blank. No gradient flows to `log_probs`.

    Args:
        blank_index: the class of the blank.

    The call takes what `CTCLoss` takes. It returns:

    - `tokens` `[B, S]`: the targets, -1 beyond the length of an item;
    - `starts` and `ends` `[B, S]`: the first frame of each label and the frame after its last, int64; zero
      beyond the length;
    - `scores` `[B, S]`: the mean log-probability of the label over its frames; zero beyond the length;
    - `path_scores` `[B]`: the log-probability of the whole path, blanks included.

    For a target that cannot be aligned, starts and ends are zero and all scores are -inf.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below C.

    Examples:
        >>> import torch
        >>> log_probs = (9 * torch.eye(3)[[0, 1, 1, 0, 2]]).log_softmax(-1).unsqueeze(0)
        >>> align = CTCAlign(blank_index=0)
        >>> tokens, starts, ends, *_ = align(log_probs, torch.tensor([[1, 2]]), torch.ones(1), torch.ones(1))
        >>> tokens, starts, ends
        (tensor([[1, 2]]), tensor([[1, 4]]), tensor([[3, 5]]))
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index

    def forward(
        self, log_probs: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        blank_index = self.blank_index
        input_lengths, target_lengths = ctc_lengths(log_probs, targets, input_lens, target_lens, blank_index)
        log_probs = log_probs.detach()
        if torch.jit.is_scripting():
            states, path_scores = ops.ctc_align(
                log_probs, targets, input_lengths, target_lengths, blank_index
            )
        else:
            states, path_scores = torch.ops.exportable_losses.ctc_align(
                log_probs, targets, input_lengths, target_lengths, blank_index
            )
        width = targets.shape[1]
        within = torch.arange(width, device=targets.device) < target_lengths.unsqueeze(1)
        tokens = torch.where(within, targets.long(), -1)
        # a path goes through the states in order: the frames of those before add up to where one begins
        frames = sums_by_state(torch.ones_like(states), states, 2 * width + 1)
        ends = frames.cumsum(1)[:, 1::2].masked_fill(~within, 0)
        starts = ends - frames[:, 1::2]
        label = torch.nn.functional.pad(tokens, [0, 1]).gather(1, states.clamp(min=0) // 2).clamp(min=0)
        emitted = widened(log_probs.gather(2, label.unsqueeze(2)).squeeze(2))
        sums = sums_by_state(emitted, states, 2 * width + 1)[:, 1::2]
        scores = sums / frames[:, 1::2].to(sums.dtype)
        scores = torch.where(path_scores.isneginf().unsqueeze(1), -torch.inf, scores)
        return tokens, starts, ends, scores.masked_fill(~within, 0.0), path_scores


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
