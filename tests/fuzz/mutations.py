"""What happens to files: bits that flip, bytes that are lost or come twice, numbers that are others."""

import random
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from exportable_losses.runtime.corpus.footer import _Thrift

NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    1 << 30,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    (1 << 64) - 1,
)
BLOCK = 512
_COMPRESSED = 3  # field of the header of a page: its size


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One to three things that happen to files."""
    found = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choice(MUTATIONS)(found, chance)
    return bytes(found)


def place(content: bytearray, chance: random.Random, size: int = 1) -> int:
    at = chance.randrange(max(1, len(content) - size + 1))
    return at // BLOCK * BLOCK if chance.random() < 0.2 else at


def flip(content: bytearray, chance: random.Random) -> None:
    if content:
        content[place(content, chance)] ^= 1 << chance.randrange(8)


def number(content: bytearray, chance: random.Random) -> None:
    size = chance.choice((1, 2, 4, 8))
    value = (chance.choice(NUMBERS) + chance.choice((-1, 0, 0, 1))) % (1 << 8 * size)
    at = place(content, chance, size)
    content[at : at + size] = value.to_bytes(size, chance.choice(("little", "big")))


def noise(content: bytearray, chance: random.Random) -> None:
    size = chance.choice((1, 4, 16, 100))
    at = place(content, chance, size)
    content[at : at + size] = chance.randbytes(size)


def zeros(content: bytearray, chance: random.Random) -> None:
    size = chance.choice((4, 64, BLOCK))
    at = place(content, chance, size)
    content[at : at + size] = bytes(size)


def insert(content: bytearray, chance: random.Random) -> None:
    at = place(content, chance)
    content[at:at] = chance.randbytes(chance.choice((1, 8, BLOCK)))


def remove(content: bytearray, chance: random.Random) -> None:
    size = chance.choice((1, 8, 64, BLOCK, 2 * BLOCK))
    at = place(content, chance, size)
    del content[at : at + size]


def repeat(content: bytearray, chance: random.Random) -> None:
    size = chance.choice((8, 64, BLOCK, 2 * BLOCK))
    at, to = place(content, chance, size), place(content, chance)
    content[to:to] = content[at : at + size]


def swap(content: bytearray, chance: random.Random) -> None:
    size = chance.choice((1, 8, BLOCK))
    a, b = sorted(place(content, chance, size) for _ in range(2))
    if b + size <= len(content) and a + size <= b:
        content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]


def cut(content: bytearray, chance: random.Random) -> None:
    del content[place(content, chance) :]


def append(content: bytearray, chance: random.Random) -> None:
    content += chance.choice((bytes(BLOCK), chance.randbytes(100), bytes(content)))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip, flip, flip, number, number, number, noise, zeros, insert, remove, repeat, swap, cut, append,
)  # fmt: skip


def forged(whole: bytes) -> bytes:
    """A tar with the checksums that its headers ought to have: what they say is then what there is."""
    content = bytearray(whole)
    for at in range(0, len(content) - BLOCK + 1, BLOCK):
        if content[at + 257 : at + 262] == b"ustar":
            content[at + 148 : at + 156] = b" " * 8
            content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + BLOCK])
    return bytes(content)


def in_a_page(content: bytes, chance: random.Random) -> bytes:
    """The same within a page of a Parquet file: its header has no checksum."""
    start, end = chance.choice(pages(content))
    return content[:start] + mutated(content[start:end], chance) + content[end:]


def pages(content: bytes) -> list[tuple[int, int]]:
    """Where pages begin and end, without their headers; a column of a row group has one alone."""
    about = pq.ParquetFile(pa.BufferReader(content)).metadata
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    found = []
    for column in [group.column(i) for group in groups for i in range(about.num_columns)]:
        start = column.data_page_offset
        end = start + column.total_compressed_size
        size = _Thrift(content[start:end]).structure()[_COMPRESSED]
        found.append((end - size, end))
    return found
