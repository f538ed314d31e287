"""What is wrong with the data, and what with the system: the one sets items aside, the other ends a run."""

from __future__ import annotations

import errno
import lzma
import os
import re
import struct
import tarfile
import tokenize
import zipfile
import zlib

import pyarrow as pa

# what parsers raise for bytes that are not what they should be
_OF_DATA = (
    ValueError,
    LookupError,
    OverflowError,
    EOFError,
    SyntaxError,
    NotImplementedError,
    RecursionError,
    lzma.LZMAError,
    pa.ArrowException,
    struct.error,
    tarfile.TarError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_PLACES = {None, errno.EINVAL, errno.EOVERFLOW}  # a seek to a place that a file says and cannot have


def unreadable(error: Exception) -> str:
    """What is wrong with the content of a shard. What is wrong with the system is raised on.

    A file that is not there, a broken connection or a full memory say nothing of the data: the run stops
    there and can be taken up again.
    """
    if not _of_data(error):
        raise error
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return f"unreadable: {text}"


def _of_data(error: Exception) -> bool:
    if isinstance(error, MemoryError):  # asked for more than there can be: the file says so
        sizes = re.findall(r"\d+", str(error))
        return max(map(int, sizes), default=0) > _memory()
    if isinstance(error, OSError):  # Arrow's have no number; those of a type of their own are the system's
        return type(error) is OSError and error.errno in _PLACES
    return isinstance(error, _OF_DATA)


def _memory() -> int:
    """The machine's, in bytes."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return 1 << 40
