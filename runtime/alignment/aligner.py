"""What aligns the items of a corpus: a `Scorer` of `CTCAlign` whose targets are made of transcripts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from exportable_losses.legal import whole

from ..corpus.columns import Column
from ..corpus.reading import Reader, Window
from ..corpus.rows import Rows
from ..corpus.scorer import Scorer
from .tokens import WILDCARD, Spelling, Vocabulary
from .transcripts import Transcripts, read_transcripts
from .vocabularies import read_tokens

_ROW = "CTCAlign"
_FRAMES = 16  # of an item, whose probabilities are added up
_HUGE = 700.0  # whose exp a float64 still has
_MASS = 0.5, 1.1  # what they may come to on average: 16 bits round, and some files keep the best classes only


class Aligner(Scorer):
    """Aligns items with their transcripts: a `Scorer` of `CTCAlign` whose targets are made of text.

    Args:
        graph: an exported `CTCAlign`. Where it has wildcards, they stand for digits and whatever else the
            tokens cannot spell; without them such an item is set aside.
        tokens: a file of the classes' names, as of `read_tokens`, or what that made of one.
        transcripts: a file of them: lines of an id and a text, or JSON lines of `id` and `text`; for a single
            item its text alone. By default they are a column of the data.
        text: the name of that column.
        settings: those of `Scorer`: `model`, `inputs`, `batch_bytes`, `native`, `providers`, `threads`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the graph is no `CTCAlign`, a file is not what it should be, or the graph's blank is
            another class of the tokens.

    Examples:
        Where ``acoustic.onnx`` gives log-probabilities as `scores`, and the corpus has what it takes and a
        column `text`::

            inputs = {"log_probs": "scores"}
            aligner = Aligner("CTCAlign.onnx", "tokens.txt", model="acoustic.onnx", inputs=inputs)
    """

    def __init__(
        self,
        graph: str | os.PathLike[str],
        tokens: str | os.PathLike[str] | Vocabulary,
        transcripts: str | os.PathLike[str] | Transcripts | None = None,
        *,
        text: str = "text",
        **settings: Any,
    ) -> None:
        super().__init__(graph, **settings)
        loss = self.session.losses[0]
        row = self.session.metadata.get("row")
        if row != _ROW or loss.computed:
            got = f"{row} attached to a model" if row == _ROW else row
            raise ValueError(f"graph: got {got}, expected an exported {_ROW}")
        blank = int(loss.settings["blank_index"])
        self.vocabulary = tokens if isinstance(tokens, Vocabulary) else read_tokens(tokens, blank)
        if transcripts is not None and not isinstance(transcripts, Transcripts):
            transcripts = read_transcripts(transcripts)
        self.transcripts, self.text = transcripts, text
        self._priors = loss.settings.get("log_priors")
        self._wildcards = loss.settings.get("wildcard", "none") != "none"
        self.settings |= {"tokens": self.vocabulary, "transcripts": self.transcripts, "text": text}
        self._targets, self._log_probs = loss.names["targets"], loss.names["log_probs"]
        made = (self._targets, loss.names["target_lens"])
        column = [text] if transcripts is None else []
        self.columns = [*(name for name in self.columns if name not in made), *column]
        self._reader = Reader(self.columns)

    @property
    def described(self) -> dict[str, Any]:
        of_file = self.transcripts
        return {
            "tokens": hashlib.sha256(repr(self.vocabulary).encode()).hexdigest(),
            "transcripts": f"column {self.text}" if of_file is None else of_file.sha256,
        }

    def spell(self, id_: str, text: str | None) -> Spelling:
        """The labels of an item's transcript.

        Args:
            id_: of the item.
            text: what its column says.

        Raises:
            ValueError: there is none, or nothing of it can be aligned.
        """
        if self.transcripts is not None:
            text = self.transcripts.texts.get(id_)
            if text is None:
                raise ValueError("transcripts: got none of this id, expected one for each item")
        elif text is None:
            raise ValueError(f"{self.text}: got none, expected the transcript")
        spelling = self.vocabulary.spell(text)
        if not spelling.labels:
            raise ValueError(f"{self.text}: got {text!r}, expected words")
        if WILDCARD in spelling.labels and not self._wildcards:
            at = spelling.labels.index(WILDCARD)
            word = next(w for w, (_, end) in zip(spelling.words, spelling.spans, strict=True) if at < end)
            expected = "expected what the tokens spell, or a graph with wildcards"
            raise ValueError(f"{self.text}: got {word!r}, {expected}")
        return spelling

    def _rows(self, window: Window) -> Iterator[Rows]:
        for rows in super()._rows(window):
            yield self._with_targets(rows)

    def _with_targets(self, rows: Rows) -> Rows:
        wrong = dict(rows.wrong)
        targets = []
        texts = iter(rows.columns.get(self.text, ()))
        for row, id_ in enumerate(rows.ids):
            text = next(texts, None)
            labels: Sequence[int] = ()
            if row not in wrong:
                try:
                    labels = self.spell(str(id_), None if text is None else as_text(self.text, text)).labels
                except ValueError as error:
                    wrong[row] = str(error)
            targets.append(np.array(labels, np.int64))
        columns = {name: column for name, column in rows.columns.items() if name != self.text}
        return Rows(rows.ids, {**columns, self._targets: Column.of(targets)}, wrong)

    def _arrays(self, columns: Mapping[str, Column]) -> Mapping[str, Column]:
        """What the graph takes: only now is it known how many classes there are, the label of a wildcard."""
        found = super()._arrays(columns)
        scores = found.get(self._log_probs)
        if scores is None or scores.shapes.shape[1] != 2:
            return found  # and is refused
        if self._priors is not None and (others := set(scores.shapes[:, 1].tolist()) - {len(self._priors)}):
            expected = f"as many as log_probs has, {min(others)}"
            raise ValueError(f"log_priors: got those of {len(self._priors)} classes, expected {expected}")
        pairs = zip(found[self._targets], scores.shapes[:, 1].tolist(), strict=True)
        # a token of no class must not be taken for the wildcard: one further, it is refused
        targets = [
            np.where(labels == WILDCARD, classes, labels + (labels >= classes)) for labels, classes in pairs
        ]
        return {**found, self._targets: Column.of(targets)}

    def _refuse(self, feed: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        self._refuse_lost(feed, values)
        log_probs, of_file = feed[self._log_probs], self.session.losses[0].names
        lengths = whole(feed[of_file["input_lens"]], log_probs.shape[1])
        for scores, frames in zip(log_probs, lengths.tolist(), strict=True):
            some = scores[: int(frames)][:: max(1, int(frames) // _FRAMES)].astype(np.float64)
            mass = np.exp(np.minimum(some, _HUGE)).sum(-1).mean() if some.size else 1.0
            if not _MASS[0] <= mass <= _MASS[1]:
                got = f"got scores whose exp adds up to {mass:.3g} per frame"
                raise ValueError(f"{self._log_probs}: {got}, expected log-probabilities, as of a log-softmax")

    def _refuse_lost(self, feed: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Raise an error where a target could not be aligned."""
        lost = np.flatnonzero(~np.isfinite(values["path_scores"]))
        if not len(lost):
            return
        names = self.session.losses[0].names
        targets, log_probs = feed[self._targets], feed[self._log_probs]
        frames = int(whole(feed[names["input_lens"]], log_probs.shape[1])[lost[0]])
        size = int(whole(feed[names["target_lens"]], targets.shape[1])[lost[0]])
        labels = targets[lost[0], :size]
        least = size + int((labels[1:] == labels[:-1]).sum())
        if frames < least:
            got = f"{size} labels for {frames} frames, expected {least} frames at least"
            raise ValueError(f"{self._targets}: got {got}")
        raise ValueError(f"{self._log_probs}: got a probability of zero on each path of the {size} labels")


def as_text(name: str, array: np.ndarray) -> str:
    """The text in an array of one.

    Raises:
        ValueError: there is something else in it.
    """
    value = array.item() if array.size == 1 else None
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if not isinstance(value, str):
        raise ValueError(f"{name}: got {array.dtype} of shape {list(array.shape)}, expected text")
    return value
