"""Export every loss, hold every file to its test data, score a real recogniser, and quantise it.

    make demo

Writes the files to ``losses/``, the recogniser with a loss behind it to ``demo/recogniser.onnx``, a
picture of its scores to ``demo/recogniser.png`` and one of its lattice to ``demo/lattice.png``; then the
scores of the float and of the quantised recognisers to ``demo/runs/``, and a page about each comparison.
"""

import shutil
import sys
import time
from pathlib import Path

import quantised
import recogniser
from rich.console import Console
from rich.progress import track
from rich.table import Table

from exportable_losses import catalog
from exportable_losses.export import attach
from exportable_losses.export.checking.validate import validate
from exportable_losses.export.commands.comparison import show
from exportable_losses.export.commands.validate import parity_table
from exportable_losses.export.formats.files import prepare, write

LOSSES = Path("losses")
JOINT = Path("demo") / "recogniser.onnx"
PICTURE = Path("demo") / "recogniser.png"
LATTICE = Path("demo") / "lattice.png"
RUNS = Path("demo") / "runs"
# Nats per line, and infinity where a text has no alignment.
SETTINGS = {"ctc_loss": {"reduction": "none", "zero_infinity": False}}

console = Console()


def export_all() -> None:
    """Write every row in both formats."""
    for row in track(catalog.names(), "Exporting", console=console):
        write(prepare(row, SETTINGS.get(row)), LOSSES)


def check_all() -> bool:
    """Run every file on its test data; say whether all are right."""
    checks = validate(LOSSES).checks
    console.print(parity_table(checks))
    wrong = [check for check in checks if not check.ok]
    for check in wrong:
        console.print(f"{check.row} ({check.runtime}) {check.output}: {check.problem}")
    console.print(f"{len(checks)} outputs checked, {len(wrong) or 'none'} off.\n")
    return not wrong


def score_recogniser() -> bool:
    """Print and plot what the recogniser makes of each condition; say whether it makes sense."""
    JOINT.parent.mkdir(exist_ok=True)
    attach(
        recogniser.model_path(),
        LOSSES / "ctc_loss" / "ctc_loss.onnx",
        JOINT,
        inputs={"log_probs": recogniser.SCORES},
        scores="probs",
    )
    console.print(
        f"{len(recogniser.LINES)} lines of text, read by PP-OCRv4 with the CTC loss attached: a picture "
        "and its true text in, the loss out"
    )
    results = list(recogniser.score(JOINT))
    table = Table(box=None, padding=(0, 3, 0, 0))
    for heading in ("condition", "nats/character", "error rate", "the first line, as read"):
        table.add_column(heading)
    for each in results:
        table.add_row(each.condition, f"{each.nll:.3f}", f"{each.cer:.1%}", each.example)
    console.print(table)
    recogniser.plot(results, PICTURE)
    posterior, align = (LOSSES / row / f"{row}.onnx" for row in ("CTCPosterior", "CTCAlign"))
    recogniser.draw_lattice(JOINT, posterior, align, LATTICE)
    if not recogniser.rise_together(results):
        console.print("The loss and the error rate do not rise together.")
        return False
    console.print("The loss of the true text and the error rate rise together.")
    return True


def quantise_recogniser() -> list[Path]:
    """Say by how much the likelihood and the error rate move when the recogniser is quantised; the pages."""
    shutil.rmtree(RUNS, ignore_errors=True)
    exact, pages = quantised.score(recogniser.model_path(), LOSSES, RUNS / "float"), []
    for kind, operators in quantised.KINDS.items():
        name = f"quantised-{kind.replace(' ', '-')}"
        model, page = RUNS.parent / f"{name}.onnx", RUNS.parent / f"{name}.html"
        quantised.quantise(operators, model)
        sizes = [path.stat().st_size / 1e6 for path in (recogniser.model_path(), model)]
        found = quantised.compare(exact, quantised.score(model, LOSSES, RUNS / name), page)
        console.print(
            f"\n[bold]{kind} in eight bits[/]: {sizes[0]:.1f} MB, now {sizes[1]:.1f} MB. A is the float "
            f"model, B this one; both read {len(quantised.ITEMS)} pictures"
        )
        for each in found:
            show(each, worst=3)
        pages.append(page)
    return pages


def main() -> int:
    """The four parts, one after the other."""
    start = time.perf_counter()
    export_all()
    good = check_all() and score_recogniser()
    pages = quantise_recogniser()
    console.print(f"\nThat took {time.perf_counter() - start:.0f} s.")
    console.print(f"Files:   {LOSSES}/")
    console.print(f"Joint:   {JOINT}")
    console.print(f"Picture: {PICTURE}")
    console.print(f"Lattice: {LATTICE}")
    for page in pages:
        console.print(f"Page:    {page}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
