"""Scoring a corpus of CTC costs beside the bare onnxruntime session, which has padded batches in memory.

    .venv/bin/python benchmarks/corpus.py [UTTERANCES]

Utterances of 50 to 400 frames of 64 classes with 5 to 40 labels go to an Arrow file in a temporary folder;
100 000 of them take six gigabytes. The bare session runs the scorer's own batches, which were made before,
of as many utterances as memory holds. Two bounds stand beside it: a copy of the file's numbers, an utterance
at a time, into memory that stays in the cache, and how much two bare sessions at once are than one. Where
workers are compared, one has one core. Every figure is the median of several runs in turn, each in a process
of its own. Processor times are of all threads and children: they say more where other work is running.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

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


class Stopwatch:
    """Seconds since it was made, of the clock and of the processors."""

    def __init__(self) -> None:
        self._wall, self._used = time.perf_counter(), os.times()

    def per(self, items: int) -> dict[str, float]:
        """Items a second, and microseconds of processor time an item."""
        used = sum(os.times()[:4]) - sum(self._used[:4])
        return {"rate": items / (time.perf_counter() - self._wall), "used": used / items * 1e6}


def copied(data: str) -> dict[str, float]:
    """The numbers of the file, copied."""
    memory, items = np.empty(1 << 20, np.float32), 0
    watch = Stopwatch()
    with pa.memory_map(data) as file, pa.ipc.open_file(file) as reader:
        for i in range(reader.num_record_batches):
            column = reader.get_batch(i).column("log_probs")
            numbers, edges = column.values.values.to_numpy(), column.offsets.to_numpy() * CLASSES
            for start, end in itertools.pairwise(edges.tolist()):
                memory[: end - start] = numbers[start:end]
            items += len(column)
            del column, numbers
    return watch.per(items)


def bare(graph: str, data: str, settings: dict[str, Any]) -> dict[str, float]:
    """The session on batches in memory."""
    scorer, feeds, items = Scorer(graph, **settings), [], 0
    for step in scorer._steps(windows([data], scorer.columns)):
        if not isinstance(step, Batch) or items >= BARE:
            break
        feeds.append({name: array.copy() for name, array in step.feed.items()})
        items += len(step.items)
    session = scorer.session._session
    session.run(None, feeds[0])
    watch = Stopwatch()
    for feed in feeds * 4:
        session.run(None, feed)
    return watch.per(4 * items)


def scored(
    graph: str, data: str, settings: dict[str, Any], workers: int = 1, cores: int = 0
) -> dict[str, float]:
    """A run, from the first line to the last; on some cores only."""
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    start = time.perf_counter()
    scorer = Scorer(graph, **settings)
    next(step for step in scorer._steps(windows([data], scorer.columns)) if isinstance(step, Batch))
    first = time.perf_counter() - start
    scorer = Scorer(graph, **settings)
    with tempfile.TemporaryDirectory() as out:
        watch = Stopwatch()
        found = score_corpus(scorer, [data], out, workers=workers)
        rate = watch.per(found["items"])
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {**rate, "first": first, "peak": peak / 1024}


def measured(what: str, *arguments: Any) -> dict[str, float]:
    """One of the functions above in a process of its own."""
    return at_once(1, what, *arguments)[0]


def at_once(number: int, what: str, *arguments: Any) -> list[dict[str, float]]:
    """The same in several processes at a time."""
    words = [sys.executable, __file__, "--one", json.dumps([what, *arguments])]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    return [json.loads(process.communicate()[0]) for process in processes]


def middle(turns: Sequence[Mapping[str, dict[str, float]]], name: str, key: str) -> float:
    """The median of one figure."""
    return statistics.median(turn[name][key] for turn in turns)


def main(number: int) -> None:
    from rich.console import Console  # not above: what is there is imported by every worker
    from rich.table import Table

    import exportable_losses as el
    from exportable_losses.export import to_onnx

    with tempfile.TemporaryDirectory() as folder:
        graph, data = f"{folder}/ctc.onnx", f"{folder}/corpus.arrow"
        to_onnx(el.CTCLoss(reduction="none"), graph)
        write(Path(data), number)
        copies = [measured("copied", data) for _ in range(RUNS)]
        rate, used = (statistics.median(each[key] for each in copies) for key in ("rate", "used"))
        Console().print(
            f"a copy of the numbers: {rate:.0f} utterances a second, {used:.1f} us of processor each"
        )
        table = Table(
            "", "bare, 1/s", "us", "scored, 1/s", "us", "of bare", "one core", "two workers", "gain",
            "two bare", "peak, MB", "first batch, s",
        )  # fmt: skip
        for native in (True, False):
            for threads in (1, None):
                settings = {"native": native, "threads": threads}
                turns = []
                for _ in range(RUNS):
                    turn = {
                        "bare": measured("bare", graph, data, settings),
                        "scored": measured("scored", graph, data, settings),
                    }
                    if threads == 1:
                        turn["one core"] = measured("scored", graph, data, settings, 1, 1)
                        turn["two workers"] = measured("scored", graph, data, settings, 2, 2)
                        both = at_once(2, "bare", graph, data, settings)
                        turn["two bare"] = {"rate": sum(each["rate"] for each in both)}
                    turns.append(turn)

                def ratio(one: str, other: str, turns: Any = turns) -> str:
                    if other not in turns[0] or one not in turns[0]:
                        return ""
                    each = [turn[one]["rate"] / turn[other]["rate"] for turn in turns]
                    return f"{statistics.median(each):.2f}"

                row = [f"{'native library' if native else 'standard operators'}, {threads or 'all'} threads"]
                for name in ("bare", "scored"):
                    row += [f"{middle(turns, name, 'rate'):.0f}", f"{middle(turns, name, 'used'):.0f}"]
                row.append(ratio("scored", "bare"))
                alone = threads == 1
                row += [
                    f"{middle(turns, n, 'rate'):.0f}" if alone else "" for n in ("one core", "two workers")
                ]
                row += [ratio("two workers", "one core"), ratio("two bare", "bare")]
                row += [
                    f"{max(turn['scored']['peak'] for turn in turns):.0f}",
                    f"{middle(turns, 'scored', 'first'):.2f}",
                ]
                table.add_row(*row)
    Console(width=160).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        name, *given = json.loads(sys.argv[2])
        print(json.dumps(globals()[name](*given)))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
