"""What the footer of a Parquet file says of its row groups, read without Arrow.

Arrow's own view of a column's metadata ends the process where a footer contradicts itself. The footer is a
Thrift structure in its compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import struct
from typing import IO, Any

_WIDTHS = {0: 1, 1: 4, 2: 8, 4: 4, 5: 8}  # of booleans, int32, int64, float, double, in bytes
_ROWS, _GROUPS = 3, 4  # fields of a file
_COLUMNS, _GROUP_ROWS = 1, 3  # of a row group
_METADATA = 3  # of a column
_TYPE, _VALUES, _UNCOMPRESSED = 1, 5, 6  # of its metadata


def row_groups(file: IO[bytes]) -> list[tuple[int, int]]:
    """Rows of each row group, and its bytes in memory: numbers that repeat take next to nothing in the file.

    Raises:
        ValueError: the footer contradicts itself.
    """
    file.seek(-8, 2)
    (size,) = struct.unpack("<i", file.read(4))
    file.seek(-8 - size, 2)
    try:
        return _row_groups(_Thrift(file.read(size)).structure())
    except (KeyError, TypeError) as error:  # something of another kind than the format has there
        raise ValueError(f"a footer that is none: {error}") from error


def _row_groups(about: dict[int, Any]) -> list[tuple[int, int]]:
    groups = []
    for group in about.get(_GROUPS, []):
        rows, bytes_ = group[_GROUP_ROWS], 0
        for column in group[_COLUMNS]:
            of = column[_METADATA]
            if not 0 <= rows <= of[_VALUES]:
                raise ValueError(f"a column of {of[_VALUES]} values in a group of {rows} rows")
            bytes_ += of[_VALUES] * _WIDTHS[of[_TYPE]] if of[_TYPE] in _WIDTHS else of[_UNCOMPRESSED]
        groups.append((rows, max(0, bytes_)))
    if about[_ROWS] != sum(rows for rows, _ in groups):
        raise ValueError(f"{about[_ROWS]} rows, of which its row groups have another number")
    return groups


class _Thrift:
    """Values of Thrift's compact protocol, one behind the other."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def structure(self) -> dict[int, Any]:
        found, field = {}, 0
        while (head := self._byte()) != 0:
            field = field + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            found[field] = kind == 1 if kind <= 2 else self._value(kind)
        return found

    def _value(self, kind: int) -> Any:
        if kind <= 3:
            return self._byte()
        if kind <= 6:
            return self._integer()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._number())
        if kind <= 10:
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._number()
            return [self._value(head & 15) for _ in range(size)]
        if kind == 12:
            return self.structure()
        raise ValueError(f"a value of kind {kind}, which no Parquet file has")

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _bytes(self, size: int) -> bytes:
        self._at += size
        return self._content[self._at - size : self._at]

    def _number(self) -> int:
        found = shift = 0
        while (byte := self._byte()) & 128:
            found |= (byte & 127) << shift
            shift += 7
        return found | byte << shift

    def _integer(self) -> int:
        found = self._number()
        return found >> 1 ^ -(found & 1)
