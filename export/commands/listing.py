"""What the catalog says of each row, as plain data.

`make rows` writes it to a file, which `list` reads: a second sooner, and without torch.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exportable_losses import catalog

FILE = Path(__file__).with_name("rows.json")


def written() -> list[dict[str, Any]]:
    """The `facts` of each row as they are in the file."""
    rows: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return rows


def as_json(rows: Iterable[dict[str, Any]]) -> str:
    """The file for these `facts`: a line for each row."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return f"[\n{lines}\n]\n"


def facts(row: str) -> dict[str, Any]:
    """What there is to know of a row before using it, as what JSON can hold.

    Raises:
        KeyError: there is no such row.
    """
    from exportable_losses import catalog

    entry = catalog.get(row)
    return {
        "row": entry.name,
        "module": entry.type.__name__,
        "summary": entry.summary,
        "inputs": [asdict(each) for each in entry.inputs],
        "outputs": list(entry.outputs),
        "reductions": list(_reductions(entry)),
        "differentiable": list(entry.differentiable),
        "settings": {name: _plain(default) for name, default in entry.settings.items()},
    }


def markdown_table(rows: Iterable[dict[str, Any]]) -> str:
    """The table in docs/rows.md."""
    lines = ["| row | module | what it is | inputs |", "|---|---|---|---|"]
    for row in rows:
        inputs = ", ".join(
            f"`{each['name']}`{'?' * each['optional']} [{each['dims']}]" for each in row["inputs"]
        )
        summary = row["summary"].replace("|", "\\|")
        lines.append(f"| `{row['row']}` | `{row['module']}` | {summary} | {inputs} |")
    return "\n".join(lines)


def _reductions(entry: "catalog.Entry") -> Iterator[str]:
    """The reductions that the module takes; none where it has no such setting."""
    from exportable_losses.checks import REDUCTIONS

    for reduction in REDUCTIONS if "reduction" in entry.settings else ():
        try:
            entry.module(reduction=reduction)
        except ValueError:
            continue
        yield reduction


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
