"""Whether a keyword is spoken somewhere: the best place for it, against the best of any labels there."""

import torch
from torch import Tensor, nn

from .. import ops
from ..contract import Contract, Total
from ..ops.scores import widened
from ..settings import settings_repr
from .ctc import CTC, ctc_lengths

__all__ = ["CTCKeywordScore"]

KEYWORD = Contract(CTC.inputs, ("scores", "starts", "ends"), totals=(Total("scores"),))


class CTCKeywordScore(nn.Module):
    """The log-odds per frame that a keyword's labels occur somewhere in the audio, against any labels.

        path = argmax over the pieces [a, b) of the frames, and over the paths of the keyword through them, of
        odds(path) = sum over a <= t < b of  ln p(t, path(t)) - max over the classes c of ln p(t, c)

        score = odds(path) / (b - a)

    The keyword and the filler model of Rohlicek et al. 1989, https://doi.org/10.1109/ICASSP.1989.266505, on
    the lattice of Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf, whose ends are free.
    A score is zero where the keyword is what greedy decoding finds there, and else below; a threshold on it
    decides. No gradient flows to `log_probs`.

    Args:
        blank_index: the class of the blank.

    The call takes what `CTCLoss` takes, in `targets` a keyword for each item. It returns:

    - `scores` `[B]`, in nats per frame; zero for a keyword without labels, -inf for one that has no room;
    - `starts` and `ends` `[B]`: the first frame of its first label and the frame after the last of its last
      label, int64; zero where there is none.

    Raises:
        ValueError: the shapes do not match, a length is outside its range, or a label is the blank
            or not below C.

    Examples:
        >>> import torch
        >>> log_probs = (9 * torch.eye(4)[[0, 3, 0, 1, 2, 2, 3]]).log_softmax(-1).unsqueeze(0)
        >>> CTCKeywordScore(blank_index=0)(log_probs, torch.tensor([[1, 2]]), torch.ones(1), torch.ones(1))
        (tensor([0.]), tensor([3]), tensor([5]))
    """

    extra_repr = settings_repr

    def __init__(self, blank_index: int = 0) -> None:
        super().__init__()
        self.blank_index = blank_index

    def forward(
        self, log_probs: Tensor, targets: Tensor, input_lens: Tensor, target_lens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        blank_index = self.blank_index
        frames, labels = ctc_lengths(log_probs, targets, input_lens, target_lens, blank_index)
        log_probs = widened(log_probs.detach())
        most = log_probs.amax(2, keepdim=True)
        odds = log_probs - torch.where(most.isneginf(), 0.0, most)
        if torch.jit.is_scripting():
            states, path_odds = ops.ctc_align(odds, targets, frames, labels, blank_index, True)
        else:
            states, path_odds = torch.ops.exportable_losses.ctc_align(
                odds, targets, frames, labels, blank_index, True
            )
        last = 2 * labels.unsqueeze(1)
        starts = ((states == 0) & (last > 0)).sum(1)  # a path goes through the states in order
        ends = ((states >= 0) & (states < last)).sum(1)
        return path_odds / (ends - starts).clamp(min=1).to(path_odds.dtype), starts, ends
