"""`drop_in.torch` beside torch's own CTC: every form of its arguments, values and gradients."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exportable_losses.drop_in import torch as drop_in

T, N, C, S = 12, 4, 6, 5
FRAMES, LABELS = (12, 9, 7, 4), (5, 3, 0, 4)  # the last cannot be aligned: it has a label twice
TARGETS = torch.tensor([[1, 2, 3, 4, 5], [2, 2, 1, -7, 99], [-1, -1, -1, -1, -1], [3, 3, 3, 3, 0]])
ROWS = torch.cat([row[:labels] for row, labels in zip(TARGETS, LABELS, strict=True)])
# torch itself reads padding: it has zeros there
THEIRS = torch.tensor([[1, 2, 3, 4, 5], [2, 2, 1, 0, 0], [0, 0, 0, 0, 0], [3, 3, 3, 3, 0]])

LENGTHS: dict[str, Any] = {
    "tuples": tuple,
    "lists": list,
    "int64": lambda lengths: torch.tensor(lengths),
    "int32": lambda lengths: torch.tensor(lengths, dtype=torch.int32),
    "int16": lambda lengths: torch.tensor(lengths, dtype=torch.int16),
}


def scores(dtype: torch.dtype = torch.float64, items: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(T, items, C, generator=generator, dtype=torch.float64).to(dtype)


def value_and_gradient(loss: Any, x: Tensor, *given: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x.log_softmax(-1), *given, **settings)
    weights = torch.arange(1, value.numel() + 1, dtype=torch.float64).view(value.shape)
    return value.detach(), torch.autograd.grad((value * weights).sum(), x)[0]


def close(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], **tolerances: float) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, **tolerances)


SETTINGS = [
    {"reduction": reduction, "zero_infinity": lenient, "blank": blank}
    for reduction, lenient, blank in itertools.product(("none", "mean", "sum"), (False, True), (0,))
]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_batches(settings: dict[str, Any], lengths: str) -> None:
    frames, labels = LENGTHS[lengths](FRAMES), LENGTHS[lengths](LABELS)
    as_torch_has_them = torch.tensor(FRAMES), torch.tensor(LABELS)
    expected = value_and_gradient(nn.functional.ctc_loss, scores(), THEIRS, *as_torch_has_them, **settings)
    assert expected[0].isinf().any() != settings["zero_infinity"]
    for targets in (TARGETS, TARGETS.int(), ROWS, ROWS.int()):
        close(value_and_gradient(drop_in.ctc_loss, scores(), targets, frames, labels, **settings), expected)
        module = drop_in.CTCLoss(**settings)
        close(value_and_gradient(module, scores(), targets, frames, labels), expected)


def test_defaults_are_torch_s() -> None:
    given = (THEIRS, FRAMES, LABELS)
    close(
        value_and_gradient(drop_in.CTCLoss(), scores(), *given),
        value_and_gradient(nn.CTCLoss(), scores(), *given),
    )
    assert drop_in.ctc_loss(scores().log_softmax(-1), *given).isinf()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("lengths", [((9,), (3,)), (torch.tensor(9), torch.tensor(3)), ([9], [3])], ids=str)
def test_one_item_without_a_batch(reduction: str, lengths: Any) -> None:
    x, target = scores(items=1).squeeze(1), torch.tensor([2, 2, 1])
    expected = value_and_gradient(
        nn.functional.ctc_loss, x, target, torch.tensor(9), torch.tensor(3), reduction=reduction
    )
    close(value_and_gradient(drop_in.ctc_loss, x, target, *lengths, reduction=reduction), expected)


def test_the_last_class_may_be_the_blank() -> None:
    given = ((TARGETS - 1) % (C - 1), FRAMES, LABELS)
    settings = {"blank": C - 1, "reduction": "none", "zero_infinity": True}
    close(
        value_and_gradient(drop_in.ctc_loss, scores(), *given, **settings),
        value_and_gradient(nn.functional.ctc_loss, scores(), *given, **settings),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sixteen_bits_are_float32_s_numbers(dtype: torch.dtype) -> None:
    log_probs = scores().log_softmax(-1).to(dtype)
    found = []
    for loss, x, targets in (
        (drop_in.ctc_loss, log_probs, TARGETS),
        (nn.functional.ctc_loss, log_probs.double(), THEIRS),
    ):
        x.requires_grad_()
        value = loss(x, targets, FRAMES, LABELS, zero_infinity=True)
        found.append((value.detach(), torch.autograd.grad(value, x)[0]))
    (value, gradient), (exact, expected) = found
    assert (value.dtype, gradient.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=torch.finfo(dtype).eps)


def test_a_recipe_is_patched_by_one_line() -> None:
    loss, theirs = nn.CTCLoss(zero_infinity=True), nn.functional.ctc_loss
    given = (THEIRS, torch.tensor(FRAMES), torch.tensor(LABELS))
    expected = value_and_gradient(loss, scores(), *given)
    half = scores(torch.bfloat16).log_softmax(-1)
    with drop_in.patched():
        assert nn.functional.ctc_loss is drop_in.ctc_loss
        close(value_and_gradient(loss, scores(), *given), expected)
        assert loss(half, *given).dtype == torch.float32  # torch's own refuses it on a CPU
        with pytest.raises(ZeroDivisionError), drop_in.patched():
            raise ZeroDivisionError
        assert nn.functional.ctc_loss is drop_in.ctc_loss
    assert nn.functional.ctc_loss is theirs


def test_under_autocast() -> None:
    x = scores(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = drop_in.ctc_loss(x.log_softmax(-1), TARGETS, FRAMES, LABELS, zero_infinity=True)
    exact = nn.functional.ctc_loss(scores().log_softmax(-1), THEIRS, FRAMES, LABELS, zero_infinity=True)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("transform", ["grad", "vmap", "compile"])
def test_transforms(transform: str) -> None:
    def loss(x: Tensor) -> Tensor:
        return drop_in.ctc_loss(x.log_softmax(-1), ROWS[:8], FRAMES[:2], LABELS[:2])

    x = scores(items=2)
    expected = value_and_gradient(
        lambda log_probs: drop_in.ctc_loss(log_probs, ROWS[:8], FRAMES[:2], LABELS[:2]), x
    )
    if transform == "grad":
        got = loss(x), torch.func.grad(loss)(x)
    elif transform == "vmap":
        got = (
            torch.func.vmap(loss)(x.unsqueeze(0))[0],
            torch.func.vmap(torch.func.grad(loss))(x.unsqueeze(0))[0],
        )
    else:
        x.requires_grad_()
        value = torch.compile(loss, backend="aot_eager")(x)
        got = value.detach(), torch.autograd.grad(value, x)[0]
    close(got, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_probs": torch.zeros(T)}, r"^log_probs: got \[12\], expected \[T, N, C\] or \[T, C\]"),
        ({"input_lengths": (1.0, 1.0, 1.0, 1.0)}, "^input_lengths: got torch.float32, expected integers"),
        ({"target_lengths": torch.rand(4)}, "^target_lengths: got torch.float32, expected integers"),
        ({"input_lengths": (13, 1, 1, 1)}, "input_lens"),
        ({"targets": ROWS[:-1]}, "^target_lengths: got 12 in all, expected at most 11 labels"),
        ({"reduction": "batchmean"}, "^reduction: got 'batchmean', expected one of none, mean, sum"),
        ({"blank": C}, "blank"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    given = {
        "log_probs": scores().log_softmax(-1),
        "targets": TARGETS,
        "input_lengths": FRAMES,
        "target_lengths": LABELS,
    }
    with pytest.raises((ValueError, TypeError), match=message):
        drop_in.ctc_loss(**{**given, **change})
