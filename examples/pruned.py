"""A pruned transducer from training to adaptation. From the repository:

    .venv/bin/python examples/pruned.py

A small encoder, predictor and joiner learn to spell words with the simple and the pruned loss, as recipes do.
The speech is espeak-ng's where it is installed, and otherwise made of noise, a spectrum for each letter. Then
the trained model is exported with its alignment and with its loss, and onnxruntime alone aligns a word and
adapts the model to another voice. The joint of all frames, labels and classes is never there.
"""

import shutil
import subprocess
import tempfile
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses import functional
from exportable_losses.export import to_onnx
from exportable_losses.runtime import LossSession

WORDS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "zero",
    "yes",
    "no",
    "left",
    "right",
    "stop",
    "go",
]
LETTERS = ["<blank>", *sorted(set("".join(WORDS)))]
BANDS, HOP, RATE = 40, 0.01, 22050
STEPS, BATCH, RANGE = 400, 16, 4
WEIGHTS = ("model.joiner.2.bias", "model.encoder.4.bias")


class Transducer(nn.Module):
    """Convolutions that leave each fourth frame, a predictor that sees the last label, and a joiner."""

    def __init__(self, hidden: int = 96, classes: int = len(LETTERS)) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(BANDS, hidden, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv1d(hidden, hidden, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv1d(hidden, hidden, 5, padding=2),
        )
        self.predictor = nn.Embedding(classes, hidden)
        self.to_am, self.to_lm = nn.Linear(hidden, classes), nn.Linear(hidden, classes)
        self.joiner = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, classes))

    def forward(
        self, features: Tensor, targets: Tensor, frames: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The simple loss, logits `[B, T, R, V]` and the ranges that they are of."""
        hidden = self.encoder(features.transpose(1, 2)).transpose(1, 2)
        before = self.predictor(nn.functional.pad(targets, [1, 0]))
        simple, ranges = functional.simple_loss_and_ranges(
            self.to_am(hidden), self.to_lm(before), targets, frames, labels, RANGE, lm_only_scale=0.25
        )
        am, lm = functional.prune(hidden, before, ranges)
        return simple, self.joiner(am + lm), ranges


class Loss(nn.Module):
    """What is trained: half of the simple loss, and the pruned one."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.model, self.pruned = model, el.PrunedTransducerLoss()

    def forward(self, features: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
        simple, logits, ranges = self.model(features, targets, frames, labels)
        return 0.5 * simple + self.pruned(logits, ranges, targets, frames, labels)


class Alignment(nn.Module):
    """When the model hears each letter of a word."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.model, self.align = model, el.PrunedTransducerAlign()

    def forward(self, features: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> dict[str, Tensor]:
        _, logits, ranges = self.model(features, targets, frames, labels)
        tokens, starts, _, scores, _ = self.align(logits, ranges, targets, frames, labels)
        return {"tokens": tokens, "starts": starts, "scores": scores}


# Speech


def spoken(word: str, voice: str, speed: int) -> np.ndarray:
    """Log energies `[T, BANDS]` of espeak-ng's speech."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "word.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-w", file, word], check=True)
        with wave.open(str(file)) as audio:
            samples = np.frombuffer(audio.readframes(audio.getnframes()), np.int16) / 2**15
    hop = int(RATE * HOP)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(samples, hop), 2 * hop)[::hop]
    power = np.abs(np.fft.rfft(windows * np.hanning(2 * hop))) ** 2
    return np.log(np.add.reduceat(power, np.arange(BANDS) * 5, axis=1)[:, :BANDS] + 1e-6)


def synthetic(word: str, voice: str, random: np.random.Generator) -> np.ndarray:
    """Noise with a spectrum for each letter, louder at higher bands for the second voice."""
    spectra = np.random.default_rng(0).normal(size=(len(LETTERS), BANDS))
    letters = np.repeat([LETTERS.index(c) for c in word], random.integers(7, 13, len(word)))
    tilt = np.linspace(-2, 2, BANDS) if voice == "en-us+f3" else 0
    return spectra[letters] + tilt + 0.7 * random.normal(size=(len(letters), BANDS))


def features_of(voice: str, number: int, seed: int) -> list[tuple[np.ndarray, str]]:
    """Words as features `[T, BANDS]`."""
    random = np.random.default_rng(seed)
    words = [str(random.choice(WORDS)) for _ in range(number)]
    if shutil.which("espeak-ng"):
        speeds = random.integers(120, 200, number)
        found = [(spoken(word, voice, int(s)), word) for word, s in zip(words, speeds, strict=True)]
        return [(x - x.mean() + 0.1 * random.normal(size=x.shape), word) for x, word in found]
    return [(synthetic(word, voice, random), word) for word in words]


def batch_of(items: list[tuple[np.ndarray, str]]) -> dict[str, Tensor]:
    """Items padded to the longest, and their lengths; frames are those that the encoder leaves."""
    most, longest = max(len(x) for x, _ in items), max(len(word) for _, word in items)
    features = np.zeros((len(items), most, BANDS), np.float32)
    targets = np.zeros((len(items), longest), np.int64)
    for row, (x, word) in enumerate(items):
        features[row, : len(x)] = x
        targets[row, : len(word)] = [LETTERS.index(c) for c in word]
    frames = [-(-len(x) // 4) for x, _ in items]
    arrays = {"features": features, "targets": targets}
    lengths = {"frames": np.array(frames), "labels": np.array([len(word) for _, word in items])}
    return {name: torch.from_numpy(array) for name, array in (arrays | lengths).items()}


# What a recipe does, and a device


def train(model: Transducer, items: list[tuple[np.ndarray, str]]) -> list[float]:
    """Adam on random batches; returns the loss of each."""
    loss, random = Loss(model), np.random.default_rng(0)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(STEPS):
        batch = batch_of([items[i] for i in random.integers(0, len(items), BATCH)])
        optimizer.zero_grad()
        value = loss(**batch)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def show_alignment(path: Path, item: tuple[np.ndarray, str]) -> None:
    """When each letter of a word begins, from the graph alone."""
    arrays = {name: tensor.numpy() for name, tensor in batch_of([item]).items()}
    outputs = LossSession(path)(**arrays)
    seconds = outputs["starts"][0] * 4 * HOP
    letters = " ".join(f"{LETTERS[k]} {s:.2f}" for k, s in zip(outputs["tokens"][0], seconds, strict=True))
    print(f"alignment of {item[1]!r}, in seconds: {letters}")


def adapt(path: Path, model: nn.Module, items: list[tuple[np.ndarray, str]]) -> tuple[float, float]:
    """Gradient descent on two biases in onnxruntime; the loss before and after."""
    session = LossSession(path)
    weights = {name: model.get_parameter(name).detach().clone().numpy() for name in WEIGHTS}
    arrays = {name: tensor.numpy() for name, tensor in batch_of(items).items()}
    losses = []
    for _ in range(40):
        outputs = session(**arrays, **weights)
        losses.append(float(outputs["loss"]))
        for name in weights:
            weights[name] -= 0.05 * outputs[f"grad_{name}"]
    return losses[0], losses[-1]


def main() -> None:
    """Train, export, align, adapt."""
    torch.manual_seed(0)
    source = "espeak-ng" if shutil.which("espeak-ng") else "noise (espeak-ng is not installed)"
    print(f"speech: {source}")
    model, items = Transducer(), features_of("en-us", 200, seed=1)
    losses = train(model, items)
    print(
        f"loss per word: {np.mean(losses[:20]):.2f} at first, {np.mean(losses[-20:]):.2f} after {STEPS} steps"
    )
    assert np.mean(losses[-20:]) < 0.2 * np.mean(losses[:20])
    example = batch_of(items[:3])
    with tempfile.TemporaryDirectory() as folder:
        alignment, loss = Path(folder) / "align.onnx", Path(folder) / "loss.onnx"
        to_onnx(Alignment(model), alignment, example)
        show_alignment(alignment, items[0])
        trained = Loss(model)
        to_onnx(trained, loss, example, gradients=WEIGHTS)
        before, after = adapt(loss, trained, features_of("en-us+f3", 16, seed=2))
    print(f"another voice: loss {before:.2f}, {after:.2f} after 40 steps of adaptation in onnxruntime")
    assert after < before


if __name__ == "__main__":
    main()
