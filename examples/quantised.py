"""Is the quantised model still the one that was trained? Its likelihood and its error rate, item by item.

The recogniser's weights go to eight bits with ONNX Runtime's own `quantize_dynamic`: those of its matrix
products, and those of its convolutions too. The float model and each of them score the same pictures, and
`compare` says by how much the likelihood of the true text and the character error rate have moved.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import recogniser
from matplotlib.figure import Figure
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from recogniser import CONDITIONS, LINES, Recogniser, collapse, draw

from exportable_losses.export import attach
from exportable_losses.runtime import Scorer, score_corpus
from exportable_losses.runtime.corpus.compare import Comparison, compare_runs
from exportable_losses.runtime.corpus.report import write_comparison
from exportable_losses.runtime.corpus.runs import read_run

KINDS = {"products": ["MatMul"], "products and convolutions": ["MatMul", "Conv"]}
# the runs of a model, the output that is compared, and by how much its total may move
COMPARED = {"likelihood": ("loss", 1.0), "errors": ("rate", 0.02)}  # nats a line, errors a character
# a picture and its text, by the id that they have in the corpus
ITEMS = {
    f"{condition}-{number:02}": (draw(text, condition, number), text)
    for condition in CONDITIONS
    for number, text in enumerate(LINES)
}


@dataclass(frozen=True)
class Scored:
    """What a model makes of the pictures.

    Args:
        folder: has the runs: of the CTC loss in `likelihood`, of the token error rate in `errors`.
        read: the text of each picture, by id.
    """

    folder: Path
    read: dict[str, str]


def quantise(operators: Sequence[str], path: Path) -> None:
    """Write the recogniser with the weights of some operators in eight bits."""
    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(recogniser.model_path(), prepared, skip_symbolic_shape=True)  # weights are constants
    quantize_dynamic(
        prepared, path, op_types_to_quantize=list(operators), weight_type=QuantType.QUInt8, per_channel=True
    )
    prepared.unlink()


def score(model: Path, losses: Path, folder: Path) -> Scored:
    """Score the pictures with a model: by the CTC loss behind it, and by what it reads.

    Args:
        model: gives probabilities.
        losses: where the exported losses are.
        folder: to be written.
    """
    folder.mkdir(parents=True)
    joint = folder / "joint.onnx"
    loss, rate = (losses / row / f"{row}.onnx" for row in ("ctc_loss", "TokenErrorRate"))
    attach(model, loss, joint, inputs={"log_probs": recogniser.SCORES}, scores="probs")
    reader = Recogniser(joint)
    pictures, texts, read = {}, {}, {}
    for name, (grey, text) in ITEMS.items():
        targets = reader.encode(text)
        pictures |= {f"{name}.x": recogniser.as_input(grey), f"{name}.targets": targets}
        labels = collapse(reader(grey, text)[0].argmax(-1))
        texts |= {f"{name}.predictions": labels, f"{name}.targets": targets}
        read[name] = reader.spell(labels)
    for shard, arrays in (("pictures", pictures), ("texts", texts)):
        np.savez(folder / f"{shard}.npz", **arrays)
    score_corpus(Scorer(joint), [folder / "pictures.npz"], folder / "likelihood")
    score_corpus(Scorer(rate), [folder / "texts.npz"], folder / "errors")
    return Scored(folder, read)


def compare(a: Scored, b: Scored, page: Path) -> list[Comparison]:
    """Hold one model to another, and write a page about it."""
    found = []
    for run, (output, tolerance) in COMPARED.items():
        pair = [read_run(scored.folder / run) for scored in (a, b)]
        found.append(compare_runs(*pair, [output], tolerance=tolerance))
    write_comparison(found, page, worst=10, picture=lambda name: _picture(name, a.read[name], b.read[name]))
    return found


def _picture(name: str, a: str, b: str) -> bytes:
    """A line of text, and how each model read it."""
    grey, _ = ITEMS[name]
    figure = Figure(figsize=(5, 1.3), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(f"A: {a}\nB: {b}", fontsize=9, loc="left", parse_math=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()
