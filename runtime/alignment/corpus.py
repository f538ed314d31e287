"""A corpus aligned: the transcripts become targets, `score_corpus` runs `CTCAlign`, and words come of it."""

from __future__ import annotations

import collections
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..corpus.about import about
from ..corpus.columns import column_of
from ..corpus.formats import is_url
from ..corpus.reading import WINDOW_BYTES, Reader, shards, windows
from ..corpus.results import ASIDE, ITEMS, TOTALS, as_json
from ..corpus.running import Progress, score_corpus
from ..files import refuse_overwriting
from .aligner import Aligner, as_text
from .recordings import in_folder, named_in
from .report import AlignedItem, write_report
from .tokens import WILDCARD, Spelling
from .words import ALIGNMENT, check_times, timed
from .writing import check_formats, writers

_ROWS = 256  # of items.parquet that are read at a time


def align_corpus(
    aligner: Aligner,
    data: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    hop: float,
    offset: float = 0.0,
    formats: Sequence[str] = ("json",),
    report: str | os.PathLike[str] | None = None,
    audio: str | os.PathLike[str] | None = None,
    workers: int = 1,
    ray: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    window_bytes: int = WINDOW_BYTES,
) -> dict[str, Any]:
    """Align a corpus with its transcripts into a folder, or resume an interrupted run.

    The folder is one of `score_corpus`, whose ``items.parquet`` has the tokens of each item, their starts and
    ends in frames, and their scores; beside it are the words in seconds. Called again for a finished run,
    with other formats say, it writes the words and the report only.

    Args:
        aligner: of the graph, the tokens and the transcripts.
        data: files, folders, patterns, or URLs of them: a column `log_probs` ``[T, C]``, or what the model
            takes.
        out: the folder for the results.
        hop: the seconds from one frame of the scores to the next.
        offset: the seconds at which the first frame begins.
        formats: of ``ctm``, ``json``, ``parquet`` (a file for all items), ``textgrid``, ``srt``, ``vtt`` and
            ``audacity`` (a file for each item, in a folder of that name).
        report: the page of HTML to write, on which words are seen and heard; see `write_report`.
        audio: the recordings that it plays: a folder of files named by id, or the column of their paths,
            which begin in the folder of their shard or in the working directory.
        workers: as in `score_corpus`.
        ray: as in `score_corpus`.
        strict: as in `score_corpus`.
        progress: as in `score_corpus`.
        window_bytes: as in `score_corpus`.

    Returns:
        What `score_corpus` returns, and `words`, how many there are; `wildcards` has the number of words with
        wildcards of each item that has some, by id; `unmatched`, the ids of transcripts of no item; `heard`,
        if there is a report, for how many items there are recordings.

    Raises:
        ValueError: as `score_corpus` does; or `hop` is not positive, `offset` is no number, a format is
            unknown, two lines of the transcripts have one id, the report is a file that is read, or `audio`
            is neither a folder nor a column, or without a report.
        BlockingIOError: as `score_corpus` does.
        OSError: as `score_corpus` does.
        RuntimeError: as `score_corpus` does.

    Examples:
        Where ``align.onnx`` is an exported `CTCAlign`, and ``dev.parquet`` has `log_probs` and `text`::

            aligner = Aligner("align.onnx", "tokens.txt")
            align_corpus(aligner, ["dev.parquet"], "aligned", hop=0.02, formats=["ctm", "textgrid"])
    """
    check_times(hop, offset)
    check_formats(formats)
    paths = shards(data)
    _check_report(aligner, paths, out, report, audio)
    if aligner.transcripts is not None:
        aligner.transcripts = aligner.transcripts.of_corpus(_ids(aligner, paths))
        aligner.settings["transcripts"] = aligner.transcripts
    found = _finished(aligner, paths, out)
    if found is None:
        how: dict[str, Any] = {"workers": workers, "ray": ray, "strict": strict, "progress": progress}
        found = score_corpus(aligner, data, out, window_bytes=window_bytes, **how)
    unused = {name: close for name, close in found.get("unused", {}).items() if name != audio}
    found = {name: value for name, value in found.items() if name != "unused"}
    found |= {"unused": unused} if unused else {}
    count, heard = 0, 0
    wildcards: dict[str, int] = {}

    def written() -> Iterator[AlignedItem]:
        nonlocal count, heard
        sounds = None if report is None else audio
        for item in _aligned(aligner, paths, Path(out), sounds, window_bytes):
            words = timed(item.alignment, item.spelling, aligner.vocabulary.names, hop, offset)
            seconds = max(offset + item.frames * hop, 0.0)
            write(item.id, words, seconds)
            count += len(words)
            heard += item.audio is not None and item.audio.is_file()
            if unknown := sum(word.wildcard for word in words):
                wildcards[item.id] = unknown
            yield AlignedItem(item.id, words, seconds, item.audio)

    with writers(Path(out), formats) as write:
        if report is None:
            collections.deque(written(), maxlen=0)
        else:
            write_report(Path(report), written(), title=_title(paths), set_aside=_set_aside(Path(out)))
    found |= {"words": count, "wildcards": wildcards, "unmatched": _unmatched(aligner, Path(out))}
    return found if report is None else {**found, "heard": heard}


def _unmatched(aligner: Aligner, out: Path) -> list[str]:
    """The ids of transcripts that no item has: lines of a text that is not what it was taken for, perhaps."""
    if aligner.transcripts is None:
        return []
    ids: set[str] = set()
    for name in (ITEMS, ASIDE):
        ids.update(pq.read_table(out / name, columns=["id"])["id"].to_pylist())
    return [id_ for id_ in aligner.transcripts.texts if id_ not in ids]


def _check_report(
    aligner: Aligner,
    paths: Sequence[str],
    out: str | os.PathLike[str],
    report: str | os.PathLike[str] | None,
    audio: str | os.PathLike[str] | None,
) -> None:
    """Refuse a report that cannot be written, before hours of work."""
    if report is None:
        if audio is not None:
            raise ValueError(f"audio: got {os.fspath(audio)} without a report, expected one")
        return
    read = [aligner.settings["graph"], aligner.settings["model"], *(p for p in paths if not is_url(p))]
    read += [Path(out, name) for name in (ITEMS, ASIDE, TOTALS)]
    refuse_overwriting("report", report, *(path for path in read if path is not None))
    if audio is not None and not Path(audio).is_dir():
        names = (window.unused for window in windows(paths, aligner.columns))
        if audio not in aligner.columns and not any(audio in unused for unused in names):
            got = f"got {os.fspath(audio)}, which is neither"
            raise ValueError(f"audio: {got}, expected a folder of recordings or a column of their paths")


def _title(paths: Sequence[str]) -> str:
    """The heading of the report."""
    first = paths[0].rstrip("/").rpartition("/")[2]
    return f"{first} and {len(paths) - 1} more" if len(paths) > 1 else first


def _set_aside(out: Path) -> list[tuple[str, str]]:
    """The items that could not be aligned, and why."""
    found = pq.read_table(out / ASIDE, columns=["id", "reason"])
    return list(zip(found["id"].to_pylist(), found["reason"].to_pylist(), strict=True))


def _finished(aligner: Aligner, paths: Sequence[str], out: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The totals of a finished run of this very aligner on these data, if the folder holds one.

    Files that were written since, or took the place of others (a copy may keep an old time), are other data:
    `score_corpus` then refuses the folder. Whether what is behind a URL has changed is not asked.
    """
    path = Path(out, TOTALS)
    if not path.exists() or Path(out, "state").exists():
        return None
    finished = path.stat().st_mtime_ns
    files = [os.stat(each) for each in paths if os.path.exists(each)]
    if any(max(file.st_mtime_ns, file.st_ctime_ns) > finished for file in files):
        return None
    found: dict[str, Any] = json.loads(path.read_bytes())
    what = json.loads(as_json(about(aligner)))
    same = all(found.get(name) == value for name, value in what.items())
    return found if same and [each["path"] for each in found["data"]] == list(paths) else None


def _ids(aligner: Aligner, paths: Sequence[str]) -> Iterator[str]:
    reader = Reader(aligner.columns, only=())
    for window in windows(paths, aligner.columns):
        for rows in reader.read(window):
            yield from map(str, rows.ids)


@dataclass(frozen=True)
class _Told:
    """What the data say of an item besides its scores."""

    id: str
    text: str | None
    audio: Path | None


def _told(aligner: Aligner, paths: Sequence[str], audio: str | None, window_bytes: int) -> Iterator[_Told]:
    """What is told of all items, in the order of the data.

    The windows are those of the run: what is damaged costs rows that are read together with it.
    """
    text = aligner.text if aligner.transcripts is None else None
    named = [name for name in (text, audio) if name is not None]
    columns = list(dict.fromkeys([*aligner.columns, *named]))
    reader = Reader(columns, only=named)
    for window in windows(paths, columns, window_bytes):
        for rows in reader.read(window):
            of: list[Any] = [rows.columns.get(name or "", itertools.repeat(None)) for name in (text, audio)]
            for id_, said, path in zip(rows.ids, *of, strict=False):
                sound = _text_or_none("audio", path)
                where = named_in(window.path, sound) if sound else None
                yield _Told(str(id_), _text_or_none("text", said), where)


def _text_or_none(name: str, array: np.ndarray | None) -> str | None:
    try:
        return None if array is None else as_text(name, array)
    except ValueError:  # of a text: it was set aside
        return None


@dataclass(frozen=True)
class _Aligned:
    """An item that was aligned."""

    id: str
    frames: int
    alignment: Mapping[str, np.ndarray]
    spelling: Spelling
    audio: Path | None


def _aligned(
    aligner: Aligner,
    paths: Sequence[str],
    out: Path,
    audio: str | os.PathLike[str] | None,
    window_bytes: int,
) -> Iterator[_Aligned]:
    """All items that were aligned, in the order of the data."""
    folder = Path(audio) if audio is not None and Path(audio).is_dir() else None
    column = None if audio is None or folder else os.fspath(audio)
    known = aligner.transcripts is not None and column is None
    told = None if known else _told(aligner, paths, column, window_bytes)
    with pq.ParquetFile(out / ITEMS) as file:
        for batch in file.iter_batches(_ROWS, columns=["id", "size", *ALIGNMENT]):
            columns = [column_of(name, batch[name])[0] for name in ALIGNMENT]
            ids, sizes = batch["id"].to_pylist(), batch["size"].to_pylist()
            for id_, frames, *arrays in zip(ids, sizes, *columns, strict=True):
                alignment = dict(zip(ALIGNMENT, arrays, strict=True))
                spelling, sound = _spelling(aligner, id_, alignment["tokens"], told)
                yield _Aligned(id_, frames, alignment, spelling, in_folder(folder, id_) if folder else sound)


def _spelling(
    aligner: Aligner, id_: str, tokens: np.ndarray, told: Iterator[_Told] | None
) -> tuple[Spelling, Path | None]:
    """What was aligned in an item, and its recording: the next text of its id that is spelled so."""
    for each in told if told is not None else [_Told(id_, None, None)]:
        if each.id != id_:
            continue
        try:
            spelling = aligner.spell(id_, each.text)
        except ValueError:  # it was set aside, and another of the same id was aligned
            continue
        labels = np.array(spelling.labels)
        if len(labels) == len(tokens) and ((labels == tokens) | (labels == WILDCARD)).all():
            return spelling, each.audio
    raise ValueError(f"data: got no transcript of {id_} that was aligned, expected unchanged data")
