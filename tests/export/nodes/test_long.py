"""Lattices of thousands of frames in float32, held to float64: digits are not lost with length."""

import numpy as np
import pytest
import torch
from exports import onnx as exported
from torch import Tensor

import exportable_losses as el
from exportable_losses import ops
from exportable_losses.ops import scans
from exportable_losses.runtime import LossSession

BATCH, FRAMES, LABELS, CLASSES = 2, 6000, 60, 30


def batch(spread: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities `[B, T, C]`, uniform where `spread` is 0, and targets without a blank."""
    generator = torch.Generator().manual_seed(3)
    logits = spread * torch.randn(BATCH, FRAMES, CLASSES, generator=generator)
    return logits.log_softmax(2), torch.randint(1, CLASSES, (BATCH, LABELS), generator=generator)


def truth(log_probs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The costs and their gradient by torch's kernel in float64."""
    wide = log_probs.double().requires_grad_()
    frames, labels = torch.full((BATCH,), FRAMES), torch.full((BATCH,), LABELS)
    costs = torch.nn.functional.ctc_loss(wide.transpose(0, 1), targets, frames, labels, reduction="none")
    return costs.detach(), torch.autograd.grad(costs.sum(), wide)[0]


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("native", [True, False])
def test_ctc_graph(spread: float, native: bool) -> None:
    log_probs, targets = batch(spread)
    costs, gradient = truth(log_probs, targets)
    example = {
        "log_probs": log_probs[:, :7],
        "targets": targets[:, :3],
        "input_lens": torch.ones(BATCH),
        "target_lens": torch.ones(BATCH),
    }
    feed = {**example, "log_probs": log_probs, "targets": targets}
    path = exported(el.CTCLoss(reduction="none"), example, ("log_probs",))
    got = LossSession(path, native=native)(**{name: tensor.numpy() for name, tensor in feed.items()})
    np.testing.assert_allclose(got["loss"], costs, rtol=5e-7)
    np.testing.assert_allclose(got["grad_log_probs"], gradient, atol=1e-5)


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("computer", ["native", "numba", "torch"])
def test_ctc_computers(spread: float, computer: str) -> None:
    log_probs, targets = batch(spread)
    costs, gradient = truth(log_probs, targets)
    lattice = (targets, torch.full((BATCH,), FRAMES), torch.full((BATCH,), LABELS), 0)
    with ops.using(computer):
        got, grad = torch.ops.exportable_losses.ctc_loss_grad(log_probs, *lattice, torch.ones(BATCH))
    np.testing.assert_allclose(got, costs, rtol=5e-7)
    np.testing.assert_allclose(grad, gradient, atol=1e-5)


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
def test_ctc_posterior_and_scripts(spread: float) -> None:
    """Plain torch: what a script computes, and the occupation, which no kernel has."""
    log_probs, targets = batch(spread)
    costs, gradient = truth(log_probs, targets)
    given = (log_probs.requires_grad_(), targets, torch.ones(BATCH), torch.ones(BATCH))
    got = torch.jit.script(el.CTCLoss(reduction="none"))(*given)
    np.testing.assert_allclose(got.detach(), costs, rtol=5e-7)
    np.testing.assert_allclose(torch.autograd.grad(got.sum(), log_probs)[0], gradient, atol=1e-5)
    posterior = el.CTCPosterior()
    narrow, wide = (posterior(scores.detach(), *given[1:]) for scores in (log_probs, log_probs.double()))
    for got, expected in zip(narrow, wide, strict=True):
        np.testing.assert_allclose(got, expected, rtol=5e-7, atol=1e-5)


def test_ctc_scans() -> None:
    """What a `.pt2` holds, at the lengths that its loop of Python allows here."""
    log_probs, targets = (tensor[:, :1000] for tensor in batch(5.0))
    lattice = (targets, torch.full((BATCH,), 1000), torch.full((BATCH,), LABELS), 0)
    for program in (scans.ctc_posterior, lambda *given: (scans.ctc_costs(*given),)):
        for got, expected in zip(
            program(log_probs, *lattice), program(log_probs.double(), *lattice), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=5e-7, atol=1e-6)
