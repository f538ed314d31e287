"""Where the recordings of a corpus are: in a folder, or where a column says."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from ..corpus.formats import is_url
from .sound import TYPES


def in_folder(folder: Path, id_: str) -> Path | None:
    """The recording of an item by its id, which may name folders in this one or be written as in a URL.

    Nothing where there is none; an id cannot lead out of the folder.
    """
    for name in dict.fromkeys((id_, quote(id_, safe=" "))):
        path = Path(folder, name)
        if ".." in path.parts[len(folder.parts) :] or folder not in path.parents:
            continue
        for suffix in TYPES:
            found = path.with_name(path.name + suffix)
            if os.path.isfile(found):
                return found
    return None


def named_in(shard: str, path: str) -> Path:
    """The recording that a row names: its path begins in the folder of the shard, or else where we are."""
    beside = Path("" if is_url(shard) else os.path.dirname(shard), path)
    return beside if os.path.exists(beside) else Path(path)
