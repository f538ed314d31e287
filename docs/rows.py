"""Write what has a line for each row: the tables in rows.md, runtimes.md and half-precision.md, and `list`'s.

The table of runtimes is that of docs/runtimes.json; a row that `make record` has not run is "not yet
recorded" there.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import half

from exportable_losses import catalog, speechbrain
from exportable_losses.export.checking import runtimes
from exportable_losses.export.commands import listing

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ROWS, RUNTIMES, RECORD, HALF = (
    DOCS / name for name in ("rows.md", "runtimes.md", "runtimes.json", "half-precision.md")
)


def main() -> None:
    """Write all of them."""
    for page, name, table in tables():
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(_between(text, name), table), encoding="utf-8")


def tables() -> Iterator[tuple[Path, str, str]]:
    """The page of each table, what its marks there call it (nothing without marks), and what it should be."""
    rows = catalog.names()
    facts = [listing.facts(row) for row in rows]
    yield ROWS, "rows", listing.markdown_table(facts)
    yield listing.FILE, "", listing.as_json(facts)
    yield ROWS, "formulas", "\n\n".join(map(_section, rows))
    yield RUNTIMES, "runtimes", runtimes.markdown(runtimes.read_json(RECORD), rows)
    yield HALF, "half precision", _half_precision(written(HALF, "half precision"))


def written(page: Path, name: str) -> str:
    """The table as it stands on its page."""
    return _between(page.read_text(encoding="utf-8"), name)


def _between(text: str, name: str) -> str:
    if not name:
        return text
    (found,) = re.findall(rf"<!-- {name}: [^\n]* -->\n(.*)\n<!-- end of {name} -->", text, re.DOTALL)
    return found


def _section(row: str) -> str:
    """What the documentation of a row says before its arguments: what it is, the formula, the source."""
    entry = catalog.get(row)
    text = re.split(r"\n\n(?=(?:Args|Raises|Returns|Examples):\n|The call takes )", entry.documentation)[0]
    settings = ", ".join(f"{name}={_default(value)}" for name, value in entry.settings.items())
    name, anchor = entry.type.__name__, f"{entry.type.__module__}.{entry.type.__name__}"
    source = f". In SpeechBrain: `speechbrain.nnet.losses.{row}`" if row in speechbrain.__all__ else ""
    outputs = ", ".join(f"`{name}`" for name in entry.outputs)
    call = f"[`{name}({settings})`](reference/modules.md#{anchor}) returns {outputs}{source}."
    return f"### {row}\n\n{text}\n\n{call}"


def _default(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _half_precision(table: str) -> str:
    """`table` with the rows that it lacks. The others stay: another processor moves a digit of theirs."""
    of_row = {
        row: list(lines) for row, lines in groupby(table.splitlines()[2:], lambda line: line.split("`")[1])
    }
    lines = [line for row in catalog.names() for line in of_row.get(row) or half.lines(row)]
    return "\n".join([*half.HEADER, *lines])


if __name__ == "__main__":
    main()
