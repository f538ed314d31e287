"""Scoring windows of a corpus: the next batches are made while ONNX Runtime computes."""

from __future__ import annotations

import functools
import itertools
import os
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from ..session import LossSession, dtype_of, open_session, session_options
from .alone import counted_apart, refuse_unaligned
from .batches import Batches, Items
from .casts import Casts
from .columns import Column
from .notes import with_notes
from .priors import Probabilities
from .reading import Reader, Window
from .rows import Rows

T = TypeVar("T")

BATCH_BYTES = 8 << 20
_AHEAD = 2  # batches that wait
# what is wrong with an item, and not with the program or the machine
_WRONG = (TypeError, ValueError, Fail, InvalidArgument, RuntimeException)


@dataclass(frozen=True)
class Batch:
    """Some items of a window, and what goes into the graph unless it is illegal."""

    items: Items
    feed: Mapping[str, np.ndarray] | None


@dataclass(frozen=True)
class End:
    """All of a window has been read: its ids, and its rows that are set aside, with the reasons."""

    window: Window
    ids: list[str]
    aside: dict[int, str]
    rounded: dict[str, tuple[str, str]]


class Scorer:
    """Scores items with an exported loss, each as if it were alone.

    Args:
        graph: an exported loss, or one attached to a model.
        model: an ONNX model that runs first, on one item at a time and without padding.
        inputs: the inputs of the loss that are outputs of the model, as ``{"log_probs": "logits"}``; by
            default those that share a name.
        batch_bytes: the largest size of the arrays of a batch.
        native: as in `LossSession`.
        providers: as in `LossSession`.
        threads: as in `LossSession`.
        priors: whether `score_corpus` also estimates how probable each class is, of a graph that takes
            `log_probs`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the graph has no metadata of its inputs, none of its outputs adds up over a corpus, the
            model does not fit it, or it cannot tell `priors`.

    Examples:
        Where ``ctc_loss.onnx`` is an exported loss and ``dev.parquet`` has a column for each of its inputs::

            scorer = Scorer("ctc_loss.onnx")
            for window, table in scorer.score(windows(["dev.parquet"], scorer.columns)):
                print(table["id"], table["loss"])
    """

    def __init__(
        self,
        graph: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] | None = None,
        inputs: Mapping[str, str] | None = None,
        batch_bytes: int = BATCH_BYTES,
        native: Literal["auto"] | bool = "auto",
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        priors: bool = False,
    ) -> None:
        self.settings: dict[str, Any] = {
            "graph": os.fspath(graph),
            "model": None if model is None else os.fspath(model),
            "inputs": inputs,
            "batch_bytes": batch_bytes,
            "native": native,
            "providers": providers,
            "threads": threads,
            "priors": priors,
        }
        if batch_bytes < 1:
            raise ValueError(f"batch_bytes: got {batch_bytes}, expected a positive number")
        self.session = LossSession(graph, native=native, providers=providers, threads=threads)
        self.session.losses = [counted_apart(loss) for loss in self.session.losses]
        self.batches = Batches(self.session)
        self._probabilities = Probabilities(self.batches) if priors else None
        self._model = None
        if model is not None:
            taken, casts = self.session.inputs, self.batches.casts
            self._model = _Model(model, taken, inputs, providers, threads, casts)
        elif inputs:
            raise ValueError(f"inputs: got {', '.join(inputs)}, expected none without a model")
        self.columns = self._model.columns if self._model else self.session.inputs
        self._reader = Reader(self.columns)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **self.settings), ()

    @property
    def described(self) -> dict[str, Any]:
        """What its numbers depend on besides the graph and the model, as JSON can hold it."""
        return {}

    def score_window(self, window: Window) -> pa.Table:
        """Score the items of one window; `score` describes the table."""
        ((_, table),) = self.score([window])
        return table

    def feed(self, row: Rows) -> dict[str, np.ndarray]:
        """The inputs of the graph for a single item.

        Raises:
            ValueError: the item cannot be scored.
        """
        aside: dict[int, str] = {}
        ready = self._ready(np.zeros(1, int), row, aside)
        if aside:
            raise ValueError(f"{row.ids[0]}: {aside[0]}")
        return self.session.checked(self.batches.collate(ready[0]))

    def score(self, windows: Iterable[Window]) -> Generator[tuple[Window, pa.Table], None, None]:
        """Score the items of each window, in the order of the data.

        A table has the columns `id`, `size` (usually frames), the values and weights of each output, and
        `reason`: why an item was set aside, or null.

        Raises:
            OSError: a shard is missing, or cannot be read for a reason other than its data.
        """
        parts: list[tuple[np.ndarray, Mapping[str, Any]]] = []
        aside: dict[int, str] = {}
        for step in _ahead(self._steps(windows), _AHEAD):
            if isinstance(step, Batch):
                done = self._run(step, aside)
                if self._probabilities and done:
                    self._probabilities.add(step.items, np.concatenate([rows for rows, _ in done]))
                parts += done
            else:
                table = self._table(step.ids, {**aside, **step.aside}, parts)
                priors = self._probabilities.take() if self._probabilities else {}
                yield step.window, with_notes(table, {"rounded": step.rounded, "priors": priors})
                parts, aside = [], {}

    def _steps(self, windows: Iterable[Window]) -> Iterator[Batch | End]:
        """What `score` runs, and the end of each window. A batch is good until `_AHEAD` more have come."""
        most = self.settings["batch_bytes"]
        places = itertools.cycle([np.empty(most, np.uint8) for _ in range(_AHEAD + 2)])
        for window in windows:
            yield from self._window_steps(window, places)  # which keeps nothing of it while the next is read
        self._reader.close()

    def _rows(self, window: Window) -> Iterator[Rows]:
        """The rows of a window."""
        return self._reader.read(window)

    def _arrays(self, columns: Mapping[str, Column]) -> Mapping[str, Column]:
        """What the graph takes of what was read: of a single item where there is a model."""
        return self._model(columns) if self._model else columns

    def _refuse(self, feed: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Raise an error where an item of a batch has no value that counts.

        Args:
            feed: what went into the graph.
            values: what came of it, an item a row.
        """
        refuse_unaligned(self.session.losses[0], feed, values)

    def _window_steps(self, window: Window, places: Iterator[np.ndarray]) -> Iterator[Batch | End]:
        ids: list[str] = []
        aside: dict[int, str] = {}
        parts: list[Items] = []
        self.batches.casts.rounded.clear()  # what an earlier run of this scorer rounded is not this one's
        for some in self._rows(window):
            parts += self._ready(np.arange(len(ids), len(ids) + len(some.ids)), some, aside)
            ids += map(str, some.ids)
        for items in self._divided(parts):
            yield self._batch(items, next(places))
        yield End(window, ids, aside, dict(self.batches.casts.rounded))

    def _ready(self, at: np.ndarray, rows: Rows, aside: dict[int, str]) -> list[Items]:
        """What can be batched of the rows `at` of a window; what cannot goes to `aside`."""
        good = np.setdiff1d(np.arange(len(at)), list(rows.wrong))
        aside |= {int(at[row]): reason for row, reason in rows.wrong.items()}
        return self._halves(at[good], {name: each.part(good) for name, each in rows.columns.items()}, aside)

    def _halves(self, at: np.ndarray, columns: Mapping[str, Column], aside: dict[int, str]) -> list[Items]:
        """The same, half by half where something is wrong."""
        if not len(at):
            return []
        if len(at) == 1 or not self._model:
            try:
                return [self.batches.ready(at, self._arrays(columns))]
            except _WRONG as error:
                if len(at) == 1:
                    aside[int(at[0])] = first_line(error)
                    return []
        found = []
        for half in (slice(len(at) // 2), slice(len(at) // 2, None)):
            found += self._halves(at[half], {name: each.part(half) for name, each in columns.items()}, aside)
        return found

    def _divided(self, parts: Sequence[Items]) -> Iterator[Items]:
        """Items in batches."""
        if self.batches.whole:
            yield from parts
        elif not self.batches.together:
            yield from (part.part(slice(row, row + 1)) for part in parts for row in range(len(part)))
        elif parts:
            for items in Items.join(parts).alike():
                most = self.settings["batch_bytes"] // max(1, self.batches.bytes(items))
                some = 1 if self.batches.lone(items) else max(1, most)
                yield from (items.part(slice(at, at + some)) for at in range(0, len(items), some))

    def _batch(self, items: Items, place: np.ndarray) -> Batch:
        if self.batches.whole:
            return Batch(items, None)
        try:
            return Batch(items, self.session.checked(self.batches.collate(items, place)))
        except _WRONG:
            return Batch(items, None)

    def _run(self, batch: Batch, aside: dict[int, str]) -> list[tuple[np.ndarray, Mapping[str, Any]]]:
        """Rows, and their columns; half by half where something is illegal, which goes to `aside`."""
        items = batch.items
        try:
            if self.batches.whole:
                values: Mapping[str, Any] = self.batches.kept(items)
            else:
                feed = batch.feed or self.session.checked(self.batches.collate(items))
                values = self.batches.values(items, self.session.run(feed))
                self._refuse(feed, values)
            return [(items.rows, {"size": items.size, **values})]
        except _WRONG as error:
            if len(items) == 1:
                aside[int(items.rows[0])] = first_line(error)
                return []
        middle = len(items) // 2
        halves = (items.part(slice(middle)), items.part(slice(middle, None)))
        return [found for half in halves for found in self._run(Batch(half, None), aside)]

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """Of the tables."""
        kinds = {name: _arrow_type(dtype, rank) for name, (dtype, rank) in self.batches.kinds.items()}
        fields = {"id": pa.string(), "size": pa.int64(), **kinds, "reason": pa.string()}
        return pa.schema(list(fields.items()))

    def _table(
        self, ids: list[str], aside: Mapping[int, str], parts: Sequence[tuple[np.ndarray, Mapping[str, Any]]]
    ) -> pa.Table:
        """A window's table: what the batches gave, in the order of the rows."""
        rows = np.concatenate([np.zeros(0, int), *(some for some, _ in parts)])
        place = np.full(len(ids), -1)
        place[rows] = np.arange(len(rows))
        index = pa.array(place, mask=place < 0)
        columns: dict[str, Any] = {}
        for field in self.schema:
            if field.name == "id":
                columns["id"] = pa.array(ids, field.type)
            elif field.name == "reason":
                columns["reason"] = pa.array([aside.get(row) for row in range(len(ids))], field.type)
            else:
                found = [values[field.name] for _, values in parts]
                columns[field.name] = _column(found, field.type).take(index)
        return pa.table(columns, self.schema)


def _column(parts: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The parts of a column, one behind the other."""
    if pa.types.is_list(kind):
        return pa.array([_lists(row) for part in parts for row in part], kind)
    return pa.array(np.concatenate(parts) if parts else [], kind)


def _arrow_type(dtype: np.dtype[Any], rank: int) -> pa.DataType:
    kind = pa.from_numpy_dtype(dtype)
    for _ in range(rank):
        kind = pa.list_(kind)
    return kind


def _lists(array: np.ndarray) -> Any:
    return array if array.ndim == 1 else list(map(_lists, array))


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


class _Model:
    """A model that runs before the loss, on one item at a time: no padding can change what it gives.

    Args:
        path: of the model.
        taken: what the loss takes.
        inputs: which of it are the model's outputs, by name.
        providers: as of `LossSession`.
        threads: as of `LossSession`.
        casts: what makes its inputs of an item's arrays.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        taken: Sequence[str],
        inputs: Mapping[str, str] | None,
        providers: Sequence[str] | None,
        threads: int | None,
        casts: Casts,
    ) -> None:
        self._cast = casts
        self._session = open_session(path, session_options(threads), providers)
        given = [value.name for value in self._session.get_outputs()]
        self._inputs = {name: name for name in taken if name in given} if inputs is None else dict(inputs)
        for name, output in self._inputs.items():
            if name not in taken:
                raise ValueError(f"inputs: got {name}, expected one of the loss's: {', '.join(taken)}")
            if output not in given:
                raise ValueError(f"inputs: got {output}, expected one of the model's: {', '.join(given)}")
        if not self._inputs:
            raise ValueError(
                f"inputs: got none, expected which of {', '.join(taken)} are the model's {', '.join(given)}"
            )
        self._values = {value.name: value for value in self._session.get_inputs()}
        self._left = [name for name in taken if name not in self._inputs]
        self.columns = list(dict.fromkeys([*self._values, *self._left]))

    def __call__(self, item: Mapping[str, Column]) -> dict[str, Column]:
        """What the loss takes of an item: columns of one array.

        Raises:
            TypeError: an array is missing, or its dtype does not fit.
            ValueError: the model does not take it.
        """
        arrays = {name: next(iter(column)) for name, column in item.items()}
        missing = [name for name in self._values if name not in arrays]
        if missing:
            got = f"{', '.join(missing)} missing, found {', '.join(arrays) or 'none'}"
            raise TypeError(f"inputs: {got}, expected {', '.join(self._values)}")
        feed = {
            name: self._cast(name, arrays[name], dtype_of(value.type))[None]
            for name, value in self._values.items()
        }
        outputs = list(dict.fromkeys(self._inputs.values()))
        found: dict[str, Any] = dict(zip(outputs, self._session.run(outputs, feed), strict=True))
        for name, output in found.items():
            if not output.ndim or len(output) != 1:
                raise ValueError(f"{name}: got shape {list(output.shape)}, expected one item first")
        left = {name: array for name, array in arrays.items() if name in self._left}
        given = {**left, **{name: found[output][0] for name, output in self._inputs.items()}}
        return {name: Column.of([array]) for name, array in given.items()}


def _ahead(steps: Iterable[T], most: int) -> Iterator[T]:
    """`steps`, made in a thread of its own, `most` of them ahead."""
    waiting: queue.Queue[Any] = queue.Queue(most)
    stop = threading.Event()

    def put(step: Any) -> bool:
        while not stop.is_set():
            try:
                waiting.put(step, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for step in steps:
                if not put((step, None)):
                    return
            put((None, None))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            step, error = waiting.get()
            if error is not None:
                raise error
            if step is None:
                return
            yield step
    finally:
        stop.set()
        thread.join()
