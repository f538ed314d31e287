"""Edit distance beside jiwer and the library that it calls, as ratios.

    .venv/bin/python benchmarks/edits.py

Token ids, a tenth of them wrong: replaced, left out or put in. jiwer's `process_words` gets the same tokens
as words between spaces, `rapidfuzz.distance.Levenshtein.editops` gets them as lists of integers, a pair at
a time; the strings and lists are there before. Both work on one thread, and so do we here. All take turns in
this one process; each figure is the median.
"""

import functools
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jiwer
import onnxruntime
import torch
from rapidfuzz.distance import Levenshtein
from rich.console import Console
from rich.table import Table
from torch import Tensor

import exportable_losses as el
from exportable_losses.export import to_onnx
from exportable_losses.export.commands.timing import race
from exportable_losses.ops import native, using
from exportable_losses.runtime.native import register

SIZES = [(64, 40, 60), (16, 800, 1200)]  # B, and from how many to how many tokens
Pairs = list[tuple[list[int], list[int]]]


def pairs_of(items: int, low: int, high: int) -> Pairs:
    """Predictions and targets."""
    draw = random.Random(0)

    def spoilt(token: int) -> list[int]:
        wrong = draw.randrange(1000)
        return draw.choice([[wrong], [], [token, wrong]]) if draw.random() < 0.1 else [token]

    targets = [[draw.randrange(1000) for _ in range(draw.randint(low, high))] for _ in range(items)]
    return [([each for token in target for each in spoilt(token)], target) for target in targets]


def padded(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Tokens and relative lengths."""
    width = max(map(len, sequences))
    tokens = torch.tensor([sequence + [0] * (width - len(sequence)) for sequence in sequences])
    return tokens, torch.tensor([len(sequence) / width for sequence in sequences])


def inputs_of(pairs: Pairs) -> dict[str, Tensor]:
    predictions, prediction_lens = padded([prediction for prediction, _ in pairs])
    targets, target_lens = padded([target for _, target in pairs])
    return {
        "predictions": predictions,
        "targets": targets,
        "prediction_lens": prediction_lens,
        "target_lens": target_lens,
    }


def ours(inputs: dict[str, Tensor], path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every way to compute the same batch."""
    module = el.EditDistance()
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}

    def eager(computer: str) -> Callable[[], object]:
        def run() -> object:
            with using(computer):
                return module(**inputs)

        return run

    yield "eager, native library", eager("native")
    yield "eager, plain torch", eager("torch")
    for name, with_library in (("with the library", True), ("without", False)):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        register(options, with_library)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        yield f"onnxruntime {name}", functools.partial(session.run, None, arrays)


def main() -> None:
    about = native.about()
    if not about:
        sys.exit("The native library is not installed: nothing was measured.")
    torch.set_num_threads(1)
    console = Console(width=120)
    console.print(f"torch {torch.__version__}, {about['instruction set']}")
    table = Table("B, tokens", "what", "ms", "jiwer, ms", "editops, ms", "of jiwer", "of editops")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "distance.onnx"
        to_onnx(el.EditDistance(), path)
        for items, low, high in SIZES:
            pairs = pairs_of(items, low, high)
            words = [[" ".join(map(str, side)) for side in sides] for sides in zip(*pairs, strict=True)]

            def jiwers(words: list[list[str]] = words) -> object:
                return jiwer.process_words(words[1], words[0])

            def editops(pairs: Pairs = pairs) -> object:
                return [Levenshtein.editops(target, prediction) for prediction, target in pairs]

            for what, run in ours(inputs_of(pairs), path):
                mine, theirs, fuzz = race(run, jiwers, editops)
                times = (f"{mine:.3f}", f"{theirs:.2f}", f"{fuzz:.2f}")
                ratios = (f"{mine / theirs:.3f}", f"{mine / fuzz:.2f}")
                table.add_row(f"{items}, {low} to {high}", what, *times, *ratios)
    console.print(table)


if __name__ == "__main__":
    main()
