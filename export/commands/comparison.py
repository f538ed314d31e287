"""What `compare` takes and prints."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from exportable_losses.runtime.corpus.compare import Comparison, Moves, compare_runs
from exportable_losses.runtime.corpus.runs import Run

Tolerance = Mapping[str, float] | float | None

_NAMED = 10  # of the items that one run alone has; --json has all
_COLOURS = {"within": "green", "outside": "bold red", "undecided": "bold yellow"}


def parse_tolerances(given: Sequence[str]) -> Tolerance:
    """``0.1`` for all outputs, or what ``loss=0.1`` and its likes say of each.

    Raises:
        ValueError: one is neither, or there is one for all among several.
    """
    found: dict[str, float] = {}
    for item in given:
        name, _, number = item.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise ValueError(f"got {item!r}, expected a number or something like loss=0.1") from None
    if len(found) < len(given) or ("" in found and len(found) > 1):
        raise ValueError(f"got {', '.join(given)}, expected one number for all, or one for each output")
    return found.get("", found or None)


def compare_pairs(
    pairs: Sequence[tuple[Run, Run]],
    outputs: Sequence[str],
    tolerance: Tolerance,
    item_tolerance: Tolerance,
    **settings: Any,
) -> list[Comparison]:
    """Compare the runs of each pair; what names an output is for the pairs whose runs have it.

    Raises:
        ValueError: no pair has such an output, or as of `compare_runs`.
    """
    named = [*outputs, *(name for given in (tolerance, item_tolerance) for name in _named(given))]
    known = list(dict.fromkeys(name for a, _ in pairs for name in a.totals))
    for name in named:
        if name not in known:
            raise ValueError(f"output: got {name}, expected one of {', '.join(known)}")
    found = []
    for a, b in pairs:
        chosen = [name for name in outputs if name in a.totals]
        if outputs and not chosen:
            continue
        allowed = [_for(chosen or list(a.totals), given) for given in (tolerance, item_tolerance)]
        found.append(compare_runs(a, b, chosen, tolerance=allowed[0], item_tolerance=allowed[1], **settings))
    return found


def _named(given: Tolerance) -> Mapping[str, float]:
    return given if isinstance(given, Mapping) else {}


def _for(outputs: Sequence[str], given: Tolerance) -> Tolerance:
    if not isinstance(given, Mapping):
        return given
    return {name: number for name, number in given.items() if name in outputs} or None


def as_json(comparisons: Sequence[Comparison], worst: int) -> str:
    """One comparison as it is, several as a list in `pairs`."""
    each = [comparison.to_json(worst) for comparison in comparisons]
    several = {"format": 1, "ok": all(comparison.ok for comparison in comparisons), "pairs": each}
    return json.dumps(several if len(each) > 1 else each[0], indent=2) + "\n"


def show(comparison: Comparison, worst: int) -> None:
    """Print by how much each output moved, which items did most, which are missing, and the verdict."""
    console = Console()
    table = _table("output", ("A", "B", "B - A", f"{100 * comparison.confidence:g} % interval", "moved", ""))
    for moves in comparison.outputs:
        low, high = moves.interval
        verdict = moves.verdict
        table.add_row(
            escape(moves.output),
            f"{moves.a:.7g}",
            f"{moves.b:.7g}",
            f"{moves.difference:+.4g}",
            "too few items" if not math.isfinite(high - low) else f"{low:+.4g} to {high:+.4g}",
            f"{moves.moved:,}",
            f"[{_COLOURS[verdict]}]{verdict}[/]" if verdict in _COLOURS else verdict,
        )
    console.print(table)
    for moves in comparison.outputs:
        _show_worst(console, comparison, moves, worst)
    missing = comparison.missing
    lines = [
        f"{item.id}: {item.run} lacks it, {item.reason or 'not in its data'}" for item in missing[:_NAMED]
    ]
    if len(missing) > _NAMED:
        lines.append(f"and {len(missing) - _NAMED:,} more that one run lacks")
    if comparison.neither:
        lines.append(f"{comparison.neither:,} set aside in both runs or in the only one that has them")
    lines += [f"Note: {warning}" for warning in comparison.warnings]
    off = sum(moves.verdict in ("outside", "undecided") for moves in comparison.outputs)
    lines.append(
        f"{len(comparison.ids):,} items compared, {len(missing) or 'none'} in only one run; "
        f"{len(comparison.outputs)} output{'s' * (len(comparison.outputs) != 1)}, {off or 'none'} off."
    )
    lines += [f"Fails: {reason}." for reason in comparison.reasons]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _show_worst(console: Console, comparison: Comparison, moves: Moves, worst: int) -> None:
    places = moves.worst(worst)
    if not places:
        return
    table = _table(f"{escape(moves.output)} moved most", (comparison.a.about["size"], "A", "B", "B - A"))
    for i in places:
        a, b = moves.values[:, i]
        numbers = f"{comparison.sizes[i]:,}", f"{a:.7g}", f"{b:.7g}", f"{moves.moves[i]:+.4g}"
        table.add_row(escape(comparison.ids[i]), *numbers)
    console.print(table)


def _table(text: str, numbers: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(text, overflow="fold")
    for heading in numbers:  # an interval may take two lines
        table.add_column(heading, justify="right", overflow="fold", no_wrap=not heading.endswith("interval"))
    return table
