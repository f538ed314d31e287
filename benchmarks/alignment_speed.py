"""How fast alignment is, and what memory it takes; see `benchmarks/alignment.py`, which prints it."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.export import to_onnx
from exportable_losses.export.commands.timing import race
from exportable_losses.runtime import LossSession

FRAMES, LABELS, CLASSES = 6000, 1500, 500


@dataclass(frozen=True)
class Figure:
    """What was measured, and the most that is wanted.

    Processor time is what one thread computes, also where other processes take turns with it.
    """

    what: str
    value: float
    unit: str
    wanted: float | None = None
    processor: float | None = None


def inputs(batch: int, frames: int, labels: int) -> list[Tensor]:
    """Scores, targets without blanks, and full lengths."""
    scores = torch.randn(batch, frames, CLASSES).log_softmax(-1)
    targets = torch.randint(1, CLASSES, (batch, labels))
    return [scores, targets, torch.full((batch,), frames), torch.full((batch,), labels)]


def on_one_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """The same, where torch has one thread."""

    def run() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            function()
        finally:
            torch.set_num_threads(before)

    return run


def processor_time(function: Callable[[], Any], calls: int = 9) -> float:
    """The median of some calls, in milliseconds."""
    times = []
    for _ in range(calls):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


def cells() -> Iterator[Figure]:
    """The operator on one long item, and torchaudio's."""
    given = inputs(1, FRAMES, LABELS)

    def ours() -> Any:
        return torch.ops.exportable_losses.ctc_align(*given, 0, False)

    runs: list[Callable[[], Any]] = [ours, on_one_thread(ours)]
    try:
        from torchaudio.functional import forced_align

        runs.append(on_one_thread(lambda: forced_align(given[0], given[1], blank=0)))
    except (ImportError, OSError) as error:
        print(f"torchaudio does not load: {str(error).splitlines()[0]}")
    times = race(*runs, seconds=5.0)
    scale = 1e6 / (FRAMES * (2 * LABELS + 1))
    size = f"CTCAlign, T={FRAMES} S={LABELS} C={CLASSES}"
    yield Figure(f"{size}, two threads", scale * times[0], "ns a cell", 0.7)
    alone = [scale * processor_time(run) for run in runs[1:]]
    yield Figure(f"{size}, one thread", scale * times[1], "ns a cell", 1.2, alone[0])
    if len(times) == 3:
        yield Figure("torchaudio's forced_align, one thread", scale * times[2], "ns a cell", None, alone[1])
        ratio = "CTCAlign beside it, one thread"
        yield Figure(ratio, times[1] / times[2], "of its time", 0.2, alone[0] / alone[1])


def posterior() -> Iterator[Figure]:
    """`CTCPosterior` of a batch, in torch and in onnxruntime with the library."""
    given, module = inputs(16, 1000, 100), el.CTCPosterior()
    names = [value.name for value in catalog.get("CTCPosterior").inputs]
    feed = {name: x.numpy() for name, x in zip(names, given, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "posterior.onnx"
        to_onnx(module, path, catalog.get("CTCPosterior").example_inputs(absolute=True))
        session = LossSession(path, native=True)
        eager, graph = race(lambda: module(*given), lambda: session(**feed), seconds=5.0)
        alone = processor_time(on_one_thread(lambda: module(*given)))
    yield Figure("CTCPosterior, B=16 T=1000 S=100 C=500", eager, "ms", 15, alone)
    yield Figure("in onnxruntime, with the library", graph, "ms", 15)


# A process of its own: what its peak grows by is of the alignment. Linux forgets the peak of the inputs.
_ALONE = """
import re, time
from pathlib import Path
import exportable_losses as el
from alignment_speed import inputs

def peak():
    return int(re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1]) / 1024

align = el.CTCAlign(0)
align(*inputs(1, 50, 9))  # threads, libraries
given = inputs(1, 60_000, 18_000)
Path("/proc/self/clear_refs").write_text("5")
before, start = peak(), time.perf_counter()
_, starts, ends, _, scores = align(*given)
seconds = time.perf_counter() - start
assert bool((ends > starts).all()) and bool(scores.isfinite().all())
print(seconds, peak() - before)
"""


def long() -> Iterator[Figure]:
    """One recording of more than 2³¹ cells."""
    command = [sys.executable, "-c", _ALONE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    seconds, megabytes = map(float, done.stdout.split())
    yield Figure("CTCAlign, 60,000 frames and 18,000 labels", seconds, "s", 8)
    yield Figure("its memory besides the scores", megabytes, "MB", 1000)


def measure() -> None:
    """Print the table."""
    table = Table("what", "measured", "", "wanted", "processor time, one thread")
    for figure in (figure for group in (cells, posterior, long) for figure in group()):
        missed = figure.wanted is not None and figure.value > figure.wanted
        value = f"{'[bold red]' if missed else ''}{figure.value:.3g}"
        others = ["" if x is None else f"{x:.4g}" for x in (figure.wanted, figure.processor)]
        table.add_row(figure.what, value, figure.unit, *others)
    Console(width=120).print(table)
