"""What the catalog says of each row, as plain data."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from exportable_losses import catalog
from exportable_losses.checks import REDUCTIONS


def facts(row: str) -> dict[str, Any]:
    """What there is to know of a row before using it, as what JSON can hold.

    Raises:
        KeyError: there is no such row.
    """
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


def _reductions(entry: catalog.Entry) -> Iterator[str]:
    """The reductions that the module takes; none where it has no such setting."""
    for reduction in REDUCTIONS if "reduction" in entry.settings else ():
        try:
            entry.module(reduction=reduction)
        except ValueError:
            continue
        yield reduction


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
