"""Two runs over the same items: what moved, by how much, and whether that is within a tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exportable_losses.contract import Total

from .intervals import bootstrap, interval
from .runs import Run
from .totals import composed, terms

RESAMPLES = 2000


@dataclass(frozen=True)
class Missing:
    """An item that only one of the runs has scored.

    Args:
        id: its name.
        run: ``A`` or ``B``, the run that lacks it.
        reason: why it was set aside there; empty where that run has never seen it.
    """

    id: str
    run: str
    reason: str


@dataclass(frozen=True)
class Moves:
    """How one output has moved from A to B.

    Args:
        output: its name.
        a: its total in A over the items that both have scored, `b` that in B.
        difference: `b - a`.
        interval: the confidence interval of `difference`, by bootstrap over items.
        values: float64 `[2, N]`, each item's in A and in B.
        moves: float64 `[N]`, B - A: zero for equal infinities and NaNs, infinite for one on one side.
        tolerance: by how much the total may move.
        item_tolerance: by how much an item may.
    """

    output: str
    a: float
    b: float
    difference: float
    interval: tuple[float, float]
    values: np.ndarray
    moves: np.ndarray
    tolerance: float | None = None
    item_tolerance: float | None = None

    @property
    def moved(self) -> int:
        """How many items moved by more than `item_tolerance`; without one, at all."""
        return int((np.abs(self.moves) > (self.item_tolerance or 0.0)).sum())

    @property
    def largest(self) -> float:
        """How far the item that moved most has moved."""
        return float(np.abs(self.moves).max())

    @property
    def one_sided(self) -> int:
        """How many items are infinite or not a number in only one run."""
        return int(np.isinf(self.moves).sum())

    @property
    def verdict(self) -> str:
        """``within`` or ``outside`` the tolerances, or ``undecided``; ``-`` where there are none.

        A total is within where its whole interval is, so that a corpus too small to tell does not pass,
        be it equal in both runs: see `intervals`.
        No tolerance allows a number that only one run has.
        """
        if self.one_sided or (self.item_tolerance is not None and self.moved):
            return "outside"
        if self.tolerance is not None:
            if not abs(self.difference) <= self.tolerance:
                return "outside"
            if not max(map(abs, self.interval)) <= self.tolerance:
                return "undecided"
        return "-" if self.tolerance is None and self.item_tolerance is None else "within"

    @property
    def reasons(self) -> list[str]:
        """Why the verdict is ``outside`` or ``undecided``."""
        found = []
        if self.one_sided:
            found.append(f"{_items(self.one_sided)} infinite or not a number in only one run")
        if self.item_tolerance is not None and self.moved:
            found.append(f"{_items(self.moved)} moved by more than {self.item_tolerance:g}")
        if self.tolerance is not None and not abs(self.difference) <= self.tolerance:
            found.append(f"the total moved by {self.difference:+.6g}, more than {self.tolerance:g}")
        elif self.verdict == "undecided" and math.isinf(self.interval[1]):
            found.append(f"{_items(len(self.moves))}, too few for an interval")
        elif self.verdict == "undecided":
            low, high = self.interval
            found.append(f"the interval of {low:+.6g} to {high:+.6g} reaches beyond {self.tolerance:g}")
        return [f"{self.output}: {reason}" for reason in found]

    def worst(self, count: int) -> list[int]:
        """The places of the `count` items that moved most, those that did not move left out."""
        order = np.argsort(-np.abs(self.moves), kind="stable")[:count]
        return [int(i) for i in order if self.moves[i] != 0]


@dataclass(frozen=True)
class Comparison:
    """What `compare_runs` has found.

    Args:
        a: the first run, `b` the second.
        ids: of the N items that both have scored, in A's order.
        sizes: int64 `[N]`, as A has them.
        outputs: one for each output that was compared.
        missing: the items that one run alone has scored.
        neither: how many items were set aside in one run or both and scored in none.
        warnings: what makes the two differ before any number does.
        confidence: of the intervals.
        allow_missing: whether `ok` looks at what both have scored alone.
    """

    a: Run
    b: Run
    ids: list[str]
    sizes: np.ndarray
    outputs: list[Moves]
    missing: list[Missing]
    neither: int
    warnings: list[str]
    confidence: float
    allow_missing: bool

    @property
    def ok(self) -> bool:
        """Whether no output is outside its tolerance or undecided, and no item is missing."""
        return not self.reasons

    @property
    def undecided(self) -> bool:
        """Whether nothing is wrong but that there are too few items to tell."""
        found = {moves.verdict for moves in self.outputs}
        missing = self.missing and not self.allow_missing
        return "undecided" in found and "outside" not in found and not missing

    @property
    def reasons(self) -> list[str]:
        """Why it is not `ok`; empty where it is."""
        found = [reason for moves in self.outputs for reason in moves.reasons]
        if self.missing and not self.allow_missing:
            found.append(f"{_items(len(self.missing))} scored in only one run")
        return found

    def to_json(self, worst: int = 20) -> dict[str, Any]:
        """The comparison as what JSON can hold; a number that is not finite is a string."""
        return {
            "format": 1,
            "a": str(self.a.path),
            "b": str(self.b.path),
            "ok": self.ok,
            "items": len(self.ids),
            "confidence": self.confidence,
            "outputs": {moves.output: self._moves(moves, worst) for moves in self.outputs},
            "missing": [vars(item) for item in self.missing],
            "set_aside_in_both": self.neither,
            "reasons": self.reasons,
            "warnings": self.warnings,
        }

    def _moves(self, moves: Moves, worst: int) -> dict[str, Any]:
        numbers = {"a": moves.a, "b": moves.b, "difference": moves.difference}
        return {
            **{name: _plain(value) for name, value in numbers.items()},
            "interval": [_plain(end) for end in moves.interval],
            "tolerance": moves.tolerance,
            "item_tolerance": moves.item_tolerance,
            "largest": _plain(moves.largest),
            "moved": moves.moved,
            "one_sided": moves.one_sided,
            "verdict": moves.verdict,
            "worst": [
                {
                    "id": self.ids[i],
                    "size": int(self.sizes[i]),
                    "a": _plain(moves.values[0, i]),
                    "b": _plain(moves.values[1, i]),
                    "difference": _plain(moves.moves[i]),
                }
                for i in moves.worst(worst)
            ],
        }


def _items(count: int) -> str:
    return f"{count:,} item{'s' * (count != 1)}"


def _plain(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(float(value))


def compare_runs(
    a: Run,
    b: Run,
    outputs: Sequence[str] = (),
    *,
    tolerance: Mapping[str, float] | float | None = None,
    item_tolerance: Mapping[str, float] | float | None = None,
    allow_missing: bool = False,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two runs item by item, by id.

    The interval is that of a paired bootstrap: items are drawn with replacement, the same for both
    runs, and both totals are made of them anew, so that each item has its weight; see `intervals`.
    Totals and intervals leave out what is not finite in one of the runs.

    Args:
        a: the run that is trusted.
        b: the run that is held to it.
        outputs: which to compare; all that both have without it.
        tolerance: by how much the total of an output may move, for all or by output.
        item_tolerance: by how much each item may move.
        allow_missing: whether items that one run alone has scored are fine.
        confidence: of the intervals.
        resamples: how often items are drawn.
        seed: of the draws.

    Raises:
        ValueError: the runs are of different rows, share no item or no output, or an argument does
            not fit.

    Example::

        found = compare_runs(read_run("float"), read_run("quantised"), tolerance=0.01)
        found.outputs[0].difference, found.outputs[0].interval, found.ok
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: got {confidence:g}, expected a number between 0 and 1")
    totals = _shared_totals(a, b)
    chosen = list(dict.fromkeys(outputs or totals))
    unknown = [name for name in chosen if name not in totals]
    if unknown:
        raise ValueError(f"output: got {unknown[0]}, expected one of {', '.join(totals)}")
    of_total = _by_output("tolerance", tolerance, chosen)
    of_item = _by_output("item_tolerance", item_tolerance, chosen)
    in_a, in_b = _paired_items(a, b)
    both = [_picked(a, in_a), _picked(b, in_b)]
    pairings = [_Paired(totals, name, both) for name in chosen]
    moves = []
    for paired, drawn in zip(pairings, _drawn(pairings, resamples, seed), strict=True):
        one, other = (float(total[0]) for total in paired.totals(paired.exact))
        moves.append(
            Moves(
                paired.name,
                one,
                other,
                float(apart(one, other)),
                paired.interval(drawn, confidence),
                np.stack([columns[paired.name] for columns in both]),
                apart(*(columns[paired.name] for columns in both)),
                of_total.get(paired.name),
                of_item.get(paired.name),
            )
        )
    missing, neither = _missing(a, b)
    ids, sizes = [a.ids[i] for i in in_a], a.sizes[in_a]
    warnings = _warnings(a, b)
    return Comparison(a, b, ids, sizes, moves, missing, neither, warnings, confidence, allow_missing)


def apart(a: Any, b: Any) -> np.ndarray:
    """`b - a`, where equal infinities and NaNs differ by nothing, and one on one side infinitely."""
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(a) & np.isfinite(b)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        return np.where(same, 0.0, np.where(finite, b - a, np.where(b < a, -np.inf, np.inf)))


def _shared_totals(a: Run, b: Run) -> dict[str, Total]:
    """The totals that both have."""
    row, other_row = (run.about["graph"]["row"] for run in (a, b))
    if row != other_row:
        raise ValueError(f"graph: got {row} in A and {other_row} in B, expected the same row in both")
    shared = {name: total for name, total in a.totals.items() if name in b.totals and total.kind != "whole"}
    for name, total in shared.items():
        other = b.totals[name]
        if (total.kind, total.by) != (other.kind, other.by):
            raise ValueError(
                f"{name}: got a {_kind(total)} in A and a {_kind(other)} in B, expected the same in both; "
                "export both graphs with the same settings"
            )
    if not shared:
        raise ValueError(
            f"output: got {', '.join(a.totals) or 'none'} in A and {', '.join(b.totals) or 'none'} in B, "
            "expected one that both have and that adds up over items"
        )
    return shared


def _kind(total: Total) -> str:
    return f"{total.kind} by {total.by}" if total.by else total.kind


def _by_output(
    name: str, given: Mapping[str, float] | float | None, chosen: Sequence[str]
) -> Mapping[str, float]:
    """A tolerance for each output that has one."""
    if given is None:
        return {}
    of = given if isinstance(given, Mapping) else dict.fromkeys(chosen, given)
    for output, value in of.items():
        if output not in chosen:
            raise ValueError(f"{name}: got one for {output}, expected one of {', '.join(chosen)}")
        if not value >= 0:
            raise ValueError(f"{name}: got {value:g}, expected a number that is not below zero")
    return of


def _paired_items(a: Run, b: Run) -> tuple[np.ndarray, np.ndarray]:
    """The places, in each run, of the items that both have scored."""
    place = {name: i for i, name in enumerate(b.ids)}
    pairs = [(i, place[name]) for i, name in enumerate(a.ids) if name in place]
    if not pairs:
        one, other = (repr(run.ids[0]) if run.ids else "none" for run in (a, b))
        raise ValueError(f"id: got {one} … in A and {other} … in B, expected items that both have")
    in_a, in_b = np.array(pairs).T
    return in_a, in_b


def _picked(run: Run, places: np.ndarray) -> dict[str, np.ndarray]:
    return {name: column[places] for name, column in run.columns.items()}


class _Paired:
    """One output in both runs, as what is summed over items: a row for each, both runs side by side."""

    def __init__(
        self, totals: Mapping[str, Total], name: str, both: Sequence[Mapping[str, np.ndarray]]
    ) -> None:
        self.name = name
        self._of = {name: totals[name]}
        if totals[name].kind in ("ratio", "plus"):
            self._of |= {part: totals[part] for part in totals[name].by.split()}
        self._terms = [terms(self._of, columns) for columns in both]
        flat = [term.reshape(len(term), -1) for run in self._terms for term in run.values()]
        table = np.concatenate(flat, axis=1)
        self.table = np.where(np.isfinite(table).all(axis=1, keepdims=True), table, 0.0)

    @property
    def exact(self) -> np.ndarray:
        """The sums of the table, `[1, M]`, rounded once."""
        return np.array([[math.fsum(column.tolist()) for column in self.table.T]])

    def interval(self, drawn: np.ndarray, confidence: float) -> tuple[float, float]:
        """The interval of the difference, by the sums of the table over draws, `[R, M]`."""
        (value,), left_out, spread = (
            apart(*self.totals(sums)) for sums in (self.exact, self.exact - self.table, drawn)
        )
        return interval(float(value), left_out, spread, confidence)

    def totals(self, sums: np.ndarray) -> list[np.ndarray]:
        """The total in each run, `[R]`, that sums of the table, `[R, M]`, come to."""
        found, at = [], 0
        for run in self._terms:
            named = {}
            for name, term in run.items():
                named[name] = sums[:, at] if term.ndim == 1 else sums[:, at : at + term.shape[1]]
                at += 1 if term.ndim == 1 else term.shape[1]
            found.append(composed(self._of, named)[self.name])
        return found


def _drawn(pairings: Sequence[_Paired], resamples: int, seed: int) -> list[np.ndarray]:
    """The sums of each table over the same draws of items."""
    sums = bootstrap(np.concatenate([paired.table for paired in pairings], axis=1), resamples, seed)
    edges = np.cumsum([paired.table.shape[1] for paired in pairings])
    return np.split(sums, edges[:-1], axis=1)


def _missing(a: Run, b: Run) -> tuple[list[Missing], int]:
    """The items that one run alone has scored, and how many neither has."""
    found = []
    for lacks, run, other in (("A", a, b), ("B", b, a)):
        scored, aside = set(run.ids), {item.id: item.reason for item in run.set_aside}
        found += [Missing(name, lacks, aside.get(name, "")) for name in other.ids if name not in scored]
    aside_in = {item.id for run in (a, b) for item in run.set_aside}
    return found, len(aside_in - set(a.ids) - set(b.ids))


def _warnings(a: Run, b: Run) -> list[str]:
    """What makes the runs differ before any number does."""
    found = []
    one, other = (run.about["graph"]["settings"] for run in (a, b))
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            found.append(f"the setting {name} is {one.get(name)} in A and {other.get(name)} in B")
    for name, run in (("A", a), ("B", b)):
        damaged = [each["path"] for each in run.about["data"] if "damaged" in each]
        found += [f"{path} is damaged in {name}, and may have more items" for path in damaged]
    for name in sorted({*a.totals} ^ {*b.totals}):
        found.append(f"the output {name} is in {'A' if name in a.totals else 'B'} alone")
    for name, total in a.totals.items():
        if total.kind == "whole":
            found.append(f"the output {name} is one of the whole corpus, not of items, and is not compared")
    return found
