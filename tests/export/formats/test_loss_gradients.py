"""Gradients of every loss of `torch.nn.functional`, with every reduction and setting, at other sizes."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from export_cases import Inputs
from heads import Head, Heads, Make, assert_gradients
from torch import Tensor
from torch.nn import functional as F

from exportable_losses.export.formats.errors import VerificationError

OTHERS = ("cross_entropy", "kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits")
OTHERS += ("linear_cross_entropy",)  # which torch before 2.12 does not have
CLASSES = torch.linspace(0.5, 2.0, 8)


def real(*names: str) -> Make:
    """Normally distributed `[B, T, 8]`."""

    def make(items: int, frames: int, generator: torch.Generator) -> Inputs:
        return {name: torch.randn(items, frames, 8, generator=generator) for name in names}

    return make


def probable(items: int, frames: int, generator: torch.Generator) -> Inputs:
    x = torch.randn(items, frames, 8, generator=generator)
    return {"x": x, "y": torch.rand(items, frames, 8, generator=generator)}


def classes(items: int, frames: int, generator: torch.Generator) -> Inputs:
    """Classes, some of which are ignored."""
    x = torch.randn(items, frames, 8, generator=generator)
    y = torch.randint(8, (items, frames), generator=generator)
    return {"x": x, "y": torch.where(torch.arange(frames) % 4 == 3, -100, y)}


def signs(*names: str) -> Make:
    def make(items: int, frames: int, generator: torch.Generator) -> Inputs:
        tensors = {name: torch.randn(items, 8, generator=generator) for name in names}
        return {**tensors, "sign": 2 * torch.randint(2, (items,), generator=generator) - 1}

    return make


def one_class(items: int, frames: int, generator: torch.Generator) -> Inputs:
    x = torch.randn(items, 8, generator=generator)
    return {"x": x, "y": torch.randint(8, (items,), generator=generator)}


def several_classes(items: int, frames: int, generator: torch.Generator) -> Inputs:
    """From one class to all; what follows the first -1 is ignored."""
    y = torch.stack([torch.randperm(8, generator=generator) for _ in range(items)])
    number = (torch.arange(items) * 3 % 8 + 1).unsqueeze(1)
    x = torch.randn(items, 8, generator=generator)
    return {"x": x, "y": torch.where(torch.arange(8) == number, -1, y)}


def labels(items: int, frames: int, generator: torch.Generator) -> Inputs:
    number = torch.arange(items) % 3 + 2
    y = torch.randint(1, 8, (items, 4), generator=generator)
    return {"x": torch.randn(items, frames, 8, generator=generator), "y": y, "lens": number}


def ctc(x: Tensor, y: Tensor, lens: Tensor, **settings: Any) -> Tensor:
    frames = torch.full_like(lens, 1) * x.shape[1]
    return F.ctc_loss(x.log_softmax(-1).transpose(0, 1), y, frames, lens, zero_infinity=True, **settings)


def linear(x: Tensor, y: Tensor, w: Tensor, **settings: Any) -> Tensor:
    return F.linear_cross_entropy(x.flatten(0, 1), w[0], y.flatten(), **settings)


def weighted(x: Tensor) -> Tensor:
    return CLASSES.to(x.dtype)


# Of each loss how it is called, with what settings, and what its inputs are.
LOSSES: dict[str, list[tuple[Callable[..., Tensor], Make]]] = {
    "binary_cross_entropy": [
        (lambda x, y, **r: F.binary_cross_entropy(x.sigmoid(), y, **r), probable),
        (lambda x, y, **r: F.binary_cross_entropy(x.sigmoid(), y, weight=weighted(x), **r), probable),
    ],
    "binary_cross_entropy_with_logits": [
        (F.binary_cross_entropy_with_logits, probable),
        (
            lambda x, y, **r: F.binary_cross_entropy_with_logits(
                x, y, weight=weighted(x), pos_weight=weighted(x).flip(0), **r
            ),
            probable,
        ),
    ],
    "cosine_embedding_loss": [
        (lambda x, z, sign, **r: F.cosine_embedding_loss(x, z, sign, margin=0.1, **r), signs("x", "z"))
    ],
    "cross_entropy": [
        (lambda x, y, **r: F.cross_entropy(x.transpose(1, 2), y, **r), classes),
        (lambda x, y, **r: F.cross_entropy(x.flatten(0, 1), y.flatten(), weight=weighted(x), **r), classes),
        (
            lambda x, y, **r: F.cross_entropy(
                x.transpose(1, 2), y, weight=weighted(x), label_smoothing=0.1, **r
            ),
            classes,
        ),
        (
            lambda x, y, **r: F.cross_entropy(
                x.transpose(1, 2), y.clamp(min=0), ignore_index=3, label_smoothing=0.1, **r
            ),
            classes,
        ),
        (
            lambda x, z, **r: F.cross_entropy(
                x.transpose(1, 2), z.softmax(-1).transpose(1, 2), weight=weighted(x), label_smoothing=0.1, **r
            ),
            real("x", "z"),
        ),
    ],
    "ctc_loss": [(ctc, labels)],
    "gaussian_nll_loss": [
        (lambda x, z, **r: F.gaussian_nll_loss(x, z, (x + z).exp(), **r), real("x", "z")),
        (lambda x, z, **r: F.gaussian_nll_loss(x, z, z[..., :1].exp(), full=True, **r), real("x", "z")),
    ],
    "hinge_embedding_loss": [(lambda x, y, **r: F.hinge_embedding_loss(x, y.round() * 2 - 1, **r), probable)],
    "huber_loss": [(F.huber_loss, real("x", "z")), (partial(F.huber_loss, delta=0.7), real("x", "z"))],
    "kl_div": [
        (lambda x, z, **r: F.kl_div(x.log_softmax(-1), z.softmax(-1), **r), real("x", "z")),
        (
            lambda x, z, **r: F.kl_div(x.log_softmax(-1), z.log_softmax(-1), log_target=True, **r),
            real("x", "z"),
        ),
    ],
    "l1_loss": [(F.l1_loss, real("x", "z"))],
    "linear_cross_entropy": [
        (linear, lambda *sizes: {**classes(*sizes), "w": torch.randn(1, 8, 8, generator=sizes[2])}),
    ],
    "margin_ranking_loss": [
        (lambda x, z, sign, **r: F.margin_ranking_loss(x, z, sign[:, None], margin=0.1, **r), signs("x", "z"))
    ],
    "mse_loss": [(F.mse_loss, real("x", "z"))],
    "multi_margin_loss": [
        (F.multi_margin_loss, one_class),
        (lambda x, y, **r: F.multi_margin_loss(x, y, p=2, margin=0.8, weight=weighted(x), **r), one_class),
    ],
    "multilabel_margin_loss": [
        (F.multilabel_margin_loss, several_classes),
        (lambda x, y, **r: F.multilabel_margin_loss(x[0], y[0], **r), several_classes),
    ],
    "multilabel_soft_margin_loss": [
        (lambda x, y, **r: F.multilabel_soft_margin_loss(x, y.round(), **r), probable),
        (lambda x, y, **r: F.multilabel_soft_margin_loss(x, y, weight=weighted(x), **r), probable),
    ],
    "nll_loss": [
        (lambda x, y, **r: F.nll_loss(x.transpose(1, 2).log_softmax(1), y, **r), classes),
        (
            lambda x, y, **r: F.nll_loss(
                x.log_softmax(-1).flatten(0, 1), y.flatten().clamp(min=0), weighted(x), ignore_index=2, **r
            ),
            classes,
        ),
    ],
    "poisson_nll_loss": [
        (F.poisson_nll_loss, probable),
        (lambda x, y, **r: F.poisson_nll_loss(x.exp(), 4 * y, log_input=False, full=True, **r), probable),
    ],
    "smooth_l1_loss": [
        (F.smooth_l1_loss, real("x", "z")),
        (partial(F.smooth_l1_loss, beta=0.7), real("x", "z")),
        (partial(F.smooth_l1_loss, beta=0.0), real("x", "z")),
    ],
    "soft_margin_loss": [(lambda x, y, **r: F.soft_margin_loss(x, y.round() * 2 - 1, **r), probable)],
    "triplet_margin_loss": [
        (F.triplet_margin_loss, real("x", "z", "u")),
        (partial(F.triplet_margin_loss, p=1.5, swap=True), real("x", "z", "u")),
    ],
    "triplet_margin_with_distance_loss": [
        (partial(F.triplet_margin_with_distance_loss, swap=True), real("x", "z", "u"))
    ],
}


def reduced(call: Callable[..., Tensor], reduction: str, *inputs: Tensor) -> Tensor:
    """The loss; without a reduction a sum in which each counts otherwise."""
    loss = call(*inputs, reduction=reduction)
    return (loss * (1 + torch.arange(loss.numel(), dtype=loss.dtype).view(loss.shape) / 16)).sum()


def heads_of(loss: str, every: bool) -> dict[str, Head]:
    """Each setting with ``mean``, and the first with ``none``; or each with every reduction."""
    reductions = ("mean", "sum", "none", *(["batchmean"] if loss == "kl_div" else []))
    return {
        f"{reduction}_{i}": Head(
            None,
            lambda call=call, reduction=reduction, **inputs: reduced(call, reduction, *inputs.values()),
            make,
        )
        for i, (call, make) in enumerate(LOSSES[loss])
        for reduction in reductions
        if every or "mean" in reduction or (reduction == "none" and i == 0)
    }


class Losses(Heads):
    table: ClassVar[Any] = {loss: heads_of(loss, every=False) for loss in LOSSES}


class EveryReduction(Heads):
    table: ClassVar[Any] = {loss: heads_of(loss, every=True) for loss in LOSSES}


def test_no_loss_of_torch_is_left_out() -> None:
    named = {name for name in dir(F) if name.endswith("_loss") or name in OTHERS}
    assert named == {name for name in LOSSES if hasattr(F, name)}


# made of the operators that others are made of as well
AS_OTHERS = (
    "triplet_margin_with_distance_loss",
    "hinge_embedding_loss",
    "soft_margin_loss",
    "poisson_nll_loss",
)
AS_OTHERS += ("multilabel_soft_margin_loss", "smooth_l1_loss", "margin_ranking_loss", "mse_loss", "l1_loss")


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(name, marks=pytest.mark.thorough if name in AS_OTHERS else ())
        for name in LOSSES
        if hasattr(F, name)
    ],
)
def test_gradients_of_losses(loss: str) -> None:
    assert_gradients(Losses(loss), torch.float32, fixed="__y")


# What the exporter makes of sizes, one over their product, has 32 bits: right in float32, refused in float64.
WITHOUT_FLOAT64 = ("cross_entropy", "huber_loss", "mse_loss", "smooth_l1_loss")


@pytest.mark.thorough
@pytest.mark.parametrize("loss", [name for name in LOSSES if hasattr(F, name)])
def test_gradients_of_losses_with_every_reduction_in_float64(loss: str) -> None:
    if loss not in WITHOUT_FLOAT64:
        assert_gradients(EveryReduction(loss), torch.float64, fixed="__y")
        return
    with pytest.raises(VerificationError, match="is off by"):
        assert_gradients(EveryReduction(loss), torch.float64, fixed="__y")
