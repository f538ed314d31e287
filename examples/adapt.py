"""A model that adapts where it runs, with numpy and onnxruntime alone. From the repository:

.venv/bin/python examples/adapt.py

`export` writes one graph of a small acoustic model and its CTC loss: the chosen weights are inputs, the loss
and their gradients outputs. `adapt` takes steps with it and needs no torch. The same steps in torch follow.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from exportable_losses.runtime import LossSession

WEIGHTS = ("encoder.2.bias", "head.weight", "head.bias")
STEPS, RATE = 30, 0.05


def export(path: Path):
    """Write the graph; return the model, a batch to adapt to, and the weights to begin with."""
    import torch
    from torch import nn

    from exportable_losses.export import to_onnx

    class Acoustic(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(
                nn.Conv1d(20, 32, 5, stride=2, padding=2),
                nn.ReLU(),
                nn.Conv1d(32, 32, 3, padding=1),
                nn.ReLU(),
            )
            self.head = nn.Linear(32, 12)
            self.loss = nn.CTCLoss(zero_infinity=True)

        def forward(self, features, targets, frames, labels):
            hidden = self.encoder(features.transpose(1, 2)).transpose(1, 2)
            log_probs = self.head(hidden).log_softmax(-1)
            return self.loss(log_probs.transpose(0, 1), targets, frames, labels)

    torch.manual_seed(0)
    model = Acoustic()
    batch = {
        "features": torch.randn(4, 60, 20),  # [batch, time, mel bands]
        "targets": torch.randint(1, 12, (4, 8)),
        "frames": torch.tensor([30, 28, 25, 20]),  # of what the encoder gives, half of the time
        "labels": torch.tensor([8, 6, 7, 5]),
    }
    to_onnx(model, path, batch, gradients=WEIGHTS)
    weights = {name: model.get_parameter(name).detach().clone().numpy() for name in WEIGHTS}
    return model, batch, weights


def adapt(path: Path, batch: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> list[float]:
    """Gradient descent on the device. Changes `weights`; returns the loss before each step."""
    session = LossSession(path)
    losses = []
    for _ in range(STEPS):
        outputs = session(**batch, **weights)
        for name in weights:
            weights[name] -= RATE * outputs[f"grad_{name}"]
        losses.append(float(outputs["loss"]))
    return losses


def adapt_in_torch(model, batch) -> list[float]:
    """The same steps where the model was trained."""
    import torch

    optimizer = torch.optim.SGD([model.get_parameter(name) for name in WEIGHTS], lr=RATE)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(**batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Adapt in both and compare."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "acoustic.onnx"
        model, batch, weights = export(path)
        here = adapt(path, {name: tensor.numpy() for name, tensor in batch.items()}, weights)
    there = adapt_in_torch(model, batch)
    print("step  onnxruntime     torch")
    for step in range(0, STEPS, 5):
        print(f"{step:4}{here[step]:13.6f}{there[step]:10.6f}")
    loss_off = np.abs(np.subtract(here, there)).max()
    weight_off = max(
        np.abs(w - model.get_parameter(name).detach().numpy()).max() for name, w in weights.items()
    )
    print(f"largest difference: {loss_off:.1e} in a loss, {weight_off:.1e} in a weight")
    if here[-1] > 0.9 * here[0] or loss_off > 1e-5 * here[0] or weight_off > 1e-5:
        sys.exit("the losses do not fall, or are not those of torch")


if __name__ == "__main__":
    main()
