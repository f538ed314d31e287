"""Files read and written so that nothing hangs, and nothing is half there."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def check_regular(argument: str, path: str | os.PathLike[str]) -> None:
    """Refuse what has no content of its own: opening a pipe waits for a writer, for ever perhaps.

    Raises:
        ValueError: `path` is no regular file, nor a link to one.
        OSError: it is not there.
    """
    kind = _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    if kind:
        raise ValueError(f"{argument}: got {os.fspath(path)}, which is {kind}, expected a file")


def leads_nowhere(path: str | os.PathLike[str]) -> str:
    """What is to be said of a link that leads to no file; nothing of anything else."""
    dangling = os.path.islink(path) and not os.path.exists(path)
    return f"a link to {os.readlink(path)}, where there is no file" if dangling else ""


def refuse_overwriting(argument: str, path: str | os.PathLike[str], *inputs: str | os.PathLike[str]) -> None:
    """Refuse to write to a file that is read, however its path is spelled.

    Raises:
        ValueError: `path` is one of `inputs`, or a link to it.
    """
    for each in inputs:
        if os.path.exists(path) and os.path.exists(each) and os.path.samefile(path, each):
            got = f"got {os.fspath(path)}, which is an input too"
            raise ValueError(f"{argument}: {got}, expected another file")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that is at `path` as a whole once the block ends without an error, and not at all before.

    What is no regular file, a terminal say, is written to as it is.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
