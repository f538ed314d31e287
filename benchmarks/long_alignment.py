"""One long recording aligned: from a Parquet file to a TextGrid, by a session, and by eager torch.

    .venv/bin/python benchmarks/long_alignment.py [HOURS]

An hour has 180,000 frames of 32 classes and 50,000 letters in words of one to nine. The scores are random,
with the blank and the letters of the transcript above the others. Each figure is of one run in a process of
its own: seconds on the clock and of the processor, and the most memory that the process took, beside the most
before the run, with everything loaded that is loaded then.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FRAMES, LETTERS = 180_000, 50_000  # of an hour
NAMES = ["-", "|", *"abcdefghijklmnopqrstuvwxyz", "'", "0", "1", "2"]


def write(folder: Path, hours: float) -> None:
    """The recording's scores and transcript, the names of the classes, and the graph that aligns."""
    from exportable_losses import CTCAlign
    from exportable_losses.export import to_onnx

    random = np.random.default_rng(0)
    frames, letters = int(hours * FRAMES), int(hours * LETTERS)
    words = ["".join(random.choice(NAMES[2:28], random.integers(1, 10))) for _ in range(letters // 4)]
    text = " ".join(words)[:letters].rstrip()
    labels = [NAMES.index("|" if letter == " " else letter) for letter in text]
    said = np.sort(random.choice(frames, len(labels), replace=False))
    scores = random.standard_normal((frames, len(NAMES)), dtype=np.float32)
    scores[:, 0] += 3
    scores[said, 0] -= 3
    scores[said, labels] += 5
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    rows = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), len(NAMES))
    item = pa.ListArray.from_arrays(np.array([0, frames], np.int32), rows)
    pq.write_table(pa.table({"id": ["talk"], "log_probs": item, "text": [text]}), folder / "talk.parquet")
    (folder / "tokens.txt").write_text("\n".join(NAMES))
    np.savez(folder / "talk.npz", log_probs=scores[None], targets=np.array([labels]))
    to_onnx(CTCAlign(), folder / "align.onnx")


def to_textgrid(folder: Path) -> Callable[[], Any]:
    from exportable_losses.runtime import Aligner, align_corpus

    aligner = Aligner(folder / "align.onnx", folder / "tokens.txt")
    data, out = [folder / "talk.parquet"], folder / "out"
    return lambda: align_corpus(aligner, data, out, hop=0.02, formats=["textgrid"])


def session(folder: Path) -> Callable[[], Any]:
    from exportable_losses.runtime import LossSession

    loaded = LossSession(folder / "align.onnx")
    arrays = dict(np.load(folder / "talk.npz"))
    whole = np.ones(1, np.float32)
    return lambda: loaded(**arrays, input_lens=whole, target_lens=whole)


def eager(folder: Path) -> Callable[[], Any]:
    import torch

    from exportable_losses import CTCAlign

    log_probs, targets = map(torch.from_numpy, np.load(folder / "talk.npz").values())
    return lambda: CTCAlign()(log_probs, targets, torch.ones(1), torch.ones(1))


WAYS = {"Parquet to TextGrid": to_textgrid, "a session of onnxruntime": session, "eager torch": eager}


def megabytes() -> float:
    """The most that this process has taken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1 << 10)


def measured(way: str, folder: Path) -> dict[str, float]:
    run = WAYS[way](folder)
    before, begun, processor = megabytes(), time.perf_counter(), time.process_time()
    run()
    seconds, of_processor = time.perf_counter() - begun, time.process_time() - processor
    return {"seconds": seconds, "processor": of_processor, "before": before, "peak": megabytes()}


def call(*words: str) -> bytes:
    """The output of this program in a process of its own."""
    return subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE).stdout


def main(hours: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        call(
            "--write", str(hours), name
        )  # what this process took, those that it starts would count as theirs
        size = os.path.getsize(folder / "talk.parquet") / 1e6
        print(f"{hours:g} hours: {size:.0f} MB of Parquet; {os.cpu_count()} cores")
        print("| | seconds | of the processor | MB before | MB at most |\n|---|---|---|---|---|")
        for way in WAYS:
            found = json.loads(call("--measure", way, name))
            print("| {} | {:.1f} | {:.1f} | {:.0f} | {:.0f} |".format(way, *found.values()), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measured(sys.argv[2], Path(sys.argv[3]))))
    elif sys.argv[1:2] == ["--write"]:
        write(Path(sys.argv[3]), float(sys.argv[2]))
    else:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
