"""Scoring a corpus of CTC costs beside the bare onnxruntime session, which has padded batches in memory.

    .venv/bin/python benchmarks/corpus.py [UTTERANCES]

Utterances of 50 to 400 frames of 64 classes with 5 to 40 labels go to an Arrow file in a temporary folder;
100 000 of them take six gigabytes. The bare session runs the scorer's own batches, which were made before, of
as many utterances as memory holds. Every figure is the median of several runs in turn, each in a process of
its own. Throughput is a ratio to the bare session on as many threads.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from exportable_losses.runtime import Scorer, score_corpus
from exportable_losses.runtime.corpus.reading import windows
from exportable_losses.runtime.corpus.scorer import Batch

CLASSES = 64
BARE = 5000  # utterances of which the batches are held for the bare session
RUNS = 3


def write(path: Path, number: int, at_a_time: int = 256) -> None:
    """The corpus."""
    random = np.random.default_rng(0)
    scores = random.standard_normal((1 << 16, CLASSES), dtype=np.float32)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    schema = pa.schema(
        {
            "id": pa.string(),
            "log_probs": pa.list_(pa.list_(pa.float32(), CLASSES)),
            "targets": pa.list_(pa.int64()),
        }
    )
    with pa.ipc.new_file(path, schema) as writer:
        for first in range(0, number, at_a_time):
            count = min(at_a_time, number - first)
            frames = random.integers(50, 401, count)
            labels = np.minimum(random.integers(5, 41, count), frames // 2)
            starts = random.integers(0, len(scores) - 400, count)
            rows = np.concatenate(
                [scores[start : start + t] for start, t in zip(starts, frames, strict=True)]
            )
            frame = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), CLASSES)
            label = pa.array(random.integers(1, CLASSES, labels.sum()))
            columns = [
                pa.array([f"utt{i:07}" for i in range(first, first + count)]),
                pa.ListArray.from_arrays(_edges(frames), frame),
                pa.ListArray.from_arrays(_edges(labels), label),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _edges(sizes: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())


def bare(graph: str, data: str, settings: dict[str, Any]) -> dict[str, float]:
    """The session on batches in memory."""
    scorer, feeds, items = Scorer(graph, **settings), [], 0
    for step in scorer._steps(windows([data])):
        if not isinstance(step, Batch) or items >= BARE:
            break
        feeds.append({name: array.copy() for name, array in step.feed.items()})
        items += len(step.items)
    session = scorer.session._session
    session.run(None, feeds[0])
    start = time.perf_counter()
    for feed in feeds:
        session.run(None, feed)
    return {"rate": items / (time.perf_counter() - start)}


def scored(graph: str, data: str, settings: dict[str, Any], workers: int = 1) -> dict[str, float]:
    """A run, from the first line to the last."""
    start = time.perf_counter()
    scorer = Scorer(graph, **settings)
    next(step for step in scorer._steps(windows([data])) if isinstance(step, Batch))
    first = time.perf_counter() - start
    scorer = Scorer(graph, **settings)
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        found = score_corpus(scorer, [data], out, workers=workers)
        seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {"rate": found["items"] / seconds, "first": first, "peak": peak / 1024}


def measured(what: str, *arguments: Any) -> dict[str, float]:
    """One of the functions above in a process of its own."""
    words = [sys.executable, __file__, "--one", json.dumps([what, *arguments])]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(number: int) -> None:
    import exportable_losses as el
    from exportable_losses.export import to_onnx

    table = Table("", "bare, 1/s", "scored, 1/s", "ratio", "2 workers", "peak, MB", "first batch, s")
    with tempfile.TemporaryDirectory() as folder:
        graph, data = f"{folder}/ctc.onnx", f"{folder}/corpus.arrow"
        to_onnx(el.CTCLoss(reduction="none"), graph)
        write(Path(data), number)
        for native in (True, False):
            for threads in (1, None):
                settings = {"native": native, "threads": threads}
                turns = []
                for _ in range(RUNS):
                    two = measured("scored", graph, data, settings, 2) if threads == 1 else None
                    turns.append(
                        (
                            measured("bare", graph, data, settings),
                            measured("scored", graph, data, settings),
                            two,
                        )
                    )
                rates = [[each["rate"] if each else 0.0 for each in turn] for turn in turns]
                alone, ours, both = (statistics.median(column) for column in zip(*rates, strict=True))
                ratio = statistics.median(b / a for a, b, _ in rates)
                gain = statistics.median(c / b for _, b, c in rates)
                table.add_row(
                    f"{'native library' if native else 'standard operators'}, {threads or 'all'} threads",
                    f"{alone:.0f}",
                    f"{ours:.0f}",
                    f"{ratio:.2f}",
                    f"{both:.0f}, {gain:.2f} x" if both else "",
                    f"{max(turn[1]['peak'] for turn in turns):.0f}",
                    f"{statistics.median(turn[1]['first'] for turn in turns):.2f}",
                )
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        name, *given = json.loads(sys.argv[2])
        print(json.dumps(globals()[name](*given)))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
