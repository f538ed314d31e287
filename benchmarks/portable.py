"""The portable graphs of the lattices and PIT against what people use today, as ratios.

    .venv/bin/python benchmarks/portable.py

Both sides of a ratio run in turn in this one process; each figure is the median of several runs.
"""

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses.export import to_onnx
from exportable_losses.runtime import LossSession


def timed(run: Callable[[], object]) -> float:
    """Milliseconds that one call takes."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], runs: int = 15) -> tuple[float, float]:
    """The median milliseconds of both, run in turn after two warm-ups each."""
    times = [(timed(ours), timed(theirs)) for _ in range(runs + 2)][2:]
    return statistics.median(t for t, _ in times), statistics.median(t for _, t in times)


def session(module: nn.Module) -> LossSession:
    """`module` exported and loaded again, without any native library."""
    path = Path(tempfile.mkdtemp()) / "graph.onnx"
    to_onnx(module, path)
    return LossSession(path, native=False)


def arrays(**tensors: Tensor) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def ctc(batch: int, frames: int, labels: int, classes: int) -> tuple[float, float]:
    """The portable CTC graph beside torch's kernel, which is given its favourite layout."""
    log_probs = torch.randn(frames, batch, classes).log_softmax(-1)
    targets = torch.randint(1, classes, (batch, labels))
    ones = torch.ones(batch)
    run = session(el.CTCLoss(reduction="none"))
    feed = arrays(
        log_probs=log_probs.transpose(0, 1).contiguous(), targets=targets, input_lens=ones, target_lens=ones
    )
    input_lengths, target_lengths = torch.full((batch,), frames), torch.full((batch,), labels)
    return in_turn(
        lambda: run(**feed),
        lambda: nn.functional.ctc_loss(log_probs, targets, input_lengths, target_lengths, reduction="none"),
    )


def transducer() -> tuple[float, float]:
    """The portable transducer graph beside a log-softmax of the same logits."""
    logits = torch.randn(4, 150, 41, 512)
    run = session(el.TransducerLoss(reduction="none"))
    feed = arrays(
        logits=logits,
        targets=torch.randint(1, 512, (4, 40)),
        input_lens=torch.ones(4),
        target_lens=torch.ones(4),
    )
    return in_turn(lambda: run(**feed), lambda: torch.log_softmax(logits, -1), runs=9)


def best_of_all_permutations(preds: Tensor, targets: Tensor) -> Tensor:
    """PIT as it is commonly written: every permutation of every item, in Python."""
    losses = []
    for pred, target in zip(preds, targets, strict=True):
        costs = (pred.unsqueeze(-2) - target.unsqueeze(-1)).square().mean(0)
        rows = range(costs.shape[0])
        losses.append(min(costs[rows, p].mean() for p in itertools.permutations(rows)))
    return torch.stack(losses)


def pit(sources: int) -> tuple[float, float]:
    """Our PIT in eager torch beside the enumeration of permutations, for one item."""
    preds, targets = torch.randn(1, 100, sources), torch.randn(1, 100, sources)
    module = el.PITLoss()
    ours = statistics.median(timed(lambda: module(preds, targets)) for _ in range(20))
    return ours, timed(lambda: best_of_all_permutations(preds, targets))


def import_runtime() -> tuple[float, float]:
    """Importing the runtime beside importing numpy and onnxruntime, each in processes of its own."""

    def cost(statement: str) -> float:
        return timed(lambda: subprocess.run([sys.executable, "-c", statement], check=True))

    return in_turn(
        lambda: cost("import exportable_losses.runtime"), lambda: cost("import numpy, onnxruntime"), runs=5
    )


def main() -> None:
    table = Table("what", "beside", "ours ms", "theirs ms", "ours / theirs", "wanted")
    rows: list[tuple[str, str, tuple[float, float], str]] = [
        ("CTC graph, B=16 T=1000 S=100 C=500", "torch ctc_loss", ctc(16, 1000, 100, 500), "1.2"),
        ("CTC graph, B=1 T=500 S=60 C=64", "torch ctc_loss", ctc(1, 500, 60, 64), "4"),
        ("transducer graph, (4, 150, 41, 512)", "torch log_softmax", transducer(), "3"),
        ("PIT eager, S=8", "8! permutations", pit(8), "0.01"),
        ("import of the runtime", "numpy, onnxruntime", import_runtime(), "+500 ms"),
    ]
    for what, beside, (ours, theirs), wanted in rows:
        table.add_row(what, beside, f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.4f}", wanted)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
