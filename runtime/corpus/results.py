"""The folder of a run: finished parts while it lasts, then one table of items and the totals.

==========================  =========================================================================
``items.parquet``           one row for each item that was scored, in the order of the data
``set_aside.parquet``       `id`, `source` and `reason` of each that was not
``totals.json``             what they add up to, and what was run on what
``state/``                  while the run is unfinished: what it is, a part for each window, a lock
==========================  =========================================================================

A file is there as a whole or not at all: it is written under another name, and renamed when it is on the
disk. So a run that is killed leaves a state that the next one goes on from, and two runs of the same data
leave the same bytes. A part ends with its SHA-256: one that a disk has damaged is not there, and its window
is scored again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import whole_file
from .lock import Lock
from .names import as_text
from .reading import Window

ITEMS, ASIDE, TOTALS = "items.parquet", "set_aside.parquet", "totals.json"
_DIGEST = hashlib.sha256().digest_size
# Rows of a row group of what is written, however the windows were: of numbers, and where an item has
# arrays, of which so many wait in memory.
_GROUP, _GROUP_OF_ARRAYS = 1 << 16, 1 << 8
_OTHER = {
    "data": "of other data",
    "environment": "with other versions or on another machine",
    "graph": "of another graph",
    "priors": "with priors, or without them",
    "tokens": "with other tokens",
    "transcripts": "with other transcripts",
}
_SECOND = "id: got it a second time, expected one item of each"


class Results:
    """The folder that a run writes to, or goes on with.

    Args:
        folder: made where it is missing.
        run: what is run on what, as JSON can hold it: an unfinished run of anything else is refused.

    Raises:
        BlockingIOError: another run writes to the folder at this moment.
        ValueError: the folder holds a finished run, or an unfinished one of something else, or there can be
            no folder.
    """

    def __init__(self, folder: str | os.PathLike[str], run: Mapping[str, Any]) -> None:
        self._folder = Path(folder)
        self._state = self._folder / "state"
        self._about = self._state / "run.json"
        self._refuse_finished()
        try:
            self._state.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            why = f"where there can be no folder ({error.strerror})"
            raise ValueError(f"out: got {folder}, {why}, expected another") from error
        self._lock = Lock(self._state / "lock", f"out: got {folder}")
        try:
            self._refuse_finished()  # by whoever had the lock
            now = json.loads(as_json(run))
            before = _read_about(self._folder, self._about) if self._about.exists() else None
            if before is not None and before != now and self._scored_any():
                _refuse_another(self._folder, before, now)
            if before != now:
                if before is not None:  # what is kept of a run that scored nothing is of no use to this one
                    self._forget_parts()
                with whole_file(self._about) as file:
                    file.write(as_json(run))
        except BaseException:
            self.close()
            raise

    def _refuse_finished(self) -> None:
        if (self._folder / TOTALS).exists() and not self._about.exists():
            self._forget_state()  # of a run that was killed when nothing else was left to do
            raise ValueError(f"out: got {self._folder}, which holds a finished run, expected another folder")

    def _scored_any(self) -> bool:
        """Whether anything was scored that would be lost."""
        return any(table["reason"].null_count for table in self.parts(["reason"]))

    def _forget_parts(self) -> None:
        for part in self._state.glob("part-*"):
            part.unlink()

    def _forget_state(self) -> None:
        with contextlib.suppress(OSError):  # what is not ours stays
            (self._state / "lock").unlink(missing_ok=True)
            self._state.rmdir()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another run have the folder."""
        self._lock.release()

    def _part(self, window: Window) -> Path:
        return self._state / f"part-{window.shard:05}-{window.index:05}.table"

    def has(self, window: Window) -> bool:
        """Whether a window is done."""
        return self._part(window).exists()

    def write(self, window: Window, table: pa.Table) -> None:
        """Keep what `Scorer.score` gave for a window.

        Raises:
            OSError: the disk is full, say.
        """
        content = pa.BufferOutputStream()
        pq.write_table(table, content)
        with whole_file(self._part(window)) as file:
            file.write(content.getvalue())
            file.write(hashlib.sha256(content.getvalue()).digest())

    def read(self, window: Window, columns: Sequence[str] | None = None) -> pa.Table:
        """What was kept."""
        return _read_part(self._part(window), columns)

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All that was kept; what is damaged is so no longer, and `has` says so."""
        for path in sorted(self._state.glob("part-*.table")):
            try:
                table = _read_part(path, columns)
            except ValueError:
                path.unlink()
            else:
                yield table

    def nothing(self, lost: int, paths: Sequence[str], unused: Mapping[str, str]) -> str:
        """What to say where there are no items.

        Args:
            lost: how many were set aside.
            paths: of the shards.
            unused: the columns that nothing has read.
        """
        if not lost:
            archives = any(path.endswith((".npz", ".tar")) for path in paths)
            members = ": of an archive, members <id>.<input>.npy; one batch is for --inputs" * archives
            return f"data: got no items, expected one at least{members}"
        first = pq.read_table(self._folder / ASIDE).slice(0, 1).to_pylist()[0]
        columns = f"; columns not used: {as_text(unused)}" if unused else ""
        return f"data: none of {lost} items could be scored; {first['id']}: {first['reason']}{columns}"

    def merge(self, windows: Sequence[Window], schema: pa.Schema) -> Iterator[pa.Table]:
        """Write the tables of all windows as one; gives what is scored of each window on the way.

        An id that was there before is set aside.
        """
        twice, seen = self._repeated(windows), set[str]()
        aside_schema = pa.schema([(name, pa.string()) for name in ("id", "source", "reason")])
        items_schema = schema.remove(schema.get_field_index("reason"))
        with (
            _table(self._folder / ITEMS, items_schema) as add_items,
            _table(self._folder / ASIDE, aside_schema) as add_aside,
        ):
            for window in windows:
                table = self.read(window)
                reasons = table["reason"].to_pylist()
                for row in np.flatnonzero(np.isin(_hashes(table), twice)):
                    id_ = table["id"][int(row)].as_py()
                    if reasons[row] is None and id_ in seen:
                        reasons[row] = _SECOND
                    elif reasons[row] is None:
                        seen.add(id_)
                wrong = np.array([reason is not None for reason in reasons], bool)
                lost = table.filter(wrong)["id"].to_pylist()
                why = [reason for reason in reasons if reason is not None]
                add_aside(pa.table([lost, [window.path] * len(lost), why], schema=aside_schema))
                scored = table.filter(~wrong).drop_columns("reason")
                add_items(scored)
                yield scored

    def _repeated(self, windows: Sequence[Window]) -> np.ndarray:
        """The hashes that several ids have: all of equal ids, and hardly another."""
        hashes = [_hashes(self.read(window, ["id"])) for window in windows]
        found, counts = np.unique(np.concatenate([*hashes, np.zeros(0, np.int64)]), return_counts=True)
        return found[counts > 1]

    def finish(self, totals: Mapping[str, Any]) -> None:
        """Write the totals and forget the state: last of it what was run, so that what is left is known."""
        with whole_file(self._folder / TOTALS) as file:
            file.write(as_json(totals))
        self._forget_parts()
        self._about.unlink()
        self._forget_state()


@contextlib.contextmanager
def _table(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Adds tables to a Parquet file, which has row groups of one size."""
    waiting: list[pa.Table] = []
    group = _GROUP_OF_ARRAYS if any(map(pa.types.is_nested, schema.types)) else _GROUP

    def write(rows: int) -> None:
        table = pa.concat_tables([schema.empty_table(), *waiting])
        writer.write_table(table.slice(0, rows), row_group_size=group)
        waiting[:] = [table.slice(rows)]

    def add(table: pa.Table) -> None:
        waiting.append(table)
        rows = sum(map(len, waiting))
        if rows >= group:
            write(rows - rows % group)

    with whole_file(path) as file, pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
        yield add
        write(sum(map(len, waiting)))


def _hashes(table: pa.Table) -> np.ndarray:
    ids = table["id"].to_pylist()
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in a part.

    Raises:
        ValueError: it is not what was written.
    """
    content = path.read_bytes()
    table, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(table).digest() != digest:
        raise ValueError(f"{path}: damaged")
    return pq.read_table(pa.BufferReader(table), columns=columns and list(columns))


def as_json(content: Mapping[str, Any]) -> bytes:
    """Equal contents give equal bytes; a number that is not finite is a string."""
    return (json.dumps(plain(content), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def plain(content: Any) -> Any:
    """The same with strings for the numbers that JSON does not know: ``inf``, ``-inf``, ``nan``."""
    if isinstance(content, Mapping):
        return {name: plain(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def _read_about(folder: Path, path: Path) -> Mapping[str, Any]:
    """What an unfinished run is of."""
    try:
        about = json.loads(path.read_bytes())
    except (RecursionError, ValueError) as error:
        about = error
    if not isinstance(about, Mapping):
        raise ValueError(
            f"out: got {folder}, whose {path.relative_to(folder)} is damaged, expected another folder"
        )
    return about


def _refuse_another(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    name = next(name for name in sorted({*before, *now}) if before.get(name) != now.get(name))
    raise ValueError(
        f"out: got {folder}, which holds an unfinished run {_OTHER.get(name, f'with another {name}')}: "
        "resume it with the same call as before, give another folder, or delete this one"
    )
