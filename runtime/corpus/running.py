"""A run over a corpus: windows are scored here or by other processes, kept, and put together in the end."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .about import about
from .notes import notes_of
from .priors import estimated
from .reading import WINDOW_BYTES, Window, by_run, fingerprint, refuse_among, shards, windows
from .results import Results
from .scorer import Scorer
from .totals import Totals

_AHEAD = 2  # windows that a worker knows of

Scored = Generator[tuple[Window, pa.Table], None, None]  # the table of each window, in any order
Progress = Callable[[int, int, float, Mapping[str, float]], None]


def score_corpus(
    scorer: Scorer,
    data: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    ray: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    window_bytes: int = WINDOW_BYTES,
) -> dict[str, Any]:
    """Score a corpus into a folder, or resume an interrupted run.

    The results are the same to the last bit for any number of workers, any batches, and wherever a run was
    interrupted.

    Args:
        scorer: the scorer of the graph.
        data: files, folders, patterns, or URLs of them.
        out: the folder for the results.
        workers: the number of processes, each with one thread of ONNX Runtime if there are several. They are
            spawned: a script that uses them keeps its own work under ``if __name__ == "__main__"``.
        ray: the address of a Ray cluster whose actors are the workers, or ``"local"``.
        strict: stop at the first item that cannot be scored, instead of setting it aside.
        progress: called from time to time with the number of items done, the number of those set aside, the
            items per second, and the value of each output so far.
        window_bytes: the approximate size of a window of data; a resumed run repeats at most one.

    Returns:
        The content of ``totals.json``, where a number that is not finite is a string. In `data`, `damaged`
        says of a shard why it may have more items than were found. If the scorer estimates `priors`, they
        have `log_priors`, the logarithm of each class's mean probability; `frames`, over how many; and
        `left_out`, the number of items whose scores are no log-probabilities. A class that comes to less than
        a frame in all counts as one frame.

    Raises:
        ValueError: the data or the folder are not valid, the folder is among the data, no item could be
            scored, or `strict` is set and one could not.
        BlockingIOError: another run is writing to the folder.
        OSError: a shard is missing, the disk is full, or no cluster answers. The same call resumes the run.
        RuntimeError: a worker died. The same call resumes the run; Ray starts another worker first.
        ModuleNotFoundError: `ray` is set, but Ray is not installed.

    Examples:
        Where ``ctc_loss.onnx`` is an exported loss and ``dev.parquet`` has a column for each of its inputs::

            score_corpus(Scorer("ctc_loss.onnx"), ["dev.parquet"], "scores")["totals"]["loss"]["value"]
    """
    if workers < 1:
        raise ValueError(f"workers: got {workers}, expected one or more")
    score = _way(scorer, workers, ray)
    paths = shards(data)
    refuse_among(data, out)
    what = about(scorer)
    of = [[path, fingerprint(path)] for path in paths]
    priors = {"priors": True} if scorer.settings["priors"] else {}
    with Results(out, {**what, **priors, "data": of, "window_bytes": window_bytes}) as results:
        seen = _Seen(scorer, strict, progress)
        for table in results.parts():
            seen.add(table, before=True)
        planned: list[Window] = []

        def left() -> Iterator[Window]:
            for window in windows(paths, scorer.columns, window_bytes):
                if window.lost:  # because of a disk that is away for now, perhaps
                    _check_unchanged([of[window.shard]])
                planned.append(window)
                if not results.has(window):
                    yield window

        with contextlib.closing(score(left())) as scored:
            for window, table in scored:
                seen.add(table)
                results.write(window, table)
        _check_unchanged(of)
        return _finish(scorer, results, planned, paths, what)


def _check_unchanged(of: Sequence[Sequence[str]]) -> None:
    """Hold shards to the fingerprints that they had when the run began."""
    for path, before in of:
        if fingerprint(path) != before:
            raise ValueError(f"data: {path} changed while it was scored, expected it to stay as it is")


def _way(scorer: Scorer, workers: int, ray: str | None) -> Callable[[Iterator[Window]], Scored]:
    """Who scores: this process, others, or a cluster."""
    if ray is not None:
        from . import cluster  # Ray is loaded where it is asked for

        return functools.partial(cluster.score, scorer, workers=workers, address=ray)
    return functools.partial(_spread, scorer, workers=workers) if workers > 1 else scorer.score


class _Seen:
    """What has come in so far, for whoever watches."""

    def __init__(self, scorer: Scorer, strict: bool, progress: Progress | None) -> None:
        self._totals = Totals(scorer.batches.totals)
        self._strict, self._progress = strict, progress
        self._start, self._before = time.perf_counter(), 0
        self._items = self._aside = 0

    def add(self, table: pa.Table, before: bool = False) -> None:
        """Count the items of a window; `before`: an earlier call scored them.

        Raises:
            ValueError: one is set aside, and none may be.
        """
        wrong = table.filter(pc.is_valid(table["reason"]))
        if self._strict and len(wrong):
            first = wrong.slice(0, 1).to_pylist()[0]
            raise ValueError(f"{first['id']}: {first['reason']}")
        self._items, self._aside = self._items + len(table), self._aside + len(wrong)
        if self._progress is None:
            return
        _add(self._totals, table.filter(pc.is_null(table["reason"])))
        self._before += len(table) * before
        try:
            means = {name: found["value"] for name, found in self._totals.result().items()}
        except ValueError:  # nothing that counts yet
            means = {}
        rate = (self._items - self._before) / (time.perf_counter() - self._start)
        self._progress(self._items, self._aside, rate, means)


def _add(totals: Totals, table: pa.Table) -> None:
    """Add items to running totals."""
    if not len(table):
        return
    columns = {}
    for name in (name for name in table.column_names if name in totals.columns):
        column = table[name].combine_chunks()
        if pa.types.is_list(column.type):
            columns[name] = column.flatten().to_numpy().reshape(len(table), -1)
        else:
            columns[name] = column.to_numpy()
    if columns:
        totals.add(columns)


def _finish(
    scorer: Scorer,
    results: Results,
    planned: Sequence[Window],
    paths: Sequence[str],
    what: Mapping[str, Any],
) -> dict[str, Any]:
    """Put all windows together, and forget the state."""
    totals = Totals(scorer.batches.totals)
    rows, items, lost = [0] * len(paths), 0, 0
    damaged = {window.shard: window.lost for window in planned if window.lost}
    kept: dict[str, list[np.ndarray]] = {}
    unused: dict[str, str] = {}
    for window in planned:
        unused |= {name: close or unused.get(name, "") for name, close in window.unused.items()}
    rounded: dict[str, list[str]] = {}
    priors: list[dict[str, Any]] = []
    merged = results.merge(planned, scorer.schema)
    for window, table in zip(planned, merged, strict=True):
        rows[window.shard] += 0 if window.lost else window.rows
        items, lost = items + len(table), lost + window.rows - len(table)
        notes = notes_of(table)
        rounded |= notes.get("rounded", {})
        priors += [notes["priors"]] if "priors" in notes else []
        if scorer.batches.whole:
            for name in scorer.columns:
                kept.setdefault(name, []).append(table[name].combine_chunks().flatten().to_numpy())
        else:
            _add(totals, table)
    if not items:
        raise ValueError(results.nothing(lost, paths, unused))
    if scorer.batches.whole:
        outputs = scorer.session(**{name: np.concatenate(arrays) for name, arrays in kept.items()})
        found: Mapping[str, Any] = {name: {"value": float(outputs[name])} for name in scorer.batches.totals}
    else:
        found = totals.result()
    data: list[dict[str, Any]] = [
        {"path": path, "rows": count} for path, count in zip(paths, rows, strict=True)
    ]
    for shard, reason in damaged.items():
        data[shard]["damaged"] = reason
    summary = {**what, "format": 1, "data": data, "items": items, "set_aside": lost, "totals": found}
    if rounded:
        summary["rounded"] = rounded
    if unused:
        summary["unused"] = unused
    if priors:
        summary["priors"] = estimated(priors)
    results.finish(summary)
    return summary


def _spread(scorer: Scorer, windows: Iterator[Window], workers: int) -> Scored:
    """What `Scorer.score` gives, in any order, from processes of their own."""
    settings = {**scorer.settings, "threads": scorer.settings["threads"] or 1}
    make = functools.partial(type(scorer), **settings)
    context = multiprocessing.get_context("spawn")
    runs = by_run(windows)
    processes: dict[Connection, Any] = {}
    waiting: dict[Connection, list[Window]] = {}
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, make), daemon=True)
            process.start()
            theirs.close()
            processes[ours], waiting[ours] = process, []
        while processes:
            for worker in list(processes):
                while len(waiting[worker]) < _AHEAD and (run := next(runs, None)):
                    worker.send(run)
                    waiting[worker] += run
                if not waiting[worker]:
                    worker.send(None)
                    processes.pop(worker).join()
            ready = wait(list(processes)) if processes else []
            for worker in [each for each in processes if each in ready]:
                result = worker.recv()
                if isinstance(result, Exception):
                    raise result
                del waiting[worker][0]
                yield result
    except (EOFError, ConnectionError) as error:
        raise RuntimeError(_died([(each, waiting[end]) for end, each in processes.items()])) from error
    finally:
        for process in processes.values():
            process.kill()


def _died(workers: Sequence[tuple[Any, Sequence[Window]]]) -> str:
    """What a worker has died of, and over which data: the same data may kill the next one."""
    for process, waiting in workers:
        process.join(1)
        if process.exitcode is not None and process.exitcode < 0 and process.exitcode != -signal.SIGKILL:
            of = signal.Signals(-process.exitcode).name
            over = f" over {waiting[0].path}, from row {waiting[0].start}" if waiting else ""
            return f"workers: one died of {of}{over}; the same call goes on"
    return "workers: one died, for want of memory perhaps; the same call goes on"


def _work(main: Connection, make: Callable[[], Scorer]) -> None:
    """A worker: scores the runs of windows that come until nothing does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one hears it too
    try:
        runs = iter(main.recv, None)
        for result in make().score(itertools.chain.from_iterable(runs)):
            main.send(result)
    except (EOFError, ConnectionError):
        pass  # the process that started this one is gone
    except Exception as error:
        main.send(error)
