"""The faults of SpeechBrain 1.1.2 that are not copied, one test each."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses import functional as F


@pytest.mark.parametrize("call", [F.cal_si_snr, F.cal_snr])
def test_signals_are_not_masked_in_place(call: Callable[..., Tensor]) -> None:
    signals = torch.randn(7, 2, 1), torch.randn(7, 2, 1)
    before = [x.clone() for x in signals]
    call(*signals)
    assert all(torch.equal(x, y) for x, y in zip(signals, before, strict=True))


def test_what_a_loss_returns_is_not_masked_in_place() -> None:
    predictions = torch.randn(2, 5)
    before = predictions.clone()
    length = torch.tensor([1.0, 0.4])
    F.compute_masked_loss(lambda p, t: p, predictions, torch.zeros(2, 5), length)  # the loss is an input
    assert torch.equal(predictions, before)


@pytest.mark.parametrize("reduction", ["mean", "sum", "batch", "batchmean", "none"])
@pytest.mark.parametrize("length", [None, torch.tensor([1.0, 0.6])], ids=["whole", "padded"])
def test_bce_smooths_labels_of_sequences(length: Tensor | None, reduction: str) -> None:
    inputs, targets = torch.randn(2, 5), torch.randint(2, (2, 5))
    smoothed = F.bce_loss(inputs, targets, length, label_smoothing=0.2, reduction=reduction)
    # the same as the loss of targets moved towards one half
    expected = F.bce_loss(inputs, 0.8 * targets + 0.1, length, reduction=reduction)
    torch.testing.assert_close(smoothed, expected)


def kl_by_hand(log_probabilities: Tensor, targets: Tensor, smoothing: float, pad_idx: int) -> Tensor:
    """The divergence of each frame from its smoothed target, zero where that is padding: `[B, T]`."""
    classes = log_probabilities.shape[-1]
    loss = torch.zeros(targets.shape)
    for b, t in torch.cartesian_prod(torch.arange(targets.shape[0]), torch.arange(targets.shape[1])):
        if targets[b, t] != pad_idx:
            target = torch.full((classes,), smoothing / (classes - 1))
            target[targets[b, t]] = 1 - smoothing
            loss[b, t] = (target * (target.log() - log_probabilities[b, t])).sum()
    return loss


LOG_PROBABILITIES = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
TARGETS = torch.tensor([[1, 2, 3, 0, 2], [3, 1, 0, 1, 2]])
LENGTH = torch.tensor([1.0, 0.6])


def test_kldiv_reads_its_length_when_asked_to() -> None:
    loss = kl_by_hand(LOG_PROBABILITIES, TARGETS, 0.2, 0) * torch.tensor(
        [[1.0] * 5, [1.0, 1.0, 1.0, 0.0, 0.0]]
    )
    expected = {
        "mean": loss.sum() / 6,  # 4 + 2 frames are within the length and not padding
        "batch": loss.sum(1) / torch.tensor([4.0, 2.0]),
        "batchmean": loss.sum() / 2,
        "sum": loss,
        "none": loss,
    }
    for reduction, value in expected.items():
        given = {"label_smoothing": 0.2, "reduction": reduction, "mask_length": True}
        torch.testing.assert_close(F.kldiv_loss(LOG_PROBABILITIES, TARGETS, LENGTH, **given), value)
        module = el.KLDivLoss(**given)
        torch.testing.assert_close(module(LOG_PROBABILITIES, TARGETS, LENGTH), value)


def test_kldiv_follows_speechbrain_unless_asked_not_to() -> None:
    loss = kl_by_hand(LOG_PROBABILITIES, TARGETS, 0.2, 0)
    for reduction, value in {
        "mean": loss.sum(),
        "sum": loss.sum(),
        "batch": loss.sum(1) / LENGTH,
        "batchmean": loss.sum() / 2,
    }.items():
        got = F.kldiv_loss(LOG_PROBABILITIES, TARGETS, LENGTH, label_smoothing=0.2, reduction=reduction)
        torch.testing.assert_close(got, value)
    rows = F.kldiv_loss(LOG_PROBABILITIES, TARGETS, LENGTH, label_smoothing=0.2, reduction="none")
    assert rows.shape == (10, 4)
    torch.testing.assert_close(rows.sum(1), loss.flatten())


LATTICE = (
    torch.randn(2, 6, 4, 5),
    torch.tensor([[1, 2, 3], [4, 4, 1]]),
    torch.tensor([1.0, 0.5]),
    torch.ones(2),
)


def test_the_two_transducers_differ_by_the_number_of_frames() -> None:
    plain = F.transducer_loss(*LATTICE, blank_index=0, reduction="none")
    normalized = F.transducer_loss(*LATTICE, blank_index=0, reduction="none", use_torchaudio=False)
    torch.testing.assert_close(normalized, plain / torch.tensor([6.0, 3.0]))


@pytest.mark.parametrize("use_torchaudio", [True, False])
def test_the_transducer_has_every_reduction(use_torchaudio: bool) -> None:
    def loss(reduction: str) -> Tensor:
        return F.transducer_loss(*LATTICE, 0, reduction, use_torchaudio)

    costs = loss("none")
    assert torch.equal(loss("batch"), costs)
    for reduction, expected in {"batchmean": costs.mean(), "mean": costs.mean(), "sum": costs.sum()}.items():
        torch.testing.assert_close(loss(reduction), expected)


def test_an_error_inside_a_wrapped_loss_is_not_taken_for_its_signature() -> None:
    class Broken(nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            raise TypeError("broken")

    with pytest.raises(TypeError, match=r"^broken$"):
        el.LogSoftmaxWrapper(Broken())(torch.zeros(2, 1, 3), torch.zeros(2, 1, dtype=torch.int64))


def test_masked_infinities_do_not_become_nan() -> None:
    log_probabilities = torch.tensor([[[0.0, -torch.inf], [0.0, -torch.inf]]])
    classes, length = torch.tensor([[0, 1]]), torch.tensor([0.5])
    assert F.nll_loss(log_probabilities, classes, length) == 0
    given = (log_probabilities.transpose(1, 2), classes, length)
    assert F.compute_masked_loss(nn.NLLLoss(reduction="none"), *given) == 0
    assert el.MaskedLoss(nn.NLLLoss(reduction="none"))(*given) == 0
