"""What draws the lattices of a scored corpus's items."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exportable_losses.runtime import LossSession, Scorer
from exportable_losses.runtime.corpus.lattices import Lattices

from .program import names_in
from .sessions import load

_KINDS = {  # what gives the posterior and the alignment, by the row that is scored
    "CTC": ("ctc_loss",),
    "Transducer": ("transducer_loss",),
    **{kind: (f"{kind}Loss",) for kind in ("TDT", "MultiBlankTransducer", "HAT", "PrunedTransducer")},
}
_ROWS = {
    row: (f"{kind}Posterior", f"{kind}Align")
    for kind, losses in _KINDS.items()
    for row in (*losses, f"{kind}Posterior", f"{kind}Align")
}


def lattices(
    scorer: Scorer, data: Sequence[str], graphs: Sequence[Path], tokens: Path | None
) -> tuple[Lattices | None, str]:
    """What draws items, or nothing and the reason why, which is empty where the row has no lattice.

    Args:
        scorer: of the corpus.
        data: its shards.
        graphs: what draws; without them the posterior and the alignment are exported here and now.
        tokens: a file of the names of the classes, one per line.

    Raises:
        ValueError: a graph or the file of names is not what it should be.
    """
    row = str(scorer.session.metadata.get("row"))
    if not graphs and row not in _ROWS:
        if tokens is not None:
            raise ValueError(f"tokens: got a file, expected none: {row} has no lattice")
        return None, ""
    if graphs:
        sessions = [load(graph) for graph in graphs]
    elif scorer.session.losses[0].computed:
        return None, "the loss is attached to a model; attach a posterior as well and give it as --lattice"
    else:
        try:
            sessions = _exported(_ROWS[row], scorer.session.losses[0].settings)
        except ModuleNotFoundError as error:
            return None, f"{error.name} is not installed, so none can be exported; give files as --lattice"
    names = None if tokens is None else names_in(tokens)
    return Lattices(scorer, data, sessions, names), ""


def _exported(rows: Sequence[str], settings: Mapping[str, Any]) -> list[LossSession]:
    """Graphs of these rows, of the lattice that a loss with these settings has."""
    from exportable_losses import catalog

    from ..formats.onnx import to_onnx

    with tempfile.TemporaryDirectory() as folder:
        paths = {row: Path(folder) / f"{row}.onnx" for row in rows}
        for row, path in paths.items():
            entry = catalog.get(row)
            to_onnx(entry.module(**{k: v for k, v in settings.items() if k in entry.settings}), path)
        return [LossSession(path) for path in paths.values()]
