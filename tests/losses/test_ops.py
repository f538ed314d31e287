"""The operators are what torch expects of an operator: schema, fake implementation, gradient."""

from typing import Any

import pytest
import torch

from exportable_losses.ops import using
from exportable_losses.ops.computers import COMPUTERS

OPS = torch.ops.exportable_losses
LABELS = (torch.tensor([[1, 2], [2, 2]]), torch.tensor([5, 4]), torch.tensor([2, 1]), 0)
ARCS = (*LABELS[1:3], [1, 2], [0, 1], False)  # two blanks and two labels
EMISSIONS = (*LABELS[:3], [1], [0, 1], False, [0, -1, -1], [1, 0, 1], 2, -1, False, 0.1, 0.2, 0.3)
JOINT = (torch.randn(2, 5, 4).requires_grad_(), torch.randn(2, 3, 4).requires_grad_())
JOINT_LABELS = (torch.tensor([[1, 2, 0], [2, 2, 0]]), *LABELS[1:3], 0)
STATE = (torch.zeros(2, 2, 3), torch.zeros(2, 2))


def layer() -> list[torch.Tensor]:
    """What the encoder and the predictor give, and the weights and biases of the layer behind them."""
    return [torch.randn(size) for size in ((2, 5, 4), (2, 3, 4), (6, 4), (6,))]


CLASSES = (torch.tensor([[[1, 4], [0, 2], [-1, -1]], [[1, 1], [0, -1], [3, 2]]]), LABELS[1], LABELS[2] + 1)
CALLS = {
    "ctc_loss": lambda: (torch.randn(2, 5, 4).log_softmax(-1).requires_grad_(), *LABELS),
    "ctc_loss_grad": lambda: (torch.randn(2, 5, 4).log_softmax(-1), *LABELS, torch.ones(2)),
    "ctc_posterior": lambda: (torch.randn(2, 5, 4).log_softmax(-1), *LABELS),
    "ctc_forward": lambda: (torch.randn(2, 5, 4).log_softmax(-1), *LABELS, *STATE),
    "ctc_align": lambda: (torch.randn(2, 5, 4).log_softmax(-1), *LABELS, False),
    "transducer_loss": lambda: (torch.randn(2, 5, 3, 4).requires_grad_(), *LABELS),
    "transducer_loss_grad": lambda: (torch.randn(2, 5, 3, 4), *LABELS, torch.ones(2)),
    "arcs_loss": lambda: (torch.randn(2, 5, 3, 4).requires_grad_(), *ARCS),
    "arcs_loss_grad": lambda: (torch.randn(2, 5, 3, 4), *ARCS, torch.ones(2)),
    "arcs_walk": lambda: (torch.randn(2, 5, 3, 4).requires_grad_(), *ARCS),
    "arcs_walk_grad": lambda: (
        torch.randn(2, 5, 3, 4),
        *ARCS,
        torch.ones(2),
        torch.rand(2, 5, 3, 4),
        torch.ones(2),
    ),
    "arcs_align": lambda: (torch.randn(2, 5, 3, 4), *ARCS),
    "emissions_loss": lambda: (torch.randn(2, 5, 3, 6).requires_grad_(), *EMISSIONS),
    "emissions_loss_grad": lambda: (torch.randn(2, 5, 3, 6), *EMISSIONS, torch.ones(2)),
    "picked": lambda: (torch.randn(3, 5).requires_grad_(), torch.tensor([[1, 4], [-1, 0], [-1, -1]])),
    "picked_grad": lambda: (torch.randn(3, 5), torch.tensor([[1, 4], [-1, 0], [-1, -1]]), torch.randn(3, 2)),
    "joint_arcs": lambda: (*JOINT, *JOINT_LABELS),
    "joint_arcs_grad": lambda: (
        *(x.detach() for x in JOINT),
        *JOINT_LABELS,
        torch.randn(2, 5, 3, 2),
        torch.rand(2, 5, 3) + 1,
        torch.rand(2, 5, 4),
        torch.rand(2, 3, 4),
        torch.randn(2, 5, 3, 2),
    ),
    "fused_joint": lambda: (*(x.requires_grad_() for x in layer()), *CLASSES, 1, "tanh"),
    "fused_joint_grad": lambda: (*layer(), *CLASSES, 1, "silu", torch.randn(2, 5, 3, 3)),
    "transducer_forward": lambda: (
        torch.randn(2, 5, 3, 2),
        *LABELS[1:3],
        torch.zeros(2, 3),
        torch.zeros(2, 2),
    ),
    "fused_best": lambda: (torch.randn(2, 5, 4), *layer()[2:], LABELS[1]),
    "best_permutation": lambda: (torch.rand(3, 4, 4),),
    "edit_counts": lambda: (LABELS[0], LABELS[0].flip(1), *LABELS[2:3] * 2),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("computer", ["native", "numba", "torch"])
def test_operators(name: str, computer: str) -> None:
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    why = COMPUTERS[computer].unavailable(torch.zeros(1))
    if why:
        pytest.skip(f"{computer}: {why}")
    with using(computer):
        torch.library.opcheck(getattr(OPS, name).default, CALLS[name](), test_utils=checks)


@pytest.mark.parametrize("name", ["ctc_loss", "transducer_loss"])
def test_the_gradient_operator_gives_the_costs_too(name: str) -> None:
    arguments: tuple[Any, ...] = CALLS[name]()
    costs = getattr(OPS, name)(*arguments)
    same, gradients = getattr(OPS, f"{name}_grad")(*arguments, torch.ones(2))
    torch.testing.assert_close(same, costs)
    (expected,) = torch.autograd.grad(costs.sum(), arguments[0])
    torch.testing.assert_close(gradients, expected)


BAD_SHAPES = [
    ("scores", lambda x: x[0], r"(log_probs|logits): got shape \[5, .*4\], expected [34] dimensions"),
    ("scores", lambda x: x[:1], r"targets: got shape \[2, 2\], expected 1 rows"),
    ("targets", lambda x: x[0], r"targets: got shape \[2\], expected 2 rows"),
    ("input_lengths", lambda x: x[:1], r"input_lengths: got shape \[1\], expected \[2\]"),
    ("target_lengths", lambda x: x[:, None], r"target_lengths: got shape \[2, 1\], expected \[2\]"),
    ("grad_costs", lambda x: x[:1], r"grad_costs: got shape \[1\], expected \[2\]"),
]


@pytest.mark.parametrize("name", ["ctc_loss", "transducer_loss"])
@pytest.mark.parametrize(("argument", "change", "says"), BAD_SHAPES)
def test_shapes_that_disagree_are_refused(name: str, argument: str, change: Any, says: str) -> None:
    arguments = [*CALLS[name](), torch.ones(2)]
    place = ["scores", "targets", "input_lengths", "target_lengths", "blank", "grad_costs"].index(argument)
    arguments[place] = change(arguments[place].detach())
    with pytest.raises(ValueError, match=f"^{says}"):
        getattr(OPS, f"{name}_grad")(*arguments)


@pytest.mark.parametrize("labels", [1, 3, 9])
def test_logits_fit_the_targets(labels: int) -> None:
    logits, _, *rest = CALLS["transducer_loss"]()
    with pytest.raises(ValueError, match=rf"^logits: .* expected {labels + 1} along dimension 2"):
        OPS.transducer_loss(logits.detach(), torch.ones(2, labels, dtype=torch.long), *rest)
