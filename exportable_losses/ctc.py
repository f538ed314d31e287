"""The CTC loss, the lattice's occupation and best path, and the labels that are best without a target."""

from typing import Final

import torch
from torch import Tensor, nn

from . import ops
from .checks import check_choice, check_inputs
from .contract import Contract, Input, Total
from .masking import absolute_length

CTC = Contract(
    (
        Input("log_probs", "B T C", "log_probability"),
        Input("targets", "B S", "index", below="C", lengths="target_lens"),
        Input("input_lens", "B", "relative_length", of="T"),
        Input("target_lens", "B", "relative_length_or_zero", of="S"),
    ),
    differentiable=("log_probs",),
    totals=(Total("loss"),),
)

POSTERIOR = Contract(CTC.inputs, ("posteriors", "costs"), totals=(Total("costs"),))
_PATH = ("tokens", "starts", "ends", "scores", "path_scores")
ALIGN = Contract(CTC.inputs, _PATH, totals=(Total("path_scores"),))
DECODE = Contract(
    (Input("log_probs", "B T C", "log_probability"), Input("input_lens", "B", "relative_length", of="T")),
    ("tokens", "token_lengths"),
)


def _lengths(
    log_probs: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor, blank_index: int
) -> tuple[Tensor, Tensor]:
    """The frames and the labels of each item `[B]`, int64, of inputs that an eager call has checked."""
    if not torch.jit.is_scripting():
        given = {
            "log_probs": log_probs,
            "targets": targets,
            "input_lens": input_lens,
            "target_lens": target_lens,
        }
        check_inputs(CTC, given, blank_index=blank_index)
    return absolute_length(input_lens, log_probs.shape[1]), absolute_length(target_lens, targets.shape[1])


def reduce_ctc(costs: Tensor, target_lengths: Tensor, reduction: str, zero_infinity: bool) -> Tensor:
    """Reduce CTC costs `[B]`: ``mean`` and ``batch`` are per label, an empty target counts as one."""
    if zero_infinity:
        costs = torch.where(costs.isinf(), 0.0, costs)
    if reduction == "none":
        return costs
    if reduction == "sum":
        return costs.sum()
    if reduction == "batchmean":
        return costs.mean()
    per_label = costs / target_lengths.clamp(min=1).to(costs.dtype)
    return per_label.mean() if reduction == "mean" else per_label


def greedy_labels(scores: Tensor, lengths: Tensor, blank_index: int) -> tuple[Tensor, Tensor]:
    """The labels on the best path of each item: repetitions merged, blanks removed.

    Args:
        scores: `[B, T, C]`.
        lengths: frames per item `[B]`, int64.
        blank_index: the class of the blank.

    Returns:
        Labels `[B, T]`, zero behind each item's last, and their number `[B]`, int64 both.
    """
    best = scores.argmax(-1)
    before = torch.nn.functional.pad(best[:, :-1], [1, 0], value=float(blank_index))
    frame = torch.arange(best.shape[1], device=best.device)
    kept = (best != before) & (best != blank_index) & (frame < lengths.unsqueeze(1))
    # a kept label goes to the place counted up to it; what is not kept adds zero somewhere
    place = (kept.long().cumsum(1) - 1).clamp(min=0)
    return torch.zeros_like(best).scatter_add(1, place, best * kept.long()), kept.long().sum(1)


class CTCLoss(nn.Module):
    """The negative log-likelihood of label sequences, summed over their alignments to frames.

    Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf. The gradient in
    `log_probs` follows torch's convention: it is the gradient in the logits behind a log-softmax.

    Args:
        blank_index: the class of the blank.
        reduction: ``none`` for costs in nats `[B]`, ``sum``, ``batchmean`` for their sum divided by
            B, ``batch`` for costs per label `[B]`, ``mean`` for the mean of those.
        zero_infinity: count a target that cannot be aligned as zero instead of infinity.

    Forward takes `log_probs` `[B, T, C]`, `targets` `[B, S]` (integers without the blank; what lies
    behind an item's length is not read), and the relative lengths `[B]` `input_lens` (of T, in
    (0, 1]) and `target_lens` (of S, in [0, 1]).

    Raises:
        ValueError: the shapes do not fit, a length is outside its range, or a label is the blank
            or not below C.

    Example:
        >>> import torch
        >>> log_probs = torch.full((1, 3, 4), 0.25).log()
        >>> loss = CTCLoss(blank_index=0, reduction="sum")
        >>> loss(log_probs, torch.tensor([[1, 2]]), torch.tensor([1.0]), torch.tensor([1.0]))
        tensor(2.5494)
    """

    custom_ops: Final[bool]  # script to our operator instead of plain torch; see to_torchscript

    def __init__(
        self,
        blank_index: int = 0,
        reduction: str = "mean",
        zero_infinity: bool = True,
    ) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.reduction = check_choice("reduction", reduction)
        self.zero_infinity = zero_infinity
        self.custom_ops = False

    def forward(self, log_probs: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor) -> Tensor:
        blank_index = self.blank_index
        input_lengths, target_lengths = _lengths(log_probs, targets, input_lens, target_lens, blank_index)
        if torch.jit.is_scripting():
            if self.custom_ops:
                costs = torch.ops.exportable_losses.ctc_loss(
                    log_probs, targets, input_lengths, target_lengths, blank_index
                )
            else:
                costs = ops.ctc_costs(
                    log_probs, targets, input_lengths, target_lengths, blank_index, self.zero_infinity
                )
        else:
            costs = torch.ops.exportable_losses.ctc_loss(
                log_probs, targets, input_lengths, target_lengths, blank_index
            )
        return reduce_ctc(costs, target_lengths, self.reduction, self.zero_infinity)


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lens: Tensor,
    target_lens: Tensor,
    blank_index: int,
    reduction: str = "mean",
) -> Tensor:
    """`CTCLoss` as a function, with the argument names of SpeechBrain."""
    return CTCLoss(blank_index, reduction)(log_probs, targets, input_lens, target_lens)


class CTCPosterior(nn.Module):
    """The occupation of the lattice: how probable each state is at each frame, given the target.

    Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf, equation 14. A target of n
    labels has 2n + 1 states: blanks at the even ones, label (s - 1) / 2 at the odd. No gradient flows
    to `log_probs`; that of the costs is `CTCLoss`'s.

    Args:
        blank_index: the class of the blank.

    Forward takes what `CTCLoss` takes. It returns the probabilities `[B, T, 2S+1]`, which add up to one
    over the states of each frame, and the costs in nats `[B]`. Behind an item's frames and states the
    probabilities are zero. A target that cannot be aligned costs infinity, and all of its are zero.

    Raises:
        ValueError: the shapes do not fit, a length is outside its range, or a label is the blank
            or not below C.

    Example:
        >>> import torch
        >>> log_probs = torch.full((1, 2, 3), 1 / 3).log()
        >>> posteriors, costs = CTCPosterior()(log_probs, torch.tensor([[1]]), torch.ones(1), torch.ones(1))
        >>> posteriors
        tensor([[[0.3333, 0.6667, 0.0000],
                 [0.0000, 0.6667, 0.3333]]])
    """

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index

    def forward(
        self, log_probs: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor]:
        blank_index, log_probs = self.blank_index, log_probs.detach()
        input_lengths, target_lengths = _lengths(log_probs, targets, input_lens, target_lens, blank_index)
        if torch.jit.is_scripting():
            costs, posteriors = ops.ctc_posterior(
                log_probs, targets, input_lengths, target_lengths, blank_index
            )
        else:
            costs, posteriors = torch.ops.exportable_losses.ctc_posterior(
                log_probs, targets, input_lengths, target_lengths, blank_index
            )
        return posteriors, costs


def sums_by_state(values: Tensor, states: Tensor, number: int) -> Tensor:
    """Add up `values` `[B, T]` over the frames of each of `number` states: `[B, number]`.

    `states` `[B, T]` is int64, -1 where the value does not count.
    """
    place = torch.where(states < 0, number, states)
    sums = torch.zeros(values.shape[0], number + 1, dtype=values.dtype, device=values.device)
    return sums.scatter_add(1, place, values)[:, :-1]


class CTCAlign(nn.Module):
    """The best path of a target through the frames: where each label begins and ends, and its score.

    Viterbi's algorithm on the lattice of Graves et al. 2006,
    https://www.cs.toronto.edu/~graves/icml_2006.pdf. Of paths as good it is the one on which labels are
    over early: looking back from the last frame, to have stayed in a state goes before a step from the
    state before, and that before a skip over a blank. No gradient flows to `log_probs`.

    Args:
        blank_index: the class of the blank.

    Forward takes what `CTCLoss` takes. It returns, of the width of `targets`:

    - `tokens` `[B, S]`: the targets, -1 behind an item's length;
    - `starts` and `ends` `[B, S]`: the first frame of each label and the one behind its last, int64;
      zero behind the length;
    - `scores` `[B, S]`: the mean log-probability of the label over its frames; zero behind the length;
    - `path_scores` `[B]`: the log-probability of the whole path, blanks too.

    Of a target that cannot be aligned, starts and ends are zero, and all scores are -inf.

    Raises:
        ValueError: the shapes do not fit, a length is outside its range, or a label is the blank
            or not below C.

    Example:
        >>> import torch
        >>> log_probs = (9 * torch.eye(3)[[0, 1, 1, 0, 2]]).log_softmax(-1).unsqueeze(0)
        >>> align = CTCAlign(blank_index=0)
        >>> tokens, starts, ends, *_ = align(log_probs, torch.tensor([[1, 2]]), torch.ones(1), torch.ones(1))
        >>> tokens, starts, ends
        (tensor([[1, 2]]), tensor([[1, 4]]), tensor([[3, 5]]))
    """

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index

    def forward(
        self, log_probs: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        blank_index, log_probs = self.blank_index, log_probs.detach()
        input_lengths, target_lengths = _lengths(log_probs, targets, input_lens, target_lens, blank_index)
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
        emitted = log_probs.gather(2, label.unsqueeze(2)).squeeze(2)
        sums = sums_by_state(emitted, states, 2 * width + 1)[:, 1::2]
        scores = sums / frames[:, 1::2].to(sums.dtype)
        scores = torch.where(path_scores.isneginf().unsqueeze(1), -torch.inf, scores)
        return tokens, starts, ends, scores.masked_fill(~within, 0.0), path_scores


class CTCGreedyDecode(nn.Module):
    """The labels on the best path of each item: repetitions merged, blanks removed.

    Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf, section 3.2: best path
    decoding. Among equal scores the lower class is the best.

    Args:
        blank_index: the class of the blank.
        padding: what stands behind the last label of an item.

    Forward takes `log_probs` `[B, T, C]` (any scores of classes) and `input_lens`, relative lengths
    `[B]` in (0, 1]. It returns the labels `[B, T]`, padded, and their number `[B]`, int64 both.

    Raises:
        ValueError: the shapes do not fit, or a length is outside (0, 1].

    Example:
        >>> import torch
        >>> log_probs = torch.eye(3)[[1, 1, 0, 1, 2]].unsqueeze(0)
        >>> CTCGreedyDecode(blank_index=0)(log_probs, torch.tensor([1.0]))
        (tensor([[1, 1, 2, 0, 0]]), tensor([3]))
    """

    def __init__(self, blank_index: int = 0, padding: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index
        self.padding = padding

    def forward(self, log_probs: Tensor, input_lens: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.jit.is_scripting():
            given = {"log_probs": log_probs, "input_lens": input_lens}
            check_inputs(DECODE, given, blank_index=self.blank_index)
        lengths = absolute_length(input_lens, log_probs.shape[1])
        labels, numbers = greedy_labels(log_probs, lengths, self.blank_index)
        place = torch.arange(labels.shape[1], device=labels.device)
        return labels.masked_fill(place >= numbers.unsqueeze(1), self.padding), numbers
