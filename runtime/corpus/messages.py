"""The messages that an Arrow file or stream is made of, counted whatever Arrow makes of them.

To Arrow a stream is whole that is cut off between two batches, and a file whose footer lacks one. Each
message says what it is and how long: https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format
"""

from __future__ import annotations

import struct
from typing import IO

_MAGIC = 8  # bytes of a file before its first message, with what fills them up
_MARK = b"\xff\xff\xff\xff"  # before the length of a message, but of old files
_BATCH = 3  # what a message is whose header is a batch
_HEADER, _BODY = 1, 3  # fields of a message: what its header is, and the length of its body


def check_stream(file: IO[bytes]) -> None:
    """Hold a stream to have its end, and nothing behind.

    Raises:
        ValueError: it has not.
    """
    size = file.seek(0, 2)
    _, at, ended = _messages(file, 0, size)
    if not ended:
        raise ValueError(f"cut off at byte {at}")
    if at != size:
        raise ValueError(f"{size - at} bytes behind its end, at byte {at}")


def check_file(file: IO[bytes], batches: int) -> None:
    """Hold a file to have as many batches as its footer has.

    Raises:
        ValueError: it has not.
    """
    end = file.seek(-10, 2)
    (footer,) = struct.unpack("<i", file.read(4))
    found, _, _ = _messages(file, _MAGIC, end - footer)
    if found != batches:
        raise ValueError(f"{found} batches, of which its footer has {batches}")


def _messages(file: IO[bytes], at: int, end: int) -> tuple[int, int, bool]:
    """How many batches begin at a byte, where they end, and whether a mark of the end is there."""
    found = 0
    while at < end:
        file.seek(at)
        start = file.read(8)
        marked = start.startswith(_MARK)
        (length,) = struct.unpack_from("<i", start, 4 * marked)
        at += 4 + 4 * marked
        if length == 0:
            return found, at, True
        file.seek(at)
        message = file.read(length) if 0 < length <= end - at else b""
        body = _field(message, _BODY, "<q")
        if body < 0:
            raise ValueError(f"a message with a body of {body} bytes, at byte {at}")
        found += _field(message, _HEADER, "<B") == _BATCH
        at += length + body
    if at > end:
        raise ValueError(f"a message that ends at byte {at}, behind the last one at {end}")
    return found, at, False


def _field(table: bytes, number: int, kind: str) -> int:
    """A field of a FlatBuffers table; zero where it is not there."""
    (root,) = struct.unpack_from("<I", table)
    (back,) = struct.unpack_from("<i", table, root)
    fields = root - back
    (size,) = struct.unpack_from("<H", table, fields)
    place = 4 + 2 * number
    (offset,) = struct.unpack_from("<H", table, fields + place) if place < size else (0,)
    return struct.unpack_from(kind, table, root + offset)[0] if offset else 0
