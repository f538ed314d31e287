"""Branches on sizes: a graph follows the one that the example took, and may not do so in silence."""

from pathlib import Path

import pytest
import sympy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses.export import to_onnx
from exportable_losses.export.formats.errors import VerificationError
from exportable_losses.export.formats.guards import Guards


class Model(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.head = nn.Linear(1, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return FORWARDS[self.name](self, x, y)


def _padded(x: Tensor, size: int) -> Tensor:
    return F.pad(x, (0, size - x.shape[1])) if x.shape[1] < size else x


def _pooled(self: Model, x: Tensor, y: Tensor) -> Tensor:
    hidden = self.head(x.unsqueeze(-1)).transpose(1, 2)
    return (F.avg_pool1d(hidden, 2) if x.shape[1] > 30 else hidden).tanh().mean() + y.mean()


BRANCHES = {
    "many frames": lambda self, x, y: (x.sum() if x.shape[1] > 100 else x.mean()) + y.mean(),
    "few frames": lambda self, x, y: (x.mean() if x.shape[1] > 5 else x.sum()) + y.mean(),
    "few items": lambda self, x, y: (x.sum() if x.shape[0] <= 4 else x.mean()) + y.mean(),
    "padding": lambda self, x, y: _padded(x, 32).mean() + y.mean(),
    "pieces": lambda self, x, y: torch.stack([piece.mean() for piece in x.split(16, 1)]).sum() + y.mean(),
    "parity": lambda self, x, y: (x.sum() if x.shape[1] % 2 else x.mean()) + y.mean(),
    "two sizes": lambda self, x, y: (x.sum() if x.shape[1] >= y.shape[1] else x.mean()) + y.mean(),
    "pooling": _pooled,
}
ONE_WAY = {
    "convolution": lambda self, x, y: (
        F.conv1d(x.unsqueeze(1), self.head.weight[:1].unsqueeze(0)).mean() + y.mean()
    ),
    "a slice": lambda self, x, y: x.mean() + y[:, :3].mean(),
    "padding to a multiple": lambda self, x, y: F.pad(x, (0, -x.shape[1] % 4)).mean() + y.mean(),
    "a check": lambda self, x, y: x.mean() + y.mean() if x.shape[1] < 200 else _refuse(),
    "branches that agree": lambda self, x, y: (
        (x.mean() if x.shape[1] > 20 else x.sum() / x.numel()) + y.mean()
    ),
}
FORWARDS = {**BRANCHES, **ONE_WAY}
INPUTS = {"x": torch.rand(2, 9), "y": torch.rand(2, 7)}


def _refuse() -> Tensor:
    raise ValueError("too long")


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_that_gives_another_number_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        VerificationError, match=r"^loss is off by .* does not hold, by which forward decides"
    ):
        to_onnx(Model(name), tmp_path / "x.onnx", INPUTS)
    assert not list(tmp_path.iterdir())


def test_gradients_are_refused_alike(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="where x_1 <= 30 does not hold"):
        to_onnx(Model("pooling"), tmp_path / "x.onnx", INPUTS, gradients=("head.weight",))


class Cut(nn.Module):
    """A lattice of the first three labels: where there are fewer, the graph does not run."""

    def forward(self, log_probs: Tensor, targets: Tensor, frames: Tensor) -> Tensor:
        labels = torch.full_like(frames, 2)
        return el.CTCLoss()(log_probs, targets[:, :3], frames, labels)


def test_a_graph_may_refuse_what_lies_beyond(tmp_path: Path) -> None:
    inputs = {
        "log_probs": torch.randn(2, 12, 5).log_softmax(-1),
        "targets": torch.randint(1, 5, (2, 9)),
        "frames": torch.tensor([12, 10]),
    }
    to_onnx(Cut(), tmp_path / "x.onnx", inputs)


def test_a_size_that_is_too_large_is_not_tried() -> None:
    size = sympy.Symbol("s")
    guards = Guards([(size <= 2**15 + 8, {size: "x_0"}), (size <= 100, {size: "x_0"})])
    assert list(guards.beyond({"x_0": 9})) == [{"x_0": 101}, {"x_0": 102}]


@pytest.mark.parametrize("name", ONE_WAY)
def test_sizes_that_the_graph_or_the_model_refuses_are_no_reason(name: str, tmp_path: Path) -> None:
    to_onnx(Model(name), tmp_path / "x.onnx", INPUTS)
