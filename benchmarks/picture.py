"""The picture of the README: CTC and the transducer beside what people train with.

    .venv/bin/python benchmarks/picture.py docs/images/speed.svg

Whole calls of the public modules, checks included, and `backward()` of their sum; both sides in turns in this
process, medians. Without torchaudio the transducer has no bar beside it.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import exportable_losses as el
from exportable_losses.export.commands.timing import race

CTC = {"B": 16, "T": 1000, "S": 100, "C": 500}
TRANSDUCER = {"B": 4, "T": 150, "U": 40, "V": 512}
OURS, THEIRS = "#0b7285", "#adb5bd"
Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Panel:
    """One loss: who is beside it, and times in milliseconds of ours and theirs, with and without gradient."""

    title: str
    beside: str
    forward: list[float]
    with_gradient: list[float]


def measured(title: str, beside: str, scores: Tensor, ours: Loss, theirs: Loss | None) -> Panel:
    """Both calls, alone and with their gradients."""
    leaf = scores.requires_grad_()

    def both(loss: Loss) -> Callable[[], None]:
        def run() -> None:
            leaf.grad = None
            loss(leaf).backward()

        return run

    calls = [ours] + ([theirs] if theirs else [])
    with torch.no_grad():
        forward = race(*(lambda call=call: call(scores) for call in calls))
    return Panel(title, beside, list(forward), list(race(*map(both, calls))))


def ctc() -> Panel:
    batch, frames, labels, classes = CTC.values()
    scores = torch.randn(batch, frames, classes).log_softmax(-1)
    rest = (
        torch.randint(1, classes, (batch, labels)),
        torch.full((batch,), frames),
        torch.full((batch,), labels),
    )
    loss, peer = el.CTCLoss(reduction="sum"), nn.CTCLoss(reduction="sum", zero_infinity=True)
    return measured(
        f"CTC, {batch} x {frames} frames, {labels} labels, {classes} classes",
        "torch",
        scores,
        lambda x: loss(x, *rest),
        lambda x: peer(x.transpose(0, 1), *rest),
    )


def transducer() -> Panel:
    batch, frames, labels, classes = TRANSDUCER.values()
    scores = torch.randn(batch, frames, labels + 1, classes)
    rest = (
        torch.randint(1, classes, (batch, labels), dtype=torch.int32),
        torch.full((batch,), frames, dtype=torch.int32),
        torch.full((batch,), labels, dtype=torch.int32),
    )
    loss, theirs = el.TransducerLoss(reduction="sum"), None
    try:
        from torchaudio.functional import rnnt_loss

        def theirs(x: Tensor) -> Tensor:
            return rnnt_loss(x, *rest, blank=0, reduction="sum")
    except (ImportError, OSError) as error:
        print(f"torchaudio does not load: {str(error).splitlines()[0]}")
    title = f"transducer, {batch} x {frames} frames, {labels} labels, {classes} classes"
    return measured(title, "torchaudio", scores, lambda x: loss(x, *rest), theirs)


def draw(panels: list[Panel], path: Path) -> None:
    """Bars, ours above theirs, shorter is faster."""
    mpl.rcParams["svg.hashsalt"] = "speed"  # the same picture of the same numbers
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 2.4), layout="constrained")
    for axis, panel in zip(axes, panels, strict=True):
        for row, times in enumerate((panel.forward, panel.with_gradient)):
            for place, (time, colour) in enumerate(zip(times, (OURS, THEIRS), strict=False)):
                who = panel.beside if place else "exportable-losses"
                axis.barh(row + 0.38 * place, time, 0.34, color=colour, label=None if row else who)
                ratio = f"  ({times[1] / times[0]:.0f} x)" if place else ""
                axis.text(time, row + 0.38 * place, f" {time:.3g} ms{ratio}", va="center", fontsize=8)
        longest = max(panel.forward + panel.with_gradient)
        axis.set(yticks=[0.19, 1.19], yticklabels=["loss", "loss and gradient"], xlim=(0, 1.4 * longest))
        axis.set_title(panel.title, fontsize=9)
        axis.invert_yaxis()
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False, loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    found = [ctc(), transducer()]
    for each in found:
        print(each)
    draw(found, Path(sys.argv[1]))
