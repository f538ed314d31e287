"""Rows by runtimes: what `validate` has found as a table to look at, as JSON, and in docs/runtimes.md."""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from exportable_losses.runtime.files import whole_file
from exportable_losses.runtime.testdata import exported

from .validate import Validation

if TYPE_CHECKING:
    import onnx

FORMAT = 1


def to_json(found: Validation) -> dict[str, Any]:
    """Versions of runtimes, and for each row and runtime the largest difference or what is wrong."""
    rows: dict[str, dict[str, Any]] = {}
    for check in found.checks:
        cell = rows.setdefault(check.row, {}).setdefault(check.runtime, {"ulp": 0.0, "absolute": 0.0})
        if check.problem:
            where = f"{check.output}: " if check.output else ""
            cell.setdefault("problem", where + check.problem)
        if check.difference is not None:
            cell["ulp"] = max(cell["ulp"], check.difference.ulp)
            cell["absolute"] = max(cell["absolute"], check.difference.absolute)
    untested = [file.as_posix() for file in found.untested]
    return {
        "format": FORMAT,
        "runtimes": found.versions,
        "absent": found.absent,
        "rows": rows,
        "untested": untested,
    }


def write_json(found: Validation, files: Path, path: Path) -> None:
    """Write `to_json`, and where onnx is installed the `fingerprint` of each graph in `files`.

    Infinities are strings.
    """
    recorded = to_json(found)
    recorded["graphs"] = {}
    for row, graph in exported(files, ".onnx"):
        with contextlib.suppress(Exception):  # what is no graph is a problem of its row already
            import onnx

            recorded["graphs"][row] = fingerprint(onnx.load(graph))
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(recorded), indent=1)
    with whole_file(path) as file:
        file.write(f"{text}\n".encode())


def fingerprint(graph: "onnx.ModelProto") -> str:
    """What a graph computes as a number: the same where its words alone change."""
    bare = type(graph)()
    bare.CopyFrom(graph)
    del bare.metadata_props[:]
    for each in (bare, bare.graph, *bare.functions):
        each.ClearField("doc_string")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()[:16]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return str(value) if isinstance(value, float) and abs(value) == float("inf") else value


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote, or the page of `serve`.

    Raises:
        ValueError: it is something else.
    """
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        if recorded["format"] != FORMAT:
            raise ValueError(f"got format {recorded['format']}, expected {FORMAT}")
        for cell in (cell for cells in recorded["rows"].values() for cell in cells.values()):
            cell.update({key: float(cell[key]) for key in ("ulp", "absolute")})
        return {"runtimes": dict(recorded["runtimes"]), "rows": recorded["rows"]}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: this is not what `validate --json` writes: {error!r}") from error


def beside(paths: Sequence[Path]) -> dict[str, Any]:
    """Several recorded runs as one. A runtime that two have is named after its file as well."""
    read = [(path, read_json(path)) for path in paths]
    times = Counter(name for _, recorded in read for name in recorded["runtimes"])
    runtimes: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    for path, recorded in read:
        for name, version in recorded["runtimes"].items():
            called = f"{name} ({path})" if times[name] > 1 else name
            runtimes[called] = version
            for row, cells in recorded["rows"].items():
                if name in cells:
                    rows.setdefault(row, {})[called] = cells[name]
    return {"runtimes": runtimes, "rows": rows}


def tables(recorded: Mapping[str, Any], width: int) -> list[Table]:
    """A line for each row, a column for each runtime; several tables where one would be too wide."""
    longest = min(width // 2, max((len(row) for row in recorded["rows"]), default=0))
    groups: list[list[str]] = [[]]
    for name in recorded["runtimes"]:
        if groups[-1] and longest + sum(len(each) + 1 for each in (*groups[-1], name)) > width:
            groups.append([])
        groups[-1].append(name)
    shown = [_table(recorded["rows"], names) for names in groups]
    shown[-1].caption = "the largest difference in units in the last place of an output's largest number"
    return shown


def _table(rows: Mapping[str, Any], names: Sequence[str]) -> Table:
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("row", overflow="fold")
    for name in names:
        shown.add_column(name, justify="right", overflow="fold", min_width=len(name))
    for row, cells in rows.items():
        shown.add_row(escape(row), *(_cell(cells.get(name)) for name in names))
    return shown


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "-"
    return "[bold red]off[/]" if "problem" in cell else f"[green]{cell['ulp']:.3g}[/]"


def markdown(recorded: Mapping[str, Any], rows: Iterable[str] = ()) -> str:
    """What `write_json` has written as a table: the versions are below it, and what is wrong.

    Those of `rows` that were not recorded have a line that says so.
    """
    names = list(recorded["runtimes"])
    notes: list[str] = []
    lines = ["| row | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for row, cells in recorded["rows"].items():
        lines.append(f"| `{row}` | " + " | ".join(_plain(cells.get(name), notes) for name in names) + " |")
    for row in rows:
        if row not in recorded["rows"]:
            lines.append(f"| `{row}` | not yet recorded |" + " |" * (len(names) - 1))
    versions = "; ".join(f"{name} {version}" for name, version in recorded["runtimes"].items())
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([*lines, "", f"Versions: {versions}.", *([""] if notes else []), *numbered])


def _plain(cell: Mapping[str, Any] | None, notes: list[str]) -> str:
    """A number, or that of a note."""
    if cell is None:
        return "-"
    if "problem" not in cell:
        return f"{float(cell['ulp']):.2g}"
    if cell["problem"] not in notes:
        notes.append(cell["problem"])
    return f"off ({notes.index(cell['problem']) + 1})"
