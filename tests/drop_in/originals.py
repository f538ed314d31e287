"""Calls of torchaudio, and what it gave.

`python tests/drop_in/originals.py` records it, where torchaudio loads.
"""

import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

RECORD = Path(__file__).parents[1] / "data" / "torchaudio.npz"  # torchaudio 2.11.1 on torch 2.13.0
TARGETS = torch.tensor([[1, 2, 2], [3, 1, 1]], dtype=torch.int32)
FRAMES, LABELS = torch.tensor([6, 5], dtype=torch.int32), torch.tensor([3, 1], dtype=torch.int32)


def calls(library: types.ModuleType) -> Iterator[tuple[str, list[Tensor]]]:
    """The name of each call, and the tensors that `library` gives, costs with the gradient behind them."""
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 6, 4, 5, generator=draw)
    for fused in (True, False):
        for clamp in (-1.0, 0.1):
            for reduction in ("none", "mean", "sum"):
                x = (logits if fused else logits.log_softmax(-1)).clone().requires_grad_()
                settings = {"clamp": clamp, "reduction": reduction, "fused_log_softmax": fused}
                costs = library.rnnt_loss(x, TARGETS, FRAMES, LABELS, 0, **settings)
                weights = torch.tensor([1.0, 2.0]) if reduction == "none" else torch.tensor(1.0)
                (grad,) = torch.autograd.grad((costs * weights).sum(), x)
                yield f"rnnt_loss {settings}", [costs.detach(), grad]
    log_probs = torch.randn(1, 9, 4, generator=draw).log_softmax(-1)
    for text, blank in (([1, 2, 2], 0), ([3], 0), ([0, 1], 3)):
        targets = torch.tensor([text], dtype=torch.int32)
        path, scores = library.forced_align(log_probs, targets, blank=blank)
        yield f"forced_align {text} {blank}", [path, scores]
        spans = library.merge_tokens(path[0], scores[0].exp(), blank)
        rows = [[span.token, span.start, span.end, span.score, len(span)] for span in spans]
        yield f"merge_tokens {text} {blank}", [torch.tensor(rows)]
    for one, other in (("kitten", "sitting"), ("", "ab"), (["a", "b"], ["b"])):
        yield f"edit_distance {one} {other}", [torch.tensor(library.edit_distance(one, other))]


def record() -> None:
    """Write what torchaudio gives now."""
    import torchaudio

    found = {
        f"{name}/{i}": tensor.numpy()
        for name, tensors in calls(torchaudio.functional)
        for i, tensor in enumerate(tensors)
    }
    np.savez_compressed(RECORD, **found)


if __name__ == "__main__":
    record()
