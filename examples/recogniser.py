"""How sure is a text recogniser of what it should read? Its likelihood, from an exported CTC loss.

The recogniser is the PP-OCRv4 model in the package `rapidocr-onnxruntime`: pictures of lines in,
probabilities of characters out, trained with CTC. Nothing here needs torch.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from exportable_losses.runtime import LossSession

LINES = """
The quick kettle sings at seven.
Nobody counted the blue umbrellas.
A loss is a number with a history.
Bring two pencils and some patience.
Rain fell softly on the tin roof.
Our train leaves from platform nine.
Every model forgets something small.
The baker hums while bread cools.
Seven geese crossed the frozen pond.
Please water the fern on Tuesday.
Old maps show a river that moved.
She tuned the radio past midnight.
Measure twice, then export once.
The lamp flickers when trucks pass.
Warm soup waits beside the window.
He wrote the answer on his sleeve.
Gradients flow downhill, mostly.
Three foxes watched the parked van.
Keep the receipt for the violin.
Tomorrow the tide turns at dawn.
""".strip().splitlines()
CONDITIONS = ("clean", "blurred", "noisy")
HEIGHT = 48  # of a line, in pixels; the model wants it
BLANK = 0
BLUR = 4.0  # radius in pixels
NOISE = 0.6  # standard deviation, where black is 0 and white 1


@dataclass(frozen=True)
class Result:
    """What the recogniser makes of the lines under one condition.

    Args:
        condition: its name.
        nll: mean negative log-likelihood of the true text, in nats per character.
        cer: edits to the true text per character of it.
        example: how the first line was read.
    """

    condition: str
    nll: float
    cer: float
    example: str


def draw(text: str, condition: str = "clean", seed: int = 0) -> np.ndarray:
    """A line of text as grey levels in [0, 1], `[48, W]`: black on white, in Pillow's own font."""
    font = ImageFont.load_default(size=30)
    picture = Image.new("L", (int(font.getlength(text)) + 24, HEIGHT), "white")
    ImageDraw.Draw(picture).text((12, HEIGHT / 2), text, fill="black", font=font, anchor="lm")
    if condition == "blurred":
        picture = picture.filter(ImageFilter.GaussianBlur(BLUR))
    grey = np.asarray(picture, np.float32) / 255
    if condition == "noisy":
        grey = grey + np.random.default_rng(seed).normal(0, NOISE, grey.shape)
    return grey.clip(0, 1).astype(np.float32)


class Recogniser:
    """The model: pictures of lines to log-probabilities of characters.

    Raises:
        FileNotFoundError: the package that carries it is not installed.
    """

    def __init__(self) -> None:
        package = find_spec("rapidocr_onnxruntime")
        if package is None or not package.submodule_search_locations:
            raise FileNotFoundError("rapidocr-onnxruntime is not installed; `make venv` does it")
        path = Path(package.submodule_search_locations[0]) / "models" / "ch_PP-OCRv4_rec_infer.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        known = self.session.get_modelmeta().custom_metadata_map["character"].split("\n")
        self.characters = ["", *known, " "]  # the blank first, the space last

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """Log-probabilities `[T, C]` of a picture `[48, W]`; T is about W / 8."""
        picture = np.broadcast_to(2 * grey - 1, (1, 3, *grey.shape))
        (probabilities,) = self.session.run(None, {"x": picture})
        return np.log(probabilities[0])

    def encode(self, text: str) -> np.ndarray:
        """The classes of the characters of `text`."""
        return np.array([self.characters.index(character) for character in text])

    def decode(self, log_probs: np.ndarray) -> str:
        """The text on the best path."""
        return "".join(self.characters[i] for i in collapse(log_probs.argmax(-1)))


def collapse(path: np.ndarray) -> np.ndarray:
    """The labels of a path of classes: repetitions merged, then blanks removed."""
    fresh = path != np.concatenate([[BLANK], path[:-1]])
    return path[fresh & (path != BLANK)]


def edits(read: str, text: str) -> int:
    """The fewest insertions, deletions and substitutions that turn `read` into `text`."""
    row = list(range(len(text) + 1))
    for i, have in enumerate(read, 1):
        before, row = row, [i]
        for j, want in enumerate(text, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (have != want)))
    return row[-1]


def pad(items: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Items of different lengths as one array, and their lengths relative to the longest."""
    longest = max(len(item) for item in items)
    batch = np.zeros((len(items), longest, *items[0].shape[1:]), items[0].dtype)
    for place, item in zip(batch, items, strict=True):
        place[: len(item)] = item
    return batch, np.array([len(item) / longest for item in items], np.float32)


def score(ctc_loss: LossSession, lines: Sequence[str] = LINES) -> Iterator[Result]:
    """Read `lines` under each condition.

    Args:
        ctc_loss: exported with the reduction ``none``, so that it gives nats per line.
        lines: what to draw.
    """
    recogniser = Recogniser()
    targets, target_lens = pad([recogniser.encode(text) for text in lines])
    characters = sum(map(len, lines))
    for condition in CONDITIONS:
        outputs = [recogniser(draw(text, condition, seed)) for seed, text in enumerate(lines)]
        log_probs, input_lens = pad(outputs)
        costs = ctc_loss(
            log_probs=log_probs, targets=targets, input_lens=input_lens, target_lens=target_lens
        )["loss"]
        read = [recogniser.decode(each) for each in outputs]
        wrong = sum(map(edits, read, lines))
        yield Result(condition, float(costs.sum()) / characters, wrong / characters, read[0])


def rise_together(results: Sequence[Result]) -> bool:
    """Whether a higher cost always comes with more errors."""
    ordered = sorted(results, key=lambda result: result.nll)
    return all(a.nll < b.nll and a.cer < b.cer for a, b in itertools.pairwise(ordered))


def plot(results: Sequence[Result], path: Path, text: str = LINES[0]) -> None:
    """Save the first line under each condition, above the two measures."""
    names = [result.condition for result in results]
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    pictures, bars = figure.subfigures(2, 1, height_ratios=[1, 3.2])
    for axes, result in zip(pictures.subplots(1, len(results)), results, strict=True):
        axes.imshow(draw(text, result.condition), cmap="gray", vmin=0, vmax=1)
        axes.set_title(result.condition, fontsize=11)
        axes.set_xlabel(f"read as: {result.example}", fontsize=8)
        axes.set(xticks=[], yticks=[])
    left, right = bars.subplots(1, 2)
    panels = (
        (left, [result.nll for result in results], "nats per character", "CTC loss of the true text"),
        (right, [100 * result.cer for result in results], "% of characters", "Character error rate"),
    )
    for axes, values, unit, title in panels:
        shown = axes.bar(names, values, width=0.6, color=["#4c78a8", "#f2a541", "#c44e52"])
        axes.bar_label(shown, fmt="%.2f" if axes is left else "%.1f", padding=2)
        axes.set_title(title, fontsize=11)
        axes.set_ylabel(unit)
        axes.margins(y=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
