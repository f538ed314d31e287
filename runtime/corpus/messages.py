"""How many batches are in an Arrow file, whatever its footer says.

A footer that lacks one is as whole as any to Arrow. The file is a stream of messages too, and each says
what it is and how long: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
"""

from __future__ import annotations

import struct
from typing import IO

_MAGIC = 8  # bytes before the first message, with what fills them up
_MARK = b"\xff\xff\xff\xff"  # before the length of a message, but of old files
_BATCH = 3  # what a message is whose header is a batch
_HEADER, _BODY = 1, 3  # fields of a message: what its header is, and the length of its body


def record_batches(file: IO[bytes]) -> int:
    """The number of messages that are batches of rows.

    Raises:
        ValueError: the messages do not lead to the footer.
    """
    size = file.seek(0, 2)
    file.seek(size - 10)
    (footer,) = struct.unpack("<i", file.read(4))
    at, end, found = _MAGIC, size - 10 - footer, 0
    while at < end:
        file.seek(at)
        start = file.read(8)
        marked = start.startswith(_MARK)
        (length,) = struct.unpack_from("<i", start, 4 * marked)
        if length == 0:  # the end of the stream
            break
        at += 4 + 4 * marked
        file.seek(at)
        message = file.read(length) if 0 < length <= end - at else b""
        body = _field(message, _BODY, "<q")
        if body < 0:
            raise ValueError(f"a message with a body of {body} bytes, at byte {at}")
        found += _field(message, _HEADER, "<B") == _BATCH
        at += length + body
    if at > end:
        raise ValueError(f"a message that ends at byte {at}, behind the last one at {end}")
    return found


def _field(table: bytes, number: int, kind: str) -> int:
    """A field of a FlatBuffers table; zero where it is not there."""
    (root,) = struct.unpack_from("<I", table)
    (back,) = struct.unpack_from("<i", table, root)
    fields = root - back
    (size,) = struct.unpack_from("<H", table, fields)
    place = 4 + 2 * number
    (offset,) = struct.unpack_from("<H", table, fields + place) if place < size else (0,)
    return struct.unpack_from(kind, table, root + offset)[0] if offset else 0
