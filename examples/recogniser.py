"""How sure is a text recogniser of what it should read? Its likelihood, from a CTC loss behind it.

The recogniser is the PP-OCRv4 model in the package `rapidocr-onnxruntime`: pictures of lines in,
probabilities of characters out, trained with CTC. The demo attaches the exported loss to it. Nothing
here needs torch.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from exportable_losses.runtime import LossSession
from exportable_losses.runtime import plot as plot_lattice

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
PHRASE = "Rain fell softly"  # short enough for a picture of every state and frame
CONDITIONS = ("clean", "blurred", "noisy")
HEIGHT = 48  # of a line, in pixels; the model wants it
BLANK = 0
SCORES = "softmax_11.tmp_0"  # the model's output: probabilities, batch first
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


def model_path() -> Path:
    """The recogniser's file.

    Raises:
        FileNotFoundError: the package that carries it is not installed.
    """
    package = find_spec("rapidocr_onnxruntime")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("rapidocr-onnxruntime is not installed; `make venv` does it")
    return Path(package.submodule_search_locations[0]) / "models" / "ch_PP-OCRv4_rec_infer.onnx"


class Recogniser:
    """The model with the loss behind it, in one file: a picture and its text in, probabilities and loss out.

    Args:
        path: the file that `attach` wrote. Its loss has the reduction ``none``, so that it is in nats.
    """

    def __init__(self, path: Path) -> None:
        self.session = LossSession(path)
        known = self.session.properties["character"].split("\n")
        self.characters = ["", *known, " "]  # the blank first, the space last

    def __call__(self, grey: np.ndarray, text: str) -> tuple[np.ndarray, float]:
        """Probabilities `[T, C]` for a picture `[48, W]`, T about W / 8, and the loss of `text`."""
        whole = np.ones(1, np.float32)
        outputs = self.session(
            x=as_input(grey)[None], targets=self.encode(text)[None], input_lens=whole, target_lens=whole
        )
        return outputs[SCORES][0], float(outputs["loss"][0])

    def encode(self, text: str) -> np.ndarray:
        """The classes of the characters of `text`."""
        return np.array([self.characters.index(character) for character in text])

    def decode(self, probabilities: np.ndarray) -> str:
        """The text on the best path."""
        return self.spell(collapse(probabilities.argmax(-1)))

    def spell(self, labels: np.ndarray) -> str:
        """The characters of classes."""
        return "".join(self.characters[i] for i in labels)


def as_input(grey: np.ndarray) -> np.ndarray:
    """A picture `[48, W]` as the model takes it: `[3, 48, W]` in [-1, 1]."""
    return np.broadcast_to(2 * grey - 1, (3, *grey.shape))


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


def score(path: Path, lines: Sequence[str] = LINES) -> Iterator[Result]:
    """Read `lines` under each condition.

    Args:
        path: of a `Recogniser`.
        lines: what to draw.
    """
    recogniser = Recogniser(path)
    characters = sum(map(len, lines))
    for condition in CONDITIONS:
        outputs = [recogniser(draw(text, condition, seed), text) for seed, text in enumerate(lines)]
        read = [recogniser.decode(probabilities) for probabilities, _ in outputs]
        wrong = sum(map(edits, read, lines))
        cost = sum(nats for _, nats in outputs)
        yield Result(condition, cost / characters, wrong / characters, read[0])


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


def draw_lattice(
    joint: Path, posterior: Path, align: Path, path: Path, text: str = PHRASE, condition: str = "blurred"
) -> None:
    """Save a picture of where the recogniser sees each character, and how sure it is of that.

    Args:
        joint: of a `Recogniser`.
        posterior: the exported `CTCPosterior`.
        align: the exported `CTCAlign`.
        path: the picture.
        text: what it reads.
        condition: how it is drawn.
    """
    recogniser, whole = Recogniser(joint), np.ones(1, np.float32)
    probabilities, _ = recogniser(draw(text, condition), text)
    feed = {
        "log_probs": np.log(probabilities)[None],
        "targets": recogniser.encode(text)[None],
        "input_lens": whole,
        "target_lens": whole,
    }
    outputs = {**LossSession(posterior)(**feed), **LossSession(align)(**feed)}
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_lattice(outputs, tokens=list(text)).savefig(path, dpi=150)
