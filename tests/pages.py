"""The code blocks of the documentation, and what the words in its shell blocks do."""

import itertools
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/**/*.md")),
]
NOT_RUN = "(not run)"  # at the end of a heading: of what stands below it
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page: the file, from the root of the repository.
        line: where its first line stands there.
        language: as its fence has it; ``sh`` where that has none.
        code: what is in it.
        runs: whether no heading above it says that it does not.
    """

    page: str
    line: int
    language: str
    code: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 2
        code = textwrap.dedent(fence["code"])
        runs = not any(heading.endswith(NOT_RUN) for heading in _headings(text[: fence.start()]))
        found.append(Block(page, line, fence["language"] or "sh", code, runs))
    return found


def _headings(above: str) -> Iterator[str]:
    """The headings that the end of `above` stands under."""
    level = 7
    for marks, heading in reversed(re.findall(r"^(#+) (.*)$", _FENCE.sub("", above), re.MULTILINE)):
        if len(marks) < level:
            level = len(marks)
            yield heading


def commands(code: str) -> Iterator[list[str]]:
    """The words of each command in a shell block."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for starts, command in itertools.groupby(words, lambda word: word == "&&"):
            if not starts:
                yield list(command)
