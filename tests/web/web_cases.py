"""The graphs of the tests of JavaScript."""

from pathlib import Path

from exportable_losses.export.checking.web.site import Graph
from exportable_losses.runtime.testdata import data_sets, exported

# of every type that a row takes or gives: float32, int64, bool; a lattice, a function, several outputs
ROWS = ("ctc_loss", "PitWrapper", "compute_length_mask", "AutoencoderLoss")


def listed(folder: Path) -> list[Graph]:
    """The graphs of a folder, as `serve` finds them."""
    return [Graph(row, path, data) for row, path in exported(folder, ".onnx") for data in data_sets(path)]
