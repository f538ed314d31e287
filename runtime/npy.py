"""Arrays of ``.npy`` content and ``.npz`` files, whatever their bytes are: none takes more than its data."""

from __future__ import annotations

import io
import math
import os
import zipfile
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy

from .files import check_regular

MOST = 4 << 30  # bytes of one array: what says that it has more is broken, or was made to fill the memory
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def array_of(content: bytes) -> np.ndarray:
    """The array of an ``.npy`` file with this content.

    Raises:
        ValueError: it is none, or has not as many numbers as it says.
    """
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(
            f"got version {version[0]}.{version[1]} of .npy, expected 1.0 or 2.0, as numbers have"
        )
    try:
        shape, by_column, dtype = _HEADERS[version](file)
    except (SyntaxError, TokenError) as error:  # a header is an expression of Python, which numpy mends first
        raise ValueError(f"got a header that is none: {error}") from error
    if dtype.hasobject:
        raise ValueError("got Python objects, expected numbers: they are read with allow_pickle=False")
    wanted, given = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if wanted != given or min(shape, default=0) < 0:
        raise ValueError(f"got {given:,} bytes for shape {list(shape)} of {dtype}, expected {wanted:,}")
    array: np.ndarray = np.ndarray(shape, dtype, content, file.tell(), order="F" if by_column else "C")
    return array if array.flags.aligned else array.copy()


def member(archive: zipfile.ZipFile, about: zipfile.ZipInfo) -> bytes:
    """The bytes of a member of a zip file.

    Raises:
        ValueError: it is encrypted, or larger than `MOST`; zipfile has many types for what is damaged.
    """
    if about.flag_bits & 1:
        raise ValueError("got an encrypted member, expected one that needs no password")
    check_size(about.file_size)
    return archive.read(about)


def check_size(size: int) -> None:
    """Refuse to read more than `MOST` bytes."""
    if not 0 <= size <= MOST:
        raise ValueError(f"got {size:,} bytes, expected at most {MOST:,}")


def arrays_in(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name.

    Raises:
        ValueError: it is no such file, or has something else in it.
        OSError: the system does not let us read it.
    """
    check_regular("path", path)
    found: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for about in archive.infolist():
                name = about.filename.removesuffix(".npy")
                if name == about.filename or name in found:
                    raise ValueError(f"got a member {about.filename}, expected arrays, each of its own name")
                found[name] = array_of(member(archive, about))
    except (MemoryError, OSError, ValueError):
        raise
    except Exception as error:  # zipfile, zlib and lzma have many types for what is damaged
        raise ValueError(str(error) or type(error).__name__) from error
    return found
