"""Draw the arcs of each lattice for transducers.md: ``python docs/lattices.py``."""

from pathlib import Path

import matplotlib as mpl
import torch

from exportable_losses.lattice.arcs import Arcs
from exportable_losses.runtime import plot

IMAGES = Path(__file__).parent / "images"
FRAMES, LABELS = 5, 3
LATTICES = {
    "regular": Arcs([1], [0]),
    "modified": Arcs([1], [1], label_ends=True),
    "durations": Arcs([1, 2], [0, 1, 2]),
    "big-blanks": Arcs([1, 2, 3], [0]),
}


def main() -> None:
    """Write one picture for each."""
    mpl.rcParams["svg.hashsalt"] = "lattices"  # the same bytes each time
    for name, lattice in LATTICES.items():
        blanks, labels = lattice.blank_durations, lattice.label_durations
        arcs = torch.zeros(1, FRAMES, LABELS + 1, len(blanks) + len(labels))
        _, occupation = lattice.occupation(arcs, torch.tensor([FRAMES]), torch.tensor([LABELS]))
        figure = plot({"occupation": occupation.numpy()}, durations=(blanks, labels))
        figure.savefig(IMAGES / f"arcs-{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
