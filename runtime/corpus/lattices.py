"""Pictures of a corpus's lattices: for an item of it, what is said when, and how sure that is."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from ..plot import labels_of, lattice_of, plot
from ..session import LossSession
from .reading import Places, Reader
from .scorer import Scorer


class Lattices:
    """Draws an item by its id: the posterior of its lattice, and the best path over it.

    Args:
        scorer: of the corpus.
        data: its shards, as `shards` gives them.
        graphs: the exported `CTCPosterior`, `TransducerPosterior` or another posterior, and its alignment
            for the path; attached to the model where the scored graph is.
        tokens: the names of the classes, from 0; their numbers without it.

    Raises:
        ValueError: a graph takes what the scored one does not, or none gives posteriors.

    Examples:
        Where all three files are exported with the same `blank_index`::

            scorer, data = Scorer("ctc_loss.onnx"), shards(["dev.parquet"])
            graphs = [LossSession("CTCPosterior.onnx"), LossSession("CTCAlign.onnx")]
            write_report(read_run("scores"), "scores.html", picture=Lattices(scorer, data, graphs))
    """

    def __init__(
        self,
        scorer: Scorer,
        data: Sequence[str],
        graphs: Sequence[LossSession],
        tokens: Sequence[str] | None = None,
    ) -> None:
        taken = scorer.session.inputs
        for graph in graphs:
            unknown = [name for name in graph.inputs if name not in taken]
            if unknown:
                raise ValueError(f"lattice: got a graph that takes {unknown[0]}, expected {', '.join(taken)}")
        if not any("posteriors" in graph.outputs for graph in graphs):
            raise ValueError("lattice: got no graph that gives posteriors, expected one")
        self._scorer, self._graphs, self._tokens = scorer, graphs, tokens
        self._places, self._reader = Places(data, scorer.columns), Reader(scorer.columns)

    def __call__(self, id_: str) -> bytes | None:
        """The picture as PNG, or nothing where there is no such item any more.

        Raises:
            OSError: its shard cannot be read.
            ValueError: it is not what was scored.
        """
        window = self._places.find(id_)
        if window is None:
            return None
        (row,) = self._reader.read(window)
        feed = self._scorer.feed(row)
        outputs: dict[str, np.ndarray] = {}
        for graph in self._graphs:
            outputs |= graph(**{name: feed[name] for name in graph.inputs})
        if "targets" in feed:
            outputs.setdefault("tokens", labels_of(feed))
        file = io.BytesIO()
        names = self._tokens if "tokens" in outputs else None
        figure = plot(outputs, classes=names, lattice=lattice_of(self._graphs))
        figure.savefig(file, format="png", dpi=100, metadata={"Software": None})  # the same bytes each time
        return file.getvalue()
