"""The native library beside torch's kernels and the speed of memory, as ratios.

    .venv/bin/python benchmarks/lattice.py

Both sides of a ratio run in turn in this one process; each figure is the median. What is written goes to
memory that was there before, unless the row says otherwise. A ratio is ours divided by theirs.
"""

import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses.export import to_onnx
from exportable_losses.export.commands.timing import race
from exportable_losses.ops import native, plain
from exportable_losses.ops.scores import computed
from exportable_losses.runtime.native import register

TRANSDUCER = [(4, 150, 41, 512), (1, 400, 61, 500)]  # B, T, U+1, V
CTC = [(16, 1000, 100, 500), (1, 500, 60, 64)]  # B, T, S, C
HALVES = [(4, 150, 41, 512), (16, 1000, 100, 2000)]  # where bytes decide


@dataclass(frozen=True)
class Lattice:
    """The inputs of a loss, all items of full length."""

    loss: str
    scores: Tensor
    targets: Tensor

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        batch, frames = self.scores.shape[:2]
        labels = self.targets.shape[1]
        return self.scores, self.targets, torch.full((batch,), frames), torch.full((batch,), labels), 0

    @property
    def relative(self) -> dict[str, Tensor]:
        """The inputs of the module."""
        whole = torch.ones(self.scores.shape[0])
        name = "log_probs" if self.loss == "ctc" else "logits"
        return {name: self.scores, "targets": self.targets, "input_lens": whole, "target_lens": whole}

    def run(self, *, grad: Tensor | None = None) -> Tensor:
        """The costs; the gradient goes to `grad`."""
        costs = self.scores.new_empty(self.scores.shape[0], dtype=computed(self.scores.dtype))
        weights = None if grad is None else torch.ones_like(costs)
        native.compute_into(self.loss, *self.arguments, weights, costs=costs, grad=grad)
        return costs


@dataclass(frozen=True)
class Line:
    """A line of the table: times in milliseconds, and the largest ratio that is wanted."""

    what: str
    beside: str
    ours: float
    theirs: float
    wanted: float


def transducer_of(batch: int, frames: int, nodes: int, classes: int) -> Lattice:
    targets = torch.randint(1, classes, (batch, nodes - 1))
    return Lattice("transducer", torch.randn(batch, frames, nodes, classes), targets)


def ctc_of(batch: int, frames: int, labels: int, classes: int) -> Lattice:
    targets = torch.randint(1, classes, (batch, labels))
    return Lattice("ctc", torch.randn(batch, frames, classes).log_softmax(-1), targets)


def torch_ctc(lattice: Lattice) -> Tensor:
    """torch's kernel in its favourite layout; `backward()` of the result gives the gradient."""
    scores, targets, frames, labels, blank = lattice.arguments
    return nn.functional.ctc_loss(scores.transpose(0, 1), targets, frames, labels, blank, reduction="sum")


def transducer(shape: tuple[int, ...]) -> Iterator[Line]:
    lattice = transducer_of(*shape)
    x, name = lattice.scores, f"transducer {shape}"
    y = torch.zeros_like(x)
    ours, read, softmax = race(lattice.run, x.sum, lambda: torch.log_softmax(x, -1, out=y))
    yield Line(f"{name} forward", "log_softmax(x, out=y)", ours, softmax, 0.6)
    yield Line(f"{name} forward", "x.sum()", ours, read, 2)
    ours, copy = race(lambda: lattice.run(grad=y), lambda: y.copy_(x))
    yield Line(f"{name} with gradient", "y.copy_(x)", ours, copy, 4)
    leaf, module = x.clone().requires_grad_(), el.TransducerLoss(reduction="sum")
    inputs = {**lattice.relative, "logits": leaf}

    def loss_and_backward() -> None:
        leaf.grad = None
        module(**inputs).backward()

    both, loss, clone = race(loss_and_backward, lambda: module(**inputs), x.clone)
    yield Line(f"{name} loss.backward()", "x.clone()", both - loss, clone, 1)
    yield from in_onnxruntime(lattice, el.TransducerLoss(reduction="none"), name)


def ctc(shape: tuple[int, ...]) -> Iterator[Line]:
    lattice = ctc_of(*shape)
    name = "CTC B={} T={} S={} C={}".format(*shape)
    ours, theirs = race(lattice.run, lambda: torch_ctc(lattice))
    yield Line(f"{name} forward", "torch ctc_loss", ours, theirs, 1 / 5)
    leaf = lattice.scores.clone().requires_grad_()
    tracked, grad = Lattice("ctc", leaf, lattice.targets), torch.zeros_like(leaf)

    def torch_backward() -> None:
        leaf.grad = None
        torch_ctc(tracked).backward()

    ours, theirs = race(lambda: lattice.run(grad=grad), torch_backward)
    yield Line(f"{name} with gradient", "torch ctc_loss", ours, theirs, 1 / 10)
    yield from in_onnxruntime(lattice, el.CTCLoss(reduction="none"), name)


def halves(lattice: Lattice, name: str) -> Iterator[Line]:
    """Scores of 16 bits beside the same in float32."""
    grad = torch.zeros_like(lattice.scores)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = Lattice(lattice.loss, lattice.scores.to(dtype), lattice.targets)
        narrow_grad, kind = grad.to(dtype), str(dtype).removeprefix("torch.")
        ours, theirs = race(narrow.run, lattice.run)
        yield Line(f"{name} {kind} forward", "float32", ours, theirs, 0.75)
        ours, theirs = race(lambda n=narrow, g=narrow_grad: n.run(grad=g), lambda: lattice.run(grad=grad))
        yield Line(f"{name} {kind} with gradient", "float32", ours, theirs, 0.75)


def in_onnxruntime(lattice: Lattice, module: nn.Module, name: str) -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "graph.onnx"
        to_onnx(module, path)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.force_spinning_stop", "1")  # leave the cores to torch
        register(options, True)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {key: tensor.numpy() for key, tensor in lattice.relative.items()}
        ours, eager = race(lambda: session.run(None, feed), lambda: module(**lattice.relative))
    yield Line(f"{name} in onnxruntime", "the eager call", ours, eager, 1.1)


def worst(costs: Tensor, truth: Tensor) -> float:
    """The largest relative error."""
    return ((costs.double() - truth).abs() / truth.abs()).max().item()


def accuracy() -> Iterator[tuple[str, float, float]]:
    """Relative errors in float32: ours, and the peer's. torchaudio's transducer has no CPU build to ask."""
    lattice = ctc_of(4, 1000, 100, 500)
    doubled = Lattice("ctc", lattice.scores.double(), lattice.targets)
    truth, _ = plain.ctc(*doubled.arguments, None)
    scores, targets, frames, labels, blank = lattice.arguments
    theirs = nn.functional.ctc_loss(scores.transpose(0, 1), targets, frames, labels, blank, reduction="none")
    yield "CTC B=4 T=1000 S=100 C=500, beside torch", worst(lattice.run(), truth), worst(theirs, truth)
    lattice = transducer_of(2, 150, 41, 512)
    doubled = Lattice("transducer", lattice.scores.double(), lattice.targets)
    truth, _ = plain.transducer(*doubled.arguments, None)
    logarithms, _ = plain.transducer(*lattice.arguments, None)
    yield (
        "transducer (2, 150, 41, 512), beside logarithms",
        worst(lattice.run(), truth),
        worst(logarithms, truth),
    )


def resident(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def peak_memory(loss: str, sizes: tuple[int, ...], *, with_grad: bool) -> float:
    """What a call takes beside its inputs and outputs, as a part of the scores. For a fresh process."""
    of = ctc_of if loss == "ctc" else transducer_of
    small, lattice = of(1, 2, 2, 3), of(*sizes)
    grad = torch.zeros_like(lattice.scores) if with_grad else None
    small.run(grad=torch.zeros_like(small.scores))  # loads the library
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    lattice.run(grad=grad)
    return (resident("VmHWM") - before) / (lattice.scores.numel() * lattice.scores.element_size())


def memory() -> Iterator[tuple[str, float]]:
    """Each in a process of its own, since memory that was freed hides what is taken."""
    for loss, shapes in (("transducer", TRANSDUCER), ("ctc", CTC[:1])):
        for shape in shapes:
            for with_grad in (False, True):
                code = f"import lattice; print(lattice.peak_memory({loss!r}, {shape}, with_grad={with_grad}))"
                run = subprocess.run(
                    [sys.executable, "-c", code],
                    cwd=Path(__file__).parent,
                    check=True,
                    capture_output=True,
                    text=True,
                )
                name = f"{loss} {shape}, {'with gradient' if with_grad else 'forward'}"
                yield name, float(run.stdout)


def main() -> None:
    about = native.about()
    if not about:
        sys.exit("The native library is not installed: nothing was measured.")
    console = Console(width=120)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {about['instruction set']}")
    table = Table("what", "beside", "ours, ms", "theirs, ms", "ratio", "wanted")
    lines = [line for of, shapes in ((transducer, TRANSDUCER), (ctc, CTC)) for s in shapes for line in of(s)]
    lines += halves(transducer_of(*HALVES[0]), f"transducer {HALVES[0]}")
    lines += halves(ctc_of(*HALVES[1]), "CTC B={} T={} S={} C={}".format(*HALVES[1]))
    for line in lines:
        ratio = line.ours / line.theirs
        numbers = (f"{line.ours:.3f}", f"{line.theirs:.3f}", f"{ratio:.3f}", f"{line.wanted:.2g}")
        table.add_row(line.what, line.beside, *numbers, style="" if ratio <= line.wanted else "red")
    console.print(table)
    table = Table("relative error of a cost in float32", "ours", "theirs")
    for what, ours, theirs in accuracy():
        table.add_row(what, f"{ours:.1e}", f"{theirs:.1e}")
    console.print(table)
    if sys.platform == "linux":
        table = Table("peak memory beside inputs and outputs", "of the scores", "wanted")
        for what, part in memory():
            table.add_row(what, "less than a page" if math.isclose(part, 0) else f"{part:.2%}", "2%")
        console.print(table)


if __name__ == "__main__":
    main()
