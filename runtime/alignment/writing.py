"""Words of a whole corpus, written in the formats that are asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import whole_file
from .formats import audacity, ctm, json_line, srt, textgrid, vtt
from .words import Word

Write = Callable[[str, Sequence[Word], float], None]  # an item: its id, its words, and its seconds

_APART = {
    "textgrid": (textgrid, "TextGrid"),
    "srt": (srt, "srt"),
    "vtt": (vtt, "vtt"),
    "audacity": (audacity, "txt"),
}
_TOGETHER = {"ctm": (ctm, "words.ctm"), "json": (json_line, "words.jsonl")}
_TABLE = "parquet", "words.parquet"
_LONGEST = 180  # of the 255 bytes that a file's name may have
FORMATS = (*_TOGETHER, *_APART, _TABLE[0])

_TOKEN = [("text", pa.string()), *((name, pa.float64()) for name in ("start", "end", "confidence"))]
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("number", pa.int64()),
        *_TOKEN,
        ("wildcard", pa.bool_()),
        ("tokens", pa.list_(pa.struct(_TOKEN))),
    ]
)
_GROUP = 1 << 16  # rows of a row group


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a format that is none."""
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"formats: got {name}, expected {', '.join(FORMATS)}")


@contextlib.contextmanager
def writers(folder: Path, formats: Sequence[str]) -> Iterator[Write]:
    """Writes items in `formats` to `folder`.

    ``words.ctm``, ``words.jsonl`` and ``words.parquet`` have all of them; of the others each item has a file,
    ``textgrid/ID.TextGrid`` say, the id written as in a URL.
    """
    with contextlib.ExitStack() as stack:
        each: list[Write] = []
        for name in dict.fromkeys(formats):
            if name == _TABLE[0]:
                each.append(stack.enter_context(_table(folder / _TABLE[1])))
            elif name in _TOGETHER:
                each.append(stack.enter_context(_lines(folder / _TOGETHER[name][1], _TOGETHER[name][0])))
            else:
                each.append(_files(folder / name, *_APART[name]))

        def write(id_: str, words: Sequence[Word], duration: float) -> None:
            for one in each:
                one(id_, words, duration)

        yield write


@contextlib.contextmanager
def _lines(path: Path, text: Callable[[str, Sequence[Word], float], str]) -> Iterator[Write]:
    with whole_file(path) as file:

        def write(id_: str, words: Sequence[Word], duration: float) -> None:
            file.write(text(id_, words, duration).encode())

        yield write


def _files(folder: Path, text: Callable[[Sequence[Word], float], str], suffix: str) -> Write:
    folder.mkdir(exist_ok=True)

    def write(id_: str, words: Sequence[Word], duration: float) -> None:
        with whole_file(folder / f"{_name(id_)}.{suffix}") as file:
            file.write(text(words, duration).encode())

    return write


def _name(id_: str) -> str:
    """An id as the name of a file; of a long one the beginning, and a digest of all."""
    name = quote(id_, safe=" ")
    if len(name) <= _LONGEST:
        return name
    return f"{re.sub('%.?$', '', name[:_LONGEST])}-{hashlib.sha256(id_.encode()).hexdigest()[:16]}"


@contextlib.contextmanager
def _table(path: Path) -> Iterator[Write]:
    rows: list[dict[str, object]] = []
    with whole_file(path) as file, pq.ParquetWriter(file, _SCHEMA) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
            rows.clear()

        def write(id_: str, words: Sequence[Word], duration: float) -> None:
            rows.extend(
                {"id": id_, "number": number, **dataclasses.asdict(word)} for number, word in enumerate(words)
            )
            if len(rows) >= _GROUP:
                flush()

        yield write
        flush()
