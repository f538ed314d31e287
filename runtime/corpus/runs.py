"""What a scored corpus has left in its folder, read back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exportable_losses.contract import Total

from .results import ASIDE, ITEMS, TOTALS
from .totals import columns_of

FORMAT = 1


@dataclass(frozen=True)
class SetAside:
    """An item that could not be scored.

    Args:
        id: its name.
        source: where it was read.
        reason: why.
    """

    id: str
    source: str
    reason: str


@dataclass(frozen=True)
class Run:
    """A scored corpus.

    Args:
        path: its folder.
        about: what ``totals.json`` says: graph, data, totals, environment.
        totals: how each output adds up.
        ids: of the N items, each once.
        sizes: int64 `[N]`, frames as a rule.
        columns: values, weights and parts of totals by name: float64 `[N]`, or `[N, K]` where an item
            has several numbers.
        set_aside: what could not be scored.
    """

    path: Path
    about: Mapping[str, Any]
    totals: Mapping[str, Total]
    ids: list[str]
    sizes: np.ndarray
    columns: Mapping[str, np.ndarray]
    set_aside: list[SetAside]


def files_of(path: Path) -> list[Path]:
    """The files that a run has left in its folder."""
    return [path / name for name in (ITEMS, ASIDE, TOTALS)]


def read_run(path: str | Path) -> Run:
    """The run in a folder that ``exportable-losses score --out`` wrote.

    Raises:
        ValueError: the folder has no finished run, or not one that this version reads.

    Example::

        run = read_run("scores/float")
        run.columns["loss"].max()
    """
    path = Path(path)
    if not (path / TOTALS).is_file():
        if (path / "state").is_dir():
            got = "an unfinished run, which the same `score` again would finish"
        else:
            got = f"a folder without {TOTALS}" if path.is_dir() else "a file" if path.exists() else "nothing"
        raise ValueError(f"{path}: got {got}, expected a folder that `score --out` wrote")
    try:
        about = json.loads((path / TOTALS).read_text(encoding="utf-8"))
        if about.get("format") != FORMAT:
            raise ValueError(f"totals.json: got format {about.get('format')}, expected {FORMAT}")
        # JSON has them by the alphabet, the table as the row does; what does not say how it adds up is of
        # the corpus as a whole
        order = pq.read_schema(path / ITEMS).names
        named = sorted(about["totals"], key=lambda name: order.index(name) if name in order else len(order))
        given = {name: _numbers_of(about["totals"][name]) for name in named}
        about["totals"] = given
        totals = {
            name: Total(name, total.get("kind", "whole"), total.get("by", ""))
            for name, total in given.items()
        }
        added = {name: total for name, total in totals.items() if total.kind != "whole"}
        items = _table(path / ITEMS, ["id", "size", *columns_of(added)])
        columns = {name: _numbers(items[name]) for name in items.column_names[2:]}
        aside = [SetAside(**row) for row in _table(path / ASIDE).to_pylist()]
        ids = items["id"].to_pylist()
        return Run(path, about, totals, _unique(ids), items["size"].to_numpy(), columns, aside)
    except (
        AttributeError,
        KeyError,
        OSError,
        TypeError,
        ValueError,
        RecursionError,
        pa.ArrowException,
    ) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: not a run that this version reads: {what}") from error


def _table(path: Path, columns: list[str] | None = None) -> pa.Table:
    return pq.read_table(path, columns=columns, page_checksum_verification=True)


def _numbers_of(total: Mapping[str, Any]) -> dict[str, Any]:
    """A total with its numbers as numbers: JSON has those that are not finite as strings."""
    return {name: value if name in ("kind", "by") else float(value) for name, value in total.items()}


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column as an array with a row for each item."""
    return np.array(column.to_pylist() if pa.types.is_nested(column.type) else column, np.float64)


def _unique(ids: list[str]) -> list[str]:
    twice = [name for name, times in Counter(ids).items() if times > 1]
    if twice:
        raise ValueError(f"id: got {twice[0]!r} more than once, expected each item to have a name of its own")
    return ids
