"""What was said: a transcript for each id, from a file."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..files import check_regular


@dataclass(frozen=True)
class Transcripts:
    """What was said in each item.

    Args:
        texts: by id.
        whole: all of a plain text, which may be that of a single item.
        sha256: of the file.
        twice: what to say of an id that two lines have.
    """

    texts: Mapping[str, str]
    whole: str
    sha256: str
    twice: str = ""

    def of_corpus(self, ids: Iterable[str]) -> Transcripts:
        """The same for these items: a text that has no line for the only one is that one's, as a whole.

        Raises:
            ValueError: two lines have one id.
        """
        first = list(itertools.islice(ids, 2))
        if self.whole and len(first) == 1 and first[0] not in self.texts:
            return Transcripts({first[0]: self.whole}, self.whole, self.sha256)
        if self.twice:
            raise ValueError(self.twice)
        return self


def read_transcripts(path: str | os.PathLike[str]) -> Transcripts:
    """The transcripts in a file.

    Args:
        path: ``.jsonl`` or ``.json``: an object a line with `id` and `text`. Anything else is text: lines of
            an id and what was said, as Kaldi's ``text`` has them, or what was said in the only item.

    Raises:
        OSError: it is not there.
        ValueError: a line is not what it should be.
    """
    check_regular("transcripts", path)
    content = Path(path).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"transcripts: got {os.fspath(path)}, which is no UTF-8, expected text") from error
    as_json = Path(path).suffix in (".json", ".jsonl")
    texts: dict[str, str] = {}
    twice = ""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"transcripts: got {os.fspath(path)}, line {number}"
        id_, said = _object(line, where) if as_json else _line(line)
        if id_ in texts and not twice:
            twice = f"{where}, where {id_!r} is a second time, expected one line for each id"
        texts.setdefault(id_, said)
    return Transcripts(texts, "" if as_json else text, digest, twice)


def _object(line: str, where: str) -> tuple[str, str]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("text"), str) or "id" not in found:
        raise ValueError(f'{where}, expected an object like {{"id": "utt1", "text": "it rains"}}')
    return str(found["id"]), found["text"]


def _line(line: str) -> tuple[str, str]:
    id_, *said = line.split(maxsplit=1)
    return id_, said[0].strip() if said else ""
