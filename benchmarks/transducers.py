"""Every transducer beside the regular one, its peers and the limit of memory, as ratios.

    .venv/bin/python benchmarks/transducers.py [--librispeech]

Both sides of a ratio run in turn in this one process; each figure is the median. fast_rnnt and transformers
are timed where they are installed. ``--librispeech`` measures time and memory of a batch with that corpus's
lengths, in processes of their own.
"""

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses import functional
from exportable_losses.export.commands.timing import race

JOINT = (4, 150, 41, 512)  # B, T, U+1, V
PRUNED = (8, 300, 61, 500)
RANGE = 5
DURATIONS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Line:
    """A line of the table: times in milliseconds, and the largest ratio that is wanted."""

    what: str
    beside: str
    ours: float
    theirs: float
    wanted: float


def labels_of(batch: int, nodes: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Targets, none of them a blank, and full lengths."""
    whole = torch.ones(batch)
    return torch.randint(3, classes, (batch, nodes - 1)), whole, whole


def with_gradient(loss: Callable[..., Tensor], leaves: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss(*leaves).backward()

    return run


def fused() -> Iterator[Line]:
    """Losses of logits, beside the transducer's of as many."""
    batch, frames, nodes, classes = JOINT
    more = labels_of(batch, nodes, classes)
    logits = torch.randn(JOINT)
    regular = el.TransducerLoss()
    losses: dict[str, tuple[nn.Module, Tensor, float]] = {
        "TDTLoss": (el.TDTLoss(0, DURATIONS), torch.randn(batch, frames, nodes, classes + 5), 1.2),
        "MultiBlankTransducerLoss": (el.MultiBlankTransducerLoss(2, (2, 4)), logits, 1.2),
        "HATLoss": (el.HATLoss(), logits, 1.2),
        "TransducerLoss, modified": (el.TransducerLoss(topology="modified"), logits, 1.2),
        "TransducerLoss, FastEmit": (el.TransducerLoss(fastemit_lambda=0.01), logits, 1.2),
    }
    for name, (loss, x, wanted) in losses.items():
        with torch.no_grad():
            ours, theirs = race(lambda m=loss, x=x: m(x, *more), lambda: regular(logits, *more))
        yield Line(f"{name} forward", "TransducerLoss", ours, theirs, wanted)
        leaf, other = x.clone().requires_grad_(), logits.clone().requires_grad_()
        ours, theirs = race(
            with_gradient(lambda y, m=loss: m(y, *more), [leaf]),
            with_gradient(lambda y: regular(y, *more), [other]),
        )
        yield Line(f"{name} with gradient", "TransducerLoss", ours, theirs, wanted)


def arcs() -> Iterator[Line]:
    """The operator of arcs, with their occupation, beside the softmax that they come from."""
    batch, frames, nodes, _classes = JOINT
    logits, arcs = torch.randn(JOINT), torch.randn(batch, frames, nodes, 2) - 1
    lengths = torch.full((batch,), frames), torch.full((batch,), nodes - 1)
    each, out = torch.ones(batch), torch.empty_like(logits)
    ours, theirs = race(
        lambda: torch.ops.exportable_losses.arcs_loss_grad(arcs, *lengths, [1], [0], False, each),
        lambda: torch.log_softmax(logits, -1, out=out),
    )
    yield Line("arcs with occupation", "log_softmax(logits, out=)", ours, theirs, 0.15)


def pruned_step(am: Tensor, lm: Tensor, logits: Tensor, more: tuple[Tensor, ...]) -> Tensor:
    """What a recipe does before and behind its joiner, which makes the logits."""
    simple, ranges = functional.simple_loss_and_ranges(am, lm, *more, prune_range=RANGE)
    return 0.5 * simple + functional.pruned_transducer_loss(logits, ranges, *more)


def simple_and_pruned() -> Iterator[Line]:
    """The losses without a joint, beside the transducer's of the joint that they do not make."""
    batch, frames, nodes, classes = PRUNED
    more = labels_of(batch, nodes, classes)
    am, lm = torch.randn(batch, frames, classes), torch.randn(batch, nodes, classes)
    leaves = [am.requires_grad_(), lm.requires_grad_()]
    whole = (am.unsqueeze(2) + lm.unsqueeze(1)).detach().requires_grad_()
    simple, regular = el.SimpleTransducerLoss(), el.TransducerLoss()
    joint = with_gradient(lambda x: regular(x, *more), [whole])
    ours, theirs = race(with_gradient(lambda a, b: simple(a, b, *more), leaves), joint)
    yield Line("SimpleTransducerLoss with gradient", "TransducerLoss of the joint", ours, theirs, 0.1)
    joined = torch.randn(batch, frames, RANGE, classes).requires_grad_()
    step = with_gradient(lambda a, b, x: pruned_step(a, b, x, more), [*leaves, joined])
    ours, theirs = race(step, joint)
    yield Line(f"simple + ranges + pruned (R={RANGE})", "TransducerLoss of the joint", ours, theirs, 0.25)


def of_fast_rnnt() -> Iterator[Line]:
    """The loss of logits, the simple loss, and the step of a recipe, with gradients, in fast_rnnt."""
    try:
        import fast_rnnt
    except ImportError as error:
        print(f"fast_rnnt: not timed, {error}")
        return

    def boundary(batch: int, frames: int, nodes: int) -> Tensor:
        return torch.tensor([0, 0, nodes - 1, frames]).repeat(batch, 1)

    batch, frames, nodes, classes = JOINT
    more, end = labels_of(batch, nodes, classes), boundary(batch, frames, nodes)
    logits, regular = torch.randn(JOINT).requires_grad_(), el.TransducerLoss()
    theirs_of: Callable[..., Tensor] = lambda x: fast_rnnt.rnnt_loss(x, more[0], 0, end, reduction="mean")  # noqa: E731
    ours, theirs = race(
        with_gradient(lambda x: regular(x, *more), [logits]), with_gradient(theirs_of, [logits])
    )
    yield Line("TransducerLoss with gradient", "fast_rnnt's rnnt_loss", ours, theirs, 1)

    batch, frames, nodes, classes = PRUNED
    of_simple, end = labels_of(batch, nodes, classes), boundary(batch, frames, nodes)
    sizes = (batch, frames, classes), (batch, nodes, classes), (batch, frames, RANGE, classes)
    am, lm, joined = (torch.randn(size).requires_grad_() for size in sizes)
    simple = el.SimpleTransducerLoss()

    def step(am: Tensor, lm: Tensor, joined: Tensor) -> Tensor:
        given = {"symbols": of_simple[0], "termination_symbol": 0, "boundary": end, "reduction": "mean"}
        cost, slopes = fast_rnnt.rnnt_loss_simple(lm, am, **given, return_grad=True)
        ranges = fast_rnnt.get_rnnt_prune_ranges(*slopes, end, RANGE)
        return cost + fast_rnnt.rnnt_loss_pruned(joined, ranges=ranges, **given)

    ours, theirs = race(
        with_gradient(lambda a, b: simple(a, b, *of_simple), [am, lm]),
        with_gradient(lambda a, b: fast_rnnt.rnnt_loss_simple(b, a, of_simple[0], 0, end), [am, lm]),
    )
    yield Line("SimpleTransducerLoss with gradient", "fast_rnnt's rnnt_loss_simple", ours, theirs, 1)
    ours, theirs = race(
        with_gradient(lambda *x: pruned_step(*x, of_simple), [am, lm, joined]),
        with_gradient(step, [am, lm, joined]),
    )
    yield Line(f"simple + ranges + pruned (R={RANGE})", "the same in fast_rnnt", ours, theirs, 1)


def of_transformers() -> Iterator[Line]:
    """transformers' TDT loss: NeMo's `TDTLossPytorch`, a diagonal at a time."""
    try:
        from transformers.loss.loss_tdt import tdt_loss
    except ImportError as error:
        print(f"transformers' tdt_loss: not timed, {error}")
        return
    batch, frames, nodes, classes = JOINT
    targets, whole, _ = labels_of(batch, nodes, classes)
    leaf = torch.randn(batch, frames, nodes, classes + 5).requires_grad_()
    lengths = torch.full((batch,), frames), torch.full((batch,), nodes - 1)
    loss = el.TDTLoss(0, DURATIONS)

    def theirs_of(x: Tensor) -> Tensor:
        return tdt_loss(x[..., :classes], x[..., classes:], targets, *lengths, 0, list(DURATIONS))

    ours, theirs = race(
        with_gradient(lambda x: loss(x, targets, whole, whole), [leaf]), with_gradient(theirs_of, [leaf])
    )
    yield Line("TDTLoss with gradient", "transformers' tdt_loss", ours, theirs, 0.01)


# A process of its own: its peak of memory is of the loss, its inputs and their gradients.
_ALONE = """
import resource, sys, time
import torch
import exportable_losses as el
from exportable_losses import functional

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

torch.manual_seed(0)
draw = torch.Generator().manual_seed(0)
batch, classes, most = 30, 500, 5
frames = (torch.empty(batch).normal_(310, 90, generator=draw)).clamp(60, 420).long()
labels = (frames * 0.16).long().clamp(8, 80)  # tokens of a 500-word-piece model
targets = torch.randint(1, classes, (batch, int(labels.max())), generator=draw)
sizes = batch, int(frames.max()), int(labels.max()) + 1, classes
more = targets, frames, labels

def full():
    logits = torch.randn(sizes).requires_grad_()
    return (logits,), lambda: el.TransducerLoss()(logits, *more)

def pruned():
    am = torch.randn(batch, sizes[1], classes).requires_grad_()
    lm = torch.randn(batch, sizes[2], classes).requires_grad_()
    logits = torch.randn(batch, sizes[1], most, classes).requires_grad_()
    def loss():
        simple, ranges = functional.simple_loss_and_ranges(am, lm, *more, prune_range=most)
        return 0.5 * simple + functional.pruned_transducer_loss(logits, ranges, *more)
    return (am, lm, logits), loss

leaves, loss = {"full": full, "pruned": pruned}[sys.argv[1]]()
before, own = peak(), sum(leaf.numel() for leaf in leaves) * 4 / 2**20
times = []
for _ in range(5):
    for leaf in leaves:
        leaf.grad = None
    start = time.perf_counter()
    loss().backward()
    times.append(time.perf_counter() - start)
print(1000 * sorted(times)[2], before, peak(), own)
"""


def librispeech() -> None:
    """Time and peak memory of a batch of thirty, as a public benchmark of transducers has it."""
    for name in ("full", "pruned"):
        command = [sys.executable, "-c", _ALONE, name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        ms, before, peak, own = map(float, done.stdout.split())
        besides = f"inputs and gradients {2 * own:.0f}, besides {peak - before - own:.0f}"
        print(f"{name}: {ms:.0f} ms, peak {peak:.0f} MB; {besides}")


def show(lines: Iterable[Line]) -> None:
    """Print a table of lines, those red that miss what is wanted."""
    table = Table("what", "beside", "ms", "ms", "ratio", "wanted")
    for line in lines:
        ratio = line.ours / line.theirs
        style = "" if ratio <= line.wanted else "[bold red]"
        numbers = f"{line.ours:.3f}", f"{line.theirs:.3f}", f"{style}{ratio:.3f}", f"{line.wanted:g}"
        table.add_row(line.what, line.beside, *numbers)
    Console(width=120).print(table)


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    if "--librispeech" in sys.argv:
        librispeech()
        return
    show(
        line for group in (fused, arcs, simple_and_pruned, of_fast_rnnt, of_transformers) for line in group()
    )


if __name__ == "__main__":
    main()
