"""Inputs and outputs keep the names that a module gives them, whatever the exporter calls what it makes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exportable_losses.export import to_onnx

# the exporter's own: of inputs, weights, operators and constants, with gradients and without
EVERY = ("values_1", "values_0", "arg1_1", "arg0_1", "t", "t_1", "linear", "mul", "add", "permute", "val_0")
EVERY += ("addmm", "view", "sum_1", "pow_1", "loss_1", "detach", "expand", "val_7", "_param_constant0")
OUTPUTS = ("mean", "module.linear.weight", "module.scale", "val_1", "_tensor_constant0")


class Named(nn.Module):
    """Operators, and weights and constants that are outputs; all inputs count."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)
        self.register_buffer("scale", torch.arange(1.0, 6.0))

    def forward(self, **named: Tensor) -> dict[str, Tensor]:
        first, *others = named.values()
        scores = self.linear(first).permute(1, 0) * torch.tensor(0.5)
        for i, other in enumerate(others):
            scores = (scores + other) * (i + 1) / len(others)
        loss = scores.pow(2).mean()
        return dict(zip(OUTPUTS, (loss, scores, self.scale, scores, self.scale.square()), strict=True))


FEW = [("x", "t"), ("t", "x"), ("x", "mul")]
OTHERS = [(names, gradients) for names in FEW for gradients in ((), "all")] + [(EVERY, ())]


@pytest.mark.parametrize(
    ("names", "gradients"),
    # all of the names at once, and what a failure of that comes down to
    [(EVERY, "all"), *(pytest.param(*other, marks=pytest.mark.thorough) for other in OTHERS[1:]), OTHERS[0]],
)
def test_names_that_the_exporter_gives_too(names: tuple[str, ...], gradients: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = {name: torch.randn(5, 9) for name in names} | {names[0]: torch.randn(9, 6)}
    model = to_onnx(Named(), tmp_path / "x.onnx", inputs, gradients=gradients)
    assert tuple(value.name for value in model.graph.input) == names
    behind = tuple(f"grad_{name}" for name in names) if gradients else ()
    assert tuple(value.name for value in model.graph.output) == (*OUTPUTS, *behind)


class Recogniser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(40, 30)

    def forward(self, features: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
        log_probs = self.head(features).log_softmax(-1).transpose(0, 1)
        return nn.functional.ctc_loss(log_probs, targets, frames, labels)


def test_a_size_that_a_weight_fixes_is_a_number(tmp_path: Path) -> None:
    """The exporter writes it as a name of digits."""
    batch = {"features": torch.randn(2, 50, 40), "targets": torch.randint(1, 30, (2, 8))}
    batch |= {"frames": torch.tensor([50, 40]), "labels": torch.tensor([8, 4])}
    model = to_onnx(Recogniser(), tmp_path / "x.onnx", batch)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in dims[:2]] == ["features_0", "features_1"]
    assert dims[2].dim_value == 40
