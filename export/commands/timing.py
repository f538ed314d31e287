"""How fast every row runs: eager torch beside onnxruntime, on the same inputs, in one process.

Times differ from machine to machine, ratios much less. So each case runs torch and onnxruntime in
turns and reports the medians and their ratio.
"""

import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from exportable_losses import catalog
from exportable_losses.lengths import absolute_length

from ..formats.onnx import to_onnx

Sizes = dict[str, Any]  # by letter: int, or None for a dimension left out

# The size of each letter, and what is different where a row says nothing else. X0 is what `*` is.
_SIZES: Sizes = {"B": 16, "T": 500, "C": 500, "U": 40, "V": 512, "X0": 80, "H": 500, "W": 80}
_SIZES |= {"L": 500, "Z": 64, "E": None}
_SIZES |= {"P": 10_000, "Q": 100_000, "K": 100, "R": 5}
_SECOND: Sizes = {"T": 16000, "C": 2}  # of two signals
_SPEAKERS: Sizes = {"B": 256, "C": 5000}
_CASES: dict[str, Sequence[Sizes]] = {
    "ctc_loss": [{"T": 1000, "S": 100}, {"B": 1, "S": 60, "C": 64}],
    "transducer_loss": [{"B": 4, "T": 150}],
    **{
        f"{kind}{what}": [{"B": 4, "T": 150}]
        for kind in ("TDT", "MultiBlankTransducer", "HAT", "PrunedTransducer")
        for what in ("Loss", "Posterior", "Align")
    },
    "SimpleTransducerLoss": [{"B": 4, "T": 150}],
    "PruneRanges": [{"B": 4, "T": 150}],
    "ctc_loss_kd": [{"T": 1000}],
    "ce_kd": [{"N": 8000}],
    "PitWrapper": [{"S": s, "X0": 16000 // s} for s in (2, 3, 4, 8)],
    "get_si_snr_with_pitwrapper": [{"B": 4, "T": 16000, "S": s} for s in (2, 8)],
    "get_snr_with_pitwrapper": [{"B": 4, "T": 16000, "S": s, "E": 1} for s in (2, 8)],
    "SDR": [{"B": 4, "T": 16000, "S": s} for s in (2, 8)],
    "SISNRImprovement": [{"B": 4, "T": 16000, "S": 2}],
    "CTCPosterior": [{"T": 1000, "S": 100}],
    "CTCForwardChunk": [{"T": 10, "S": 100}],
    "CTCAlign": [{"T": 1000, "S": 100}],
    "TransducerPosterior": [{"B": 4, "T": 150}],
    "TransducerAlign": [{"B": 4, "T": 150}],
    "EditDistance": [{"S": 100}],
    "TokenErrorRate": [{"S": 100}],
    "cal_si_snr": [_SECOND],
    "cal_snr": [_SECOND],
    "AngularMargin": [_SPEAKERS],
    "AdditiveAngularMargin": [_SPEAKERS],
    "LogSoftmaxWrapper": [_SPEAKERS],
    "ContrastiveLoss": [{"B": 4, "T": 100, "C": 256, "N": 100}],
    "Laplacian": [{"C": None}],
    "LaplacianVarianceLoss": [{"C": None}],
    "get_mask": [_SECOND],
}


@dataclass(frozen=True)
class Case:
    """What is timed: a row at some sizes.

    Args:
        row: its name.
        sizes: by letter.
        settings: of the module.
    """

    row: str
    sizes: Sizes = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """Medians of one case, in milliseconds.

    Args:
        row: its name.
        shapes: of the inputs, by name.
        baseline: what onnxruntime is held against: the eager module, or a function of torch.
        baseline_ms: its time.
        onnxruntime_ms: the time of the exported graph.
    """

    row: str
    shapes: dict[str, list[int]]
    baseline: str
    baseline_ms: float
    onnxruntime_ms: float

    @property
    def largest(self) -> str:
        """The shape of the largest input."""
        return " ".join(map(str, max(self.shapes.values(), key=math.prod)))

    @property
    def ratio(self) -> float:
        """onnxruntime's time in units of the baseline's."""
        return self.onnxruntime_ms / self.baseline_ms


def cases(rows: Sequence[str] = ()) -> list[Case]:
    """The cases of some rows, of all without any.

    Raises:
        KeyError: there is no such row.
    """
    return [Case(row, _sizes(row, more)) for row in rows or catalog.names() for more in _CASES.get(row, [{}])]


def measure(case: Case, *, threads: int | None = None, seconds: float = 1.0) -> Timing:
    """Export one case and time it against its baseline.

    Args:
        case: see `cases`.
        threads: of torch and of onnxruntime; as many as there are cores without it.
        seconds: about how long to measure.
    """
    module = catalog.get(case.row).module(**case.settings)
    inputs = catalog.get(case.row).example_inputs(**case.sizes)
    name, baseline = _baseline(case.row, module, inputs)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), _torch_threads(threads):
        path = Path(folder) / "graph.onnx"
        to_onnx(module, path, inputs)
        session = _session(path, threads)
        feed = {value.name: inputs[value.name].numpy() for value in session.get_inputs()}
        baseline_ms, graph_ms = race(baseline, lambda: session.run(None, feed), seconds=seconds)
    shapes = {name: list(tensor.shape) for name, tensor in inputs.items()}
    return Timing(case.row, shapes, name, baseline_ms, graph_ms)


def race(*contestants: Callable[[], Any], seconds: float = 1.0) -> list[float]:
    """The median time of each, in milliseconds, taken in turns.

    Each turn calls a contestant once untimed, so that none pays for threads that the one before it
    left awake.
    """
    calls = []
    for contestant in contestants:
        contestant()
        once = _time(contestant, 1)
        calls.append(max(1, int(2e-3 / once)))  # a turn of two milliseconds at least
    turns: list[list[float]] = [[] for _ in contestants]
    end = time.perf_counter() + seconds
    while len(turns[-1]) < 5 or time.perf_counter() < end:
        for contestant, number, times in zip(contestants, calls, turns, strict=True):
            contestant()
            times.append(_time(contestant, number))
    return [1e3 * statistics.median(times) for times in turns]


def run(rows: Sequence[str] = (), *, threads: int | None = None, seconds: float = 1.0) -> Iterator[Timing]:
    """Measure every case of some rows, of all without any."""
    for case in cases(rows):
        yield measure(case, threads=threads, seconds=seconds)


def _sizes(row: str, more: Sizes) -> Sizes:
    """The sizes of the letters that `row` has."""
    terms = " ".join(entry.dims for entry in catalog.get(row).inputs).replace("*", "X0").split()
    letters = {term.rstrip("?").partition("+")[0] for term in terms}
    return {letter: size for letter, size in {**_SIZES, **more}.items() if letter in letters}


@contextlib.contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _session(path: Path, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.force_spinning_stop", "1")  # leave the cores to torch
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _baseline(row: str, module: nn.Module, inputs: dict[str, Tensor]) -> tuple[str, Callable[[], Any]]:
    """What to hold a row against: torch's own loss or the reading of the logits, else eager."""
    if row == "ctc_loss":
        frames_first = inputs["log_probs"].transpose(0, 1).contiguous()
        frames = absolute_length(inputs["input_lens"], frames_first.shape[0])
        labels = absolute_length(inputs["target_lens"], inputs["targets"].shape[1])
        arguments = (frames_first, inputs["targets"], frames, labels)
        return "ctc_loss", lambda: nn.functional.ctc_loss(*arguments, reduction="none")
    if row == "transducer_loss":
        return "log_softmax", lambda: inputs["logits"].log_softmax(-1)
    return "eager", lambda: module(**inputs)


def _time(function: Callable[[], Any], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        function()
    return (time.perf_counter() - start) / number
