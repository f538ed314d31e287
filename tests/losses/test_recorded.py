"""Every recorded call of SpeechBrain and torchaudio, by each of the three ways to make it here."""

import pytest
import torch
from recorded import Recording, recordings
from torch import Tensor

from exportable_losses import catalog, functional, speechbrain

RECORDINGS = recordings()
WAYS = [
    pytest.param(recording, way, id=f"{recording.id}-{way}")
    for recording in RECORDINGS
    for way in ("as_module", "as_function", "as_speechbrain")
    if way != "as_function" or hasattr(functional, recording.name)
]


def test_the_recordings_cover_every_row_of_speechbrain() -> None:
    assert len(RECORDINGS) == 158
    assert {recording.name for recording in RECORDINGS} == set(speechbrain.__all__) & set(catalog.names())


@pytest.mark.parametrize(("recording", "way"), WAYS)
def test_values(recording: Recording, way: str) -> None:
    tensors = recording.tensors()
    outputs = getattr(recording, way)(tensors)
    for got, want in zip(outputs, recording.expected(), strict=True):
        torch.testing.assert_close(torch.as_tensor(got), want, rtol=2e-5, atol=2e-5)
    unchanged(recording, tensors)


@pytest.mark.parametrize(("recording", "way"), [p for p in WAYS if p.values[0].grads])
def test_gradients(recording: Recording, way: str) -> None:
    tensors = recording.tensors()
    for name in recording.grads:
        tensors[name].requires_grad_()
    getattr(recording, way)(tensors)[0].sum().backward()
    for name in recording.grads:
        torch.testing.assert_close(tensors[name].grad, recording.gradient(name), rtol=2e-4, atol=2e-5)
    unchanged(recording, tensors)


def unchanged(recording: Recording, tensors: dict[str, Tensor]) -> None:
    for name, before in recording.tensors().items():
        assert torch.equal(tensors[name].detach(), before), f"{name} was written to"
