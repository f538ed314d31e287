"""onnxruntime-web under Node beside onnxruntime in Python: one graph, one thread, no library of ours.

    .venv/bin/python benchmarks/web.py

Wants Node, and onnxruntime-web where `exportable-losses validate --on onnxruntime-web` finds it. Both run in
turns; each figure is the median of processor times, once the JavaScript engine has compiled what it will.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

import exportable_losses as el
from exportable_losses.export import to_onnx
from exportable_losses.export.checking.web import npm
from exportable_losses.export.checking.web.site import PAGE, files_of
from exportable_losses.export.formats.testdata import write_test_data

# answers each line with the processor's milliseconds of a run
TIMER = """
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
const [page, library, graph, ...inputs] = process.argv.slice(1);
const [ort, { open, tensors }] = [await import(library), await import(page + "/graphs.js")];
ort.env.wasm.numThreads = 1;
const { run } = await open(ort, await readFile(graph), await tensors(inputs, readFile));
for await (const _ of createInterface({ input: process.stdin })) {
  const start = process.cpuUsage();
  await run();
  const { user, system } = process.cpuUsage(start);
  console.log((user + system) / 1000);
}
process.exit();
"""


def inputs(batch: int, frames: int, labels: int, classes: int) -> dict[str, torch.Tensor]:
    ones = torch.ones(batch)
    log_probs = torch.randn(batch, frames, classes).log_softmax(-1)
    targets = torch.randint(1, classes, (batch, labels))
    return {"log_probs": log_probs, "targets": targets, "input_lens": ones, "target_lens": ones}


def in_turn(
    library: Path, given: dict[str, torch.Tensor], gradients: tuple[str, ...], warm: int
) -> tuple[float, float]:
    """The median milliseconds in onnxruntime-web and in Python, after `warm` runs of each."""
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "graph.onnx", Path(folder) / "data"
        to_onnx(el.CTCLoss(reduction="none"), path, given, gradients=gradients)
        write_test_data(data, given, {})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options)
        feed = {name: tensor.numpy() for name, tensor in given.items()}
        words = [str(PAGE), str(library), str(path), *map(str, files_of(data, "input"))]
        command = ["node", "--input-type=module", "-e", TIMER, *words]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:
            assert node.stdin is not None
            assert node.stdout is not None
            times = []
            for _ in range(warm + 50):
                print(file=node.stdin, flush=True)
                theirs = float(node.stdout.readline())
                start = time.process_time()
                session.run(None, feed)
                times.append((theirs, 1e3 * (time.process_time() - start)))
    web, here = np.array(times[warm:]).T
    return statistics.median(web), statistics.median(here)


def main() -> None:
    package = npm.find("onnxruntime-web")
    if package is None:
        sys.exit("onnxruntime-web is not here: npm install onnxruntime-web, or exportable-losses serve")
    print(f"onnxruntime-web {npm.version(package)}, onnxruntime {onnxruntime.__version__}")
    table = Table("CTC graph", "", "web ms", "Python ms", "web / Python", "wanted")
    cases: list[tuple[tuple[int, int, int, int], tuple[str, ...], int, str]] = [
        ((1, 500, 60, 64), (), 300, "5"),
        ((1, 500, 60, 64), ("log_probs",), 200, ""),
        ((16, 1000, 100, 500), (), 10, ""),
    ]
    for sizes, gradients, warm, wanted in cases:
        web, here = in_turn(package / "dist" / npm.LIBRARY, inputs(*sizes), gradients, warm)
        what = "B={} T={} S={} C={}".format(*sizes)
        figures = (f"{web:.2f}", f"{here:.2f}", f"{web / here:.1f}", wanted)
        table.add_row(what, "with gradient" * bool(gradients), *figures)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
