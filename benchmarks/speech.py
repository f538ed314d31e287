"""Speech that says where its words are, and a small CTC model of it, for `benchmarks/alignment.py`.

The speech is espeak-ng's: its library calls back with the sample at which each word and phoneme begins. The
model spells: its classes are the blank and the letters.
"""

import ctypes
import ctypes.util
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import exportable_losses as el

WORDS = Path(__file__).with_name("words.txt").read_text().split()
LETTERS = ["<blank>", *sorted(set("".join(WORDS)))]
VOICES = ("en-us", "en-us+f2", "en-us+f4", "en-us+m3", "en-us+m7", "en-gb", "en-gb+f3", "en-gb+m1")
RATE, BANDS = 22050, 40
WINDOW, STEP = 551, 220  # samples of the features: 25 and 10 ms
HOP = 2 * STEP / RATE  # seconds from one frame of the scores to the next


@dataclass(frozen=True)
class Utterance:
    """Speech and where its words are.

    Args:
        samples: `[N]`, float32 in -1 to 1.
        words: in order.
        times: `[W, 2]`, where each begins and ends, in seconds.
    """

    samples: np.ndarray
    words: tuple[str, ...]
    times: np.ndarray


# espeak-ng


class _Event(ctypes.Structure):
    """`espeak_EVENT` of `speak_lib.h`."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)
_SYNCHRONOUS, _PHONEME_EVENTS, _DONT_EXIT, _UTF8 = 2, 1, 0x8000, 1
_SPEED, _PITCH = 1, 3
_WORD, _END, _PHONEME = 1, 5, 7


class Speaker:
    """espeak-ng's library.

    Raises:
        OSError: it is not installed.
    """

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            raise OSError("libespeak-ng is not installed (Debian: apt-get install espeak-ng)")
        self.library = ctypes.CDLL(name)
        if self.library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _DONT_EXIT) != RATE:
            raise OSError("libespeak-ng does not find its voices, or they have another sampling rate")
        self.blocks: list[np.ndarray] = []
        self.events: list[tuple[int, int, int, str]] = []
        self.callback = _CALLBACK(self._take)  # the library keeps no reference
        self.library.espeak_SetSynthCallback(self.callback)

    def _take(self, samples: Any, number: int, events: Any) -> int:
        if samples:
            self.blocks.append(np.ctypeslib.as_array(samples, (number,)).copy())
        place = 0
        while events[place].type:
            event = events[place]
            name = event.name.decode(errors="replace") if event.type == _PHONEME else ""
            self.events.append((event.type, event.text_position, event.sample, name))
            place += 1
        return 0

    def say(self, text: str, voice: str, speed: int, pitch: int) -> Utterance | None:
        """Speak; None where espeak-ng ran words together, so that they have no boundaries."""
        self.blocks, self.events = [], []
        self.library.espeak_SetVoiceByName(voice.encode())
        self.library.espeak_SetParameter(_SPEED, speed, 0)
        self.library.espeak_SetParameter(_PITCH, pitch, 0)
        given = text.encode()
        self.library.espeak_Synth(given, len(given) + 1, 0, 1, 0, _UTF8, None, None)
        words = text.replace(",", "").split()
        times: list[list[int]] = []
        ended = True
        for kind, _, sample, name in self.events:
            # a word ends where the next begins, or at a pause; the closure before a stop is of its word
            if not ended and (kind in (_WORD, _END) or name.startswith("_")):
                times[-1][1] = sample
                ended = True
            if kind == _WORD:
                times.append([sample, sample])
                ended = False
        samples = np.concatenate(self.blocks).astype(np.float32) / 2**15
        if len(times) != len(words):
            return None
        return Utterance(samples, tuple(words), np.array(times) / RATE)


# one of a process: the library is not what it was when it is initialised again
speaker = functools.cache(Speaker)


def in_noise(utterance: Utterance, random: np.random.Generator) -> Utterance:
    """Behind and before some silence, with noise of 10 to 30 dB below the speech."""
    before, after = (random.uniform(0.1, 0.6, 2) * RATE).astype(int)
    samples = np.pad(utterance.samples, (before, after))
    size = len(samples)
    tilt = np.arange(1, size // 2 + 2) ** -random.uniform(0, 0.5)  # from white to pink
    noise = np.fft.irfft(np.fft.rfft(random.normal(size=size)) * tilt, size)
    level = utterance.samples.std() / noise.std() * 10 ** (-random.uniform(10, 30) / 20)
    return Utterance(
        (samples + level * noise).astype(np.float32), utterance.words, utterance.times + before / RATE
    )


def utterances(number: int, seed: int) -> list[Utterance]:
    """Sentences of 6 to 12 words, in several voices, speeds and pitches, a third of them with a pause."""
    random = np.random.default_rng(seed)
    found: list[Utterance] = []
    while len(found) < number:
        words = random.choice(WORDS, random.integers(6, 13), replace=False).tolist()
        if random.random() < 1 / 3:
            words[random.integers(2, len(words) - 2)] += ","
        speed, pitch = random.integers(130, 200), random.integers(30, 70)
        said = speaker().say(" ".join(words), str(random.choice(VOICES)), int(speed), int(pitch))
        if said is not None:
            found.append(in_noise(said, random))
    return found


# The model


def mel_bands() -> Tensor:
    """Triangles of equal width on the mel scale: `[BINS, BANDS]`."""
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1)
    mels = torch.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins[:, None] - low) / (middle - low), (high - bins[:, None]) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0)


def features(samples: np.ndarray) -> Tensor:
    """Log-mel energies `[T, BANDS]`, T even; frame t is around t + 1/2 steps."""
    margin = (WINDOW - STEP) // 2 + 1
    windows = torch.from_numpy(np.pad(samples, (margin, margin + 2 * STEP))).unfold(0, WINDOW, STEP)
    windows = windows[: -(-len(samples) // (2 * STEP)) * 2]
    power = torch.fft.rfft(windows * torch.hann_window(WINDOW)).abs().square()
    energies = (power @ mel_bands() + 1e-6).log()
    return (energies - energies.mean(0)) / energies.std(0)


class Model(nn.Module):
    """Convolutions over 0.5 s; every second frame is left, so that frame t is from t to t + 1 of HOP."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.first = nn.Conv1d(BANDS, hidden, 4, stride=2, padding=1)
        self.layers = nn.ModuleList(nn.Conv1d(hidden, hidden, 5, padding=2) for _ in range(5))
        self.norms = nn.ModuleList(nn.GroupNorm(8, hidden) for _ in self.layers)
        self.last = nn.Conv1d(hidden, len(LETTERS), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities `[B, T / 2, C]` of features `[B, T, BANDS]`."""
        x = self.first(x.transpose(1, 2)).relu()
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(norm(x)).relu()
        return self.last(x).transpose(1, 2).log_softmax(-1)


def spelled(words: Sequence[str]) -> Tensor:
    """The classes of the letters of some words."""
    return torch.tensor([LETTERS.index(letter) for word in words for letter in word])


class PriorCTCLoss(nn.Module):
    """CTC of scores less a part of their priors, a label: Huang et al. 2024.

    https://arxiv.org/abs/2406.02560. A blank is worth less where blanks are everywhere, so that labels last.
    The priors are those of the frames so far, recent ones most of all.
    """

    priors: Tensor

    def __init__(self, part: float) -> None:
        super().__init__()
        self.part, self.loss = part, el.CTCLoss(0, reduction="sum")
        self.register_buffer("priors", torch.full((len(LETTERS),), 1 / len(LETTERS)))

    def forward(self, log_probs: Tensor, targets: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
        within = torch.arange(log_probs.shape[1]) < frames.unsqueeze(1)
        self.priors = 0.95 * self.priors + 0.05 * log_probs.detach()[within].exp().mean(0)
        less = log_probs - self.part * self.priors.log()
        # the gradient of `CTCLoss` is that of normalised scores: the normaliser is taken off and given back
        total = less.logsumexp(-1)
        cost = self.loss(less - total.unsqueeze(-1), targets, frames, labels) - total[within].sum()
        return cost / labels.sum()


def train(
    items: Sequence[Utterance],
    steps: int,
    priors: float = 0.0,
    seed: int = 0,
    show: Callable[[str], None] = print,
) -> Model:
    """Adam on random batches of 8, with a rate that falls to zero, and a part of the priors taken off.

    On one thread: two that other processes disturb wait for one another, ten times as long as they compute.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model, loss, batch = Model(), PriorCTCLoss(priors), 8
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    inputs, targets = [features(item.samples) for item in items], [spelled(item.words) for item in items]
    lengths = torch.tensor([len(x) for x in inputs])
    order, start, costs = lengths.argsort(), time.perf_counter(), []
    for step in range(steps):
        place = int(torch.randint(len(items) - batch + 1, ()))
        chosen = order[place : place + batch].tolist()  # of about the same length
        x = pad_sequence([inputs[i] for i in chosen], batch_first=True)
        y = pad_sequence([targets[i] for i in chosen], batch_first=True)
        optimizer.zero_grad()
        cost = loss(model(x), y, lengths[chosen] // 2, torch.tensor([len(targets[i]) for i in chosen]))
        cost.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        costs.append(cost.item())
        if (step + 1) % 200 == 0:
            show(f"  step {step + 1}: {np.mean(costs[-50:]):.2f}, {time.perf_counter() - start:.0f} s")
    return model.eval()


@torch.no_grad()
def scores(model: Model, items: Sequence[Utterance]) -> list[Tensor]:
    """Log-probabilities `[T, C]` of each."""
    return [model(features(item.samples).unsqueeze(0))[0] for item in items]
