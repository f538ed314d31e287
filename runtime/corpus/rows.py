"""What a shard gives: some rows of it at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .columns import Column

ID = "id"  # the column of names
GROUP_BYTES = 8 << 20  # what is read at a time


@dataclass(frozen=True)
class Rows:
    """Rows that follow one another.

    Args:
        ids: of each, where it has one.
        columns: the arrays of each input.
        wrong: what is wrong with some, by row.
    """

    ids: Sequence[str | None]
    columns: Mapping[str, Column]
    wrong: Mapping[int, str]


class Shard(Protocol):
    """A file that is open.

    Args:
        groups: rows and bytes of what it is made of: row groups, batches, items.
        divisible: whether a part of a group costs what the part does, and not what the group does.
        broken: why there may be more rows than `groups` has, if so.
        names: of its columns, those too that are not read.
    """

    groups: list[tuple[int, int]]
    divisible: bool
    broken: str
    names: Sequence[str]

    def read(self, group: int, start: int, stop: int) -> Iterator[Rows]:
        """Some rows of a group, some at a time."""
