"""The lattices under torch's transforms: right where torch's own CTC is, and refused where it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, func

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.ops import using
from exportable_losses.ops.computers import COMPUTERS

OPS = torch.ops.exportable_losses
INTEGERS = (torch.tensor([[1, 2], [2, 3]]), torch.tensor([5, 4]), torch.tensor([2, 1]), 0)
SHAPES = {"ctc_loss": (2, 5, 4), "transducer_loss": (2, 5, 3, 4)}
COMPUTING = ["native", "numba", "torch"]


@pytest.fixture(params=COMPUTING)
def computer(request: pytest.FixtureRequest) -> Any:
    why = COMPUTERS[request.param].unavailable(torch.zeros(1))
    if why:
        pytest.skip(f"{request.param}: {why}")
    with using(request.param):
        yield request.param


def scores_of(name: str, *batches: int, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(*batches, *SHAPES[name], generator=draw, dtype=torch.float64)
    return (scores.log_softmax(-1) if name == "ctc_loss" else scores).to(dtype)


def summed(name: str) -> Callable[[Tensor], Tensor]:
    operator = getattr(OPS, name)
    return lambda scores: operator(scores, *INTEGERS).sum()


def by_autograd(function: Callable[[Tensor], Tensor], scores: Tensor) -> Tensor:
    scores = scores.detach().clone().requires_grad_()
    return torch.autograd.grad(function(scores), scores)[0]


@pytest.mark.parametrize("name", SHAPES)
def test_functional_transforms(name: str, computer: str) -> None:
    """One by one is the truth: autograd on each of the batches."""
    function, many = summed(name), scores_of(name, 3)
    costs = torch.stack([function(scores) for scores in many])
    grads = torch.stack([by_autograd(function, scores) for scores in many])
    close = torch.testing.assert_close
    close(func.grad(function)(many[0]), grads[0])
    close(func.vmap(function)(many), costs)
    close(func.vmap(func.grad(function))(many), grads)
    close(func.vmap(func.vmap(function))(many.unflatten(0, (3, 1))), costs.unsqueeze(1))
    close(func.vmap(function, in_dims=2)(many.movedim(0, 2)), costs)
    jacobian = func.jacrev(lambda scores: getattr(OPS, name)(scores, *INTEGERS))(many[0])
    close(jacobian.sum(0), grads[0])
    assert not jacobian[0, 1].any()  # an item's cost knows no other item's scores
    targets = torch.stack([INTEGERS[0], INTEGERS[0].flip(0)])
    both = func.vmap(lambda one: getattr(OPS, name)(many[0], one, *INTEGERS[1:]))(targets)
    close(both, torch.stack([getattr(OPS, name)(many[0], one, *INTEGERS[1:]) for one in targets]))


@pytest.mark.parametrize("name", SHAPES)
def test_a_first_derivative_of_what_an_inner_transform_gives(name: str, computer: str) -> None:
    function, many = summed(name), scores_of(name, 2)
    scores = many[0]
    expected = by_autograd(function, scores)

    def value(scores: Tensor) -> Tensor:
        return func.grad_and_value(function)(scores)[1]

    close = torch.testing.assert_close
    close(func.grad(value)(scores), expected)
    close(by_autograd(value, scores), expected)
    close(func.grad(lambda scores: func.vjp(function, scores)[0])(scores), expected)
    close(func.vmap(func.grad(value))(many), torch.stack([by_autograd(function, one) for one in many]))
    close(func.grad(lambda many: func.vmap(value)(many).sum())(many)[0], expected)


@pytest.mark.parametrize("name", SHAPES)
def test_compiled_transforms(name: str) -> None:
    function, many = summed(name), scores_of(name, 2)
    compiled = torch.compile(func.vmap(func.grad(function)), fullgraph=True, backend="aot_eager")
    expected = torch.stack([by_autograd(function, scores) for scores in many])
    torch.testing.assert_close(compiled(many), expected)


@pytest.mark.parametrize("name", SHAPES)
def test_second_and_forward_derivatives_are_refused(name: str, computer: str) -> None:
    function, scores = summed(name), scores_of(name).requires_grad_()
    (grad,) = torch.autograd.grad(function(scores), scores, create_graph=True)
    second = f"derivative for exportable_losses::{name}_grad is not implemented"
    for derive in (
        lambda: torch.autograd.grad(grad.sum(), scores),
        lambda: torch.autograd.gradgradcheck(function, (scores,)),
        lambda: func.jacrev(func.jacrev(function))(scores.detach()),
        lambda: func.grad(lambda x: func.grad(function)(x).square().sum())(scores.detach()),
        lambda: func.vmap(func.jacrev(func.grad(function)))(scores.detach().unsqueeze(0)),
        lambda: func.grad(lambda x: function(x - func.grad(function)(x)))(scores.detach()),
        lambda: by_autograd(lambda x: func.grad(function)(x).sum(), scores),
    ):
        with pytest.raises(NotImplementedError, match=second):
            derive()
    forward = f"forward-mode derivative for exportable_losses::{name} is not implemented"
    for differentiated in (function, func.grad(function)):
        with pytest.raises(NotImplementedError, match=forward):
            func.jvp(differentiated, (scores.detach(),), (scores.detach(),))


def test_what_has_no_derivative_refuses_one() -> None:
    log_probs = scores_of("ctc_loss").requires_grad_()
    state = (torch.zeros(2, 2, 3).double(), torch.zeros(2, 2).double())
    for name, given in {"ctc_posterior": (), "ctc_forward": state}.items():
        outputs = getattr(OPS, name)(log_probs, *INTEGERS, *given)
        with pytest.raises(NotImplementedError, match=f"exportable_losses::{name} is not implemented"):
            outputs[1].sum().backward()


@pytest.mark.parametrize("row", [el.CTCLoss, el.TransducerLoss])
def test_rows_under_transforms(row: Any) -> None:
    """The whole module: what it checks of values is left out where a transform hides them."""
    name = "ctc_loss" if row is el.CTCLoss else "transducer_loss"
    many, module = scores_of(name, 3, dtype=torch.float32), row(blank_index=0)
    lens = (torch.tensor([1.0, 0.8]), torch.tensor([1.0, 0.5]))

    def loss(scores: Tensor, targets: Tensor) -> Tensor:
        return module(scores, targets, *lens)

    targets = torch.stack([INTEGERS[0], INTEGERS[0].flip(0), INTEGERS[0]])
    grads = func.vmap(func.grad(loss))(many, targets)
    for scores, labels, grad in zip(many, targets, grads, strict=True):
        torch.testing.assert_close(grad, by_autograd(lambda x, y=labels: loss(x, y), scores))


@pytest.mark.parametrize("lengths", [[99, 3], [-2, 1], [1.8, 1.0]])
def test_lengths_out_of_range_are_refused_under_transforms(lengths: list[float]) -> None:
    x, y, length = torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.tensor(lengths)
    with pytest.raises(ValueError, match="lengths: got one out of range"):
        func.grad(lambda x: el.L1Loss()(x, y, length))(x)
    with pytest.raises(ValueError, match="lengths: got one out of range"):
        func.vmap(lambda x, y, length: el.L1Loss()(x[None], y[None], length[None]))(x, y, length)


@pytest.mark.parametrize("module", [el.AutoencoderLoss(len_dim=2), el.LaplacianVarianceLoss(len_dim=2)])
def test_a_dimension_of_lengths_is_moved_under_vmap(module: torch.nn.Module) -> None:
    images, lengths = torch.randn(3, 2, 8, 9, 2), torch.ones(2)
    both = isinstance(module, el.AutoencoderLoss)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return module(x, y, lengths)[0] if both else module(x, lengths)

    given = images, images.roll(1, 0)
    expected = torch.stack([loss(*each) for each in zip(*given, strict=True)])
    torch.testing.assert_close(func.vmap(loss)(*given), expected)


@pytest.mark.parametrize("row", ["ctc_loss", "transducer_loss"])
def test_compiled_lattices_refuse_targets_that_are_no_integers(row: str) -> None:
    entry = catalog.get(row)
    inputs = entry.example_inputs()
    with pytest.raises(TypeError, match=r"targets: got torch.float32"):
        torch.compile(entry.module(), backend="eager")(**inputs | {"targets": inputs["targets"] + 0.7})
