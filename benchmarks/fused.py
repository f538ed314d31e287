"""Losses that make their scores in tiles, beside those of scores that are there, and products alone.

    .venv/bin/python benchmarks/fused.py [--memory]

Both sides of a ratio run in turn in this one process; each figure is the median. ``--memory`` measures what
is needed besides inputs and gradients, in processes of their own.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transducers import Line, show, with_gradient

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.export import to_onnx
from exportable_losses.export.commands.timing import race
from exportable_losses.ops.fused import tile_rows, tiles
from exportable_losses.runtime import LossSession

HIDDEN = 512
FRAMES, LABELS = torch.tensor([200, 180, 150, 120]), torch.tensor([50, 40, 30, 20])
CLASSES, MANY = 1024, 8000  # of the transducer, and of CTC


def transducer_inputs() -> tuple[list[Tensor], Tensor]:
    """Encoder, predictor, weights and biases, and targets."""
    sizes = ((4, 200, HIDDEN), (4, 51, HIDDEN), (CLASSES, HIDDEN), (CLASSES,))
    leaves = [(torch.randn(size) * scale) for size, scale in zip(sizes, (0.5, 0.5, 0.05, 0.1), strict=True)]
    return [leaf.requires_grad_() for leaf in leaves], torch.randint(1, CLASSES, (4, 50))


def ctc_inputs() -> tuple[list[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Hidden, weights and biases; targets and full lengths."""
    sizes = ((8, 500, HIDDEN), (MANY, HIDDEN), (MANY,))
    leaves = [(torch.randn(size) * scale) for size, scale in zip(sizes, (0.5, 0.05, 0.1), strict=True)]
    more = torch.randint(1, MANY, (8, 60)), torch.full((8,), 500), torch.full((8,), 60)
    return [leaf.requires_grad_() for leaf in leaves], more


def products(
    weight: Tensor, bias: Tensor, frames: Tensor, nodes: Tensor, backwards: bool
) -> Callable[[], None]:
    """The products of the same tiles, and nothing else."""
    rows = tile_rows(weight)
    of_weight, hidden = torch.zeros_like(weight), torch.randn(rows, weight.shape[1])
    scores = torch.randn(rows, weight.shape[0])
    sizes = [(end - t) * (last - u) for _, t, end, u, last in tiles(frames, nodes, rows)]

    def run() -> None:
        for n in sizes:
            torch.addmm(bias, hidden[:n], weight.t(), out=scores[:n])
        for n in sizes if backwards else ():
            torch.addmm(bias, hidden[:n], weight.t(), out=scores[:n])
            of_weight.addmm_(scores[:n].t(), hidden[:n])
            torch.mm(scores[:n], weight, out=hidden[:n])

    return torch.no_grad()(run)


def both_ways(
    name: str, wanted: tuple[float, float], ours: Any, theirs: Any, of_products: Any, leaves: list[Tensor]
) -> Iterator[Line]:
    """Forward and with gradient, beside scores that are there and beside the products."""
    for what, most, grads in zip(("forward", "with gradient"), wanted, (False, True), strict=True):
        runs = [
            with_gradient(f, leaves) if grads else torch.no_grad()(lambda f=f: f(*leaves))
            for f in (ours, theirs)
        ]
        mine, others, alone = race(*runs, of_products(grads), seconds=4.0)
        yield Line(f"{name} {what}", "scores that are there", mine, others, most)
        yield Line(f"{name} {what}", "the products alone", mine, alone, 1.25)


def transducer() -> Iterator[Line]:
    """A ragged batch of four."""
    leaves, targets = transducer_inputs()
    fused, regular = el.FusedTransducerLoss(), el.TransducerLoss()

    def theirs(encoder: Tensor, predictor: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        joint = torch.tanh(encoder.unsqueeze(2) + predictor.unsqueeze(1))
        return regular(linear(joint, weight, bias), targets, FRAMES, LABELS)

    yield from both_ways(
        "transducer",
        (0.45, 0.7),
        lambda *x: fused(*x, targets, FRAMES, LABELS),
        theirs,
        lambda grads: products(*leaves[2:], FRAMES, LABELS + 1, grads),
        leaves,
    )


def ctc() -> Iterator[Line]:
    """A batch of eight, of full lengths."""
    leaves, more = ctc_inputs()
    fused, regular = el.LinearCTCLoss(), el.CTCLoss()
    yield from both_ways(
        "CTC",
        (0.8, 1.3),
        lambda *x: fused(*x, *more),
        lambda *x: regular(linear(*x).log_softmax(-1), *more),
        lambda grads: products(*leaves[1:], more[1], torch.ones_like(more[1]), grads),
        leaves,
    )


def graphs() -> Iterator[Line]:
    """The same in onnxruntime with the library, beside the eager call."""
    transducer_leaves, targets = transducer_inputs()
    ctc_leaves, more = ctc_inputs()
    cases: dict[str, tuple[nn.Module, list[Tensor]]] = {
        "FusedTransducerLoss": (el.FusedTransducerLoss(), [*transducer_leaves, targets, FRAMES, LABELS]),
        "LinearCTCLoss": (el.LinearCTCLoss(), [*ctc_leaves, *more]),
    }
    for row, (loss, inputs) in cases.items():
        entry = catalog.get(row)
        names = [value.name for value in entry.inputs]
        feed = {name: x.detach().numpy() for name, x in zip(names, inputs, strict=True)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "loss.onnx"
            to_onnx(loss, path, entry.example_inputs(absolute=True))
            session = LossSession(path, native=True)
            ours, eager = race(
                lambda s=session, x=feed: s(**x),
                torch.no_grad()(lambda m=loss, x=inputs: m(*x)),
                seconds=4.0,
            )
        yield Line(f"{row} in onnxruntime", "eager", ours, eager, 1.3)


# A process of its own: what its peak grows by is of the loss and of its gradients.
_ALONE = """
import resource, sys
import torch
import fused
import exportable_losses as el

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def call(leaves, more):
    cost = loss(*leaves, *more)
    forward = peak()
    cost.backward()
    return forward

if sys.argv[1] == "transducer":
    leaves, targets = fused.transducer_inputs()
    more, loss = (targets, fused.FRAMES, fused.LABELS), el.FusedTransducerLoss()
    small = [leaves[0][:, :9], leaves[1][:, :3], *leaves[2:]]
    scores = 4 * 200 * 51 * fused.CLASSES
else:
    leaves, more = fused.ctc_inputs()
    loss, small, scores = el.LinearCTCLoss(), [leaves[0][:, :9], *leaves[1:]], 8 * 500 * fused.MANY
few = torch.ones_like(more[1])
call([x.detach().requires_grad_() for x in small], (more[0][:, :2], few, few))  # threads, libraries
before = peak()
forward = call(leaves, more)
gradients = sum(x.numel() for x in leaves) * 4 / 2**20
print(forward - before, peak() - before - gradients, scores * 4 / 2**20)
"""


def memory() -> None:
    """What is needed besides inputs and gradients, as a share of the scores."""
    for name in ("transducer", "ctc"):
        command = [sys.executable, "-c", _ALONE, name]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
        forward, both, scores = map(float, done.stdout.split())
        shares = f"{forward / scores:.3f} and {both / scores:.3f} of the scores, {scores:.0f} MB"
        print(f"{name}: forward {forward:.1f} MB, with gradient {both:.1f} MB: {shares}; wanted 0.1")


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    if "--memory" in sys.argv:
        memory()
        return
    show(line for group in (transducer, ctc, graphs) for line in group())


if __name__ == "__main__":
    main()
