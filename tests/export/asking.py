"""What a trace answers where a branch asks for the truth of data."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from exportable_losses.export.formats import branches
from exportable_losses.export.formats.gradients import Positional


class Asked:
    """Answers as a trace does, and keeps what it answered."""

    def __init__(self) -> None:
        self.answers: list[bool | None] = []

    def __bool__(self) -> bool:
        self.answers.append(branches._truth())
        return bool(self.answers[-1])

    def __gt__(self, other: object) -> "Asked":
        return self


class Asks(nn.Module):
    """A model whose forward is a function that asks."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, v: Any) -> Tensor:
        self.function(v)
        return torch.zeros(())


def answers(function: Callable[..., Any]) -> list[bool | None]:
    """What `function` is told of the value that it is given, as often as it asks."""
    asked: Any = Asked()
    Positional(Asks(function), ["v"])(asked)
    return asked.answers
