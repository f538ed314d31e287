"""The drop-ins beside the libraries whose names they have: as recorded, and as installed where they are."""

import importlib
import types

import numpy as np
import originals
import pytest
import torch
from torch import Tensor

from exportable_losses.drop_in import speechbrain, torchaudio

CASES = dict(originals.calls(torchaudio))


def original(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        pytest.skip(f"{name} does not load: {str(error).splitlines()[0]}")


@pytest.mark.parametrize("name", CASES)
def test_torchaudio_as_recorded(name: str) -> None:
    with np.load(originals.RECORD) as record:
        for i, tensor in enumerate(CASES[name]):
            expected = torch.from_numpy(record[f"{name}/{i}"])
            torch.testing.assert_close(tensor, expected, rtol=2e-6, atol=2e-6)


def test_torchaudio_as_installed() -> None:
    for name, expected in originals.calls(original("torchaudio.functional")):
        torch.testing.assert_close(
            CASES[name], expected, rtol=2e-6, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    log_probs = torch.randn(3, 12, 6, generator=draw).log_softmax(-1)
    targets = torch.randint(1, 6, (3, 4), generator=draw)
    return log_probs, targets, torch.tensor([1.0, 0.75, 0.5]), torch.tensor([1.0, 0.5, 0.75])


def test_speechbrain_as_installed() -> None:
    """One row of each shape of arguments; all thirty are held to recorded values elsewhere."""
    theirs = original("speechbrain.nnet.losses")
    log_probs, targets, frames, labels = batch()
    regression = (log_probs, torch.randn(3, 12, 6, generator=torch.Generator().manual_seed(2)))
    for reduction in ("mean", "batchmean", "batch"):
        torch.testing.assert_close(
            speechbrain.ctc_loss(log_probs, targets, frames, labels, 0, reduction),
            theirs.ctc_loss(log_probs, targets, frames, labels, 0, reduction),
        )
    for reduction in ("mean", "batchmean", "batch"):
        for name in ("l1_loss", "mse_loss"):
            got, expected = (
                getattr(library, name)(*regression, frames, reduction=reduction)
                for library in (speechbrain, theirs)
            )
            torch.testing.assert_close(got, expected)
        got, expected = (
            library.nll_loss(log_probs, targets.repeat(1, 3), frames, 0.1, reduction=reduction)
            for library in (speechbrain, theirs)
        )
        torch.testing.assert_close(got, expected)
