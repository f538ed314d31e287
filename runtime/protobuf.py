"""Messages of protobuf, read without its library: https://protobuf.dev/programming-guides/encoding/"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def message(content: bytes | memoryview) -> dict[int, list[Any]]:
    """The values of each field of a message: numbers, and the bytes of all else.

    Raises:
        ValueError: it is cut short, or no message.
    """
    found: dict[int, list[Any]] = {}
    for field, value in _fields(content):
        found.setdefault(field, []).append(value)
    return found


def _fields(content: bytes | memoryview) -> Iterator[tuple[int, int | bytes | memoryview]]:
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        if key & 7 == 0:
            value, at = _varint(content, at)
            yield key >> 3, value
            continue
        if key & 7 == 2:
            size, at = _varint(content, at)
        elif key & 7 in (1, 5):
            size = 8 if key & 7 == 1 else 4
        else:
            raise ValueError("got no message of protobuf, expected one of ONNX's")
        if at + size > len(content):
            raise ValueError("got what was cut short, expected a whole message")
        yield key >> 3, content[at : at + size]
        at += size


def integers(value: int | bytes | memoryview) -> Iterator[int]:
    """The integers of a repeated field: one, or several in one piece."""
    if isinstance(value, int):
        yield value - (1 << 64) * (value >> 63)
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number - (1 << 64) * (number >> 63)


def _varint(content: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number of protobuf, and where it ends."""
    number, shift = 0, 0
    while at < len(content) and shift < 70:
        byte = content[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number & ((1 << 64) - 1), at
    raise ValueError("got what was cut short, expected a whole message")
