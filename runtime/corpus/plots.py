"""The plots of a report, as SVG that takes the colours of the page it stands in."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from matplotlib import colors, style, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TALL = (5.6, 4.6)  # inches, as SVG has 72 units to one
POINTS = 2000  # more than these are drawn as hexagons that say how many they hold
MINUS = "\N{MINUS SIGN}"
LIMITS = 1.96  # standard deviations about the mean that hold 95 % of a normal distribution

# Colours that stand for those of the page: what they are, its style sheet says, by day and by night.
_INK, _MUTED, _RULE, _ACCENT, _SECOND = "#000001", "#000002", "#000003", "#000004", "#000005"
_VARIABLES = {_INK: "ink", _MUTED: "muted", _RULE: "rule", _ACCENT: "accent", _SECOND: "second"}

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": _MUTED,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.labelsize": 10.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "grid.color": _RULE,
    "grid.linewidth": 0.8,
    "legend.fontsize": 10,
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "exportable-losses",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _MUTED,
    "xtick.labelcolor": _MUTED,
    "ytick.color": _MUTED,
    "ytick.labelcolor": _MUTED,
}
_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Plot:
    """A plot.

    Args:
        title: what it shows.
        description: what is to be seen in it, for who does not see it.
        svg: the picture.
    """

    title: str
    description: str
    svg: str


@contextmanager
def _axes(size: tuple[float, float] = (5.6, 3.4)) -> Iterator[tuple[Figure, Axes]]:
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=size)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        yield figure, axes


def _svg(figure: Figure, prefix: str) -> str:
    """`figure` as it can stand in a page: ids with a `prefix`, colours by name."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=_METADATA)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    prefix = re.sub(r"\W", "-", prefix)
    svg = re.sub(r"""(\bid="|href="#|url\(#)""", rf"\g<1>{prefix}-", svg)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def histogram(values: np.ndarray, label: str, prefix: str = "histogram") -> Plot:
    """How many items have which value.

    Args:
        values: finite, `[N]`. The outermost hundredth stands in the outer bars where it is far away.
        label: of the values, with their unit.
        prefix: of the ids in the SVG.
    """
    low, high = _range(values)
    count = min(60, max(10, round(2 * len(values) ** (1 / 3))))  # Rice's rule
    edges = np.linspace(low, high, count + 1)
    median, late = np.quantile(values, [0.5, 0.95])
    with _axes() as (figure, axes):
        axes.hist(values.clip(low, high), bins=edges.tolist(), color=_ACCENT, rwidth=0.92)
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        top = axes.get_ylim()[1]
        axes.set_ylim(0, top * 1.2)
        for at, name, height in ((median, "median", 1.18), (late, "95 % below", 1.07)):
            axes.plot([at, at], [0, top * height], color=_INK, linewidth=1, linestyle=(0, (4, 3)))
            left = at < (low + high) / 2
            axes.annotate(
                f"{name} {at:.4g}",
                (at, top * height),
                (5 if left else -5, 0),
                textcoords="offset points",
                horizontalalignment="left" if left else "right",
                verticalalignment="top",
            )
        axes.set(xlabel=label, ylabel="items")
        svg = _svg(figure, prefix)
    beyond = int(((values < low) | (values > high)).sum())
    more = f" {_items(beyond)} further out, in the outermost bars." * (beyond > 0)
    text = (
        f"{_items(len(values))} from {values.min():.4g} to {values.max():.4g}, "
        f"the median at {median:.4g}, 95 % below {late:.4g}.{more}"
    )
    return Plot(f"Histogram of {label}", text, svg)


def against_size(
    sizes: np.ndarray, values: np.ndarray, size_label: str, label: str, prefix: str = "size"
) -> Plot:
    """Each item's value over its size, with the medians of groups of equally many items."""
    order = np.argsort(sizes, kind="stable")
    groups = np.array_split(order, min(12, len(np.unique(sizes))))
    middle = [(np.median(sizes[group]), np.median(values[group])) for group in groups]
    with _axes() as (figure, axes):
        _cloud(figure, axes, sizes.astype(float), values)
        axes.plot(
            *zip(*middle, strict=True), color=_SECOND, linewidth=2, marker="o", markersize=4, label="median"
        )
        axes.set(xlabel=size_label, ylabel=label)
        figure.legend(loc="outside upper left")
        svg = _svg(figure, prefix)
    text = (
        f"{_items(len(values))} of {sizes.min()} to {sizes.max()} {_unit(size_label)}. The median goes from "
        f"{middle[0][1]:.4g} for the shortest to {middle[-1][1]:.4g} for the longest.{_hexagons(len(values))}"
    )
    return Plot(f"{label} against {size_label}", text, svg)


def scatter(a: np.ndarray, b: np.ndarray, label: str, prefix: str) -> Plot:
    """Each item's value in B over that in A."""
    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    room = 0.04 * (high - low) or 0.5
    ends = low - room, high + room
    with _axes(TALL) as (figure, axes):
        axes.plot(ends, ends, color=_SECOND, linewidth=1.2, label="no change")
        _cloud(figure, axes, a, b, (72, 42))
        axes.set(xlabel=f"A: {label}", ylabel=f"B: {label}", xlim=ends, ylim=ends, aspect="equal")
        figure.legend(loc="outside upper left")
        svg = _svg(figure, prefix)
    above, below = int((b > a).sum()), int((b < a).sum())
    text = f"{_items(above)} above the line of no change, {_items(below)} below it.{_hexagons(len(a))}"
    return Plot(f"{label} in B against A", text, svg)


def bland_altman(a: np.ndarray, b: np.ndarray, label: str, prefix: str) -> Plot:
    """Each item's difference over its mean (Bland and Altman 1986), with the limits of agreement.

    The limits are the mean difference and 1.96 standard deviations on either side.
    """
    mean, moves = a / 2 + b / 2, b - a
    with np.errstate(over="ignore"):
        centre, spread = moves.mean(), LIMITS * (moves.std(ddof=1) if len(moves) > 1 else 0.0)
    low, high = _range(moves)
    low, high = min(low, centre - 1.3 * spread), max(high, centre + 1.3 * spread)
    shown = (moves >= low) & (moves <= high)
    with _axes(TALL) as (figure, axes):
        _cloud(figure, axes, mean[shown], moves[shown])
        for at, mark in ((low, "v"), (high, "^")):
            beyond = moves < low if mark == "v" else moves > high
            step = (np.ptp(mean) or 1.0) / 150  # one triangle for those that would cover each other
            places = step * np.unique(np.round(mean[beyond] / step))
            axes.scatter(places, np.full(len(places), at), s=22, marker=mark, color=_ACCENT)
        axes.axhline(centre, color=_SECOND, linewidth=1.4, label=f"mean {_signed(centre)}")
        limits = f"limits of agreement {_signed(centre - spread)}, {_signed(centre + spread)}"
        for at, text in ((centre - spread, limits), (centre + spread, None)):
            axes.axhline(at, color=_SECOND, linewidth=1.4, linestyle=(0, (5, 3)), label=text)
        axes.set(xlabel=f"mean of A and B: {label}", ylabel=f"B {MINUS} A: {label}")
        figure.legend(loc="outside upper left", ncols=2)
        svg = _svg(figure, prefix)
    inside, outside = int((np.abs(moves - centre) <= spread).sum()), int((~shown).sum())
    more = f" {_items(outside)} further out: triangles at the edge." * (outside > 0)
    text = (
        f"The mean difference is {_signed(centre)}, the limits of agreement are {_signed(centre - spread)} "
        f"and {_signed(centre + spread)}; {_items(inside)} of {len(a):,} {'is' if inside == 1 else 'are'} "
        f"within them.{more}{_hexagons(len(a))}"
    )
    return Plot(f"Bland-Altman plot of {label}", text, svg)


def _cloud(
    figure: Figure, axes: Axes, x: np.ndarray, y: np.ndarray, grid: tuple[int, int] = (44, 24)
) -> None:
    """Points; where they are many, hexagons, the stronger their colour the more they hold."""
    if len(x) <= POINTS:
        axes.scatter(x, y, s=14, color=_ACCENT, alpha=0.55, linewidths=0)
        return
    shades = colors.ListedColormap([(*colors.to_rgb(_ACCENT), s) for s in np.linspace(0.18, 1, 8)])
    hexagons = axes.hexbin(x, y, gridsize=grid, mincnt=1, bins="log", cmap=shades, linewidths=0)
    bar = figure.colorbar(hexagons, ax=axes, fraction=0.03, pad=0.02, label="items", format="{x:,.0f}")
    bar.outline.set_visible(False)
    bar.ax.patch.set_alpha(0)


def _range(values: np.ndarray) -> tuple[float, float]:
    """What a histogram shows: everything, or the middle 99 % where the rest is far away."""
    low, early, late, high = np.quantile(values, [0, 0.005, 0.995, 1])
    if late > early and high - low > 2 * (late - early):
        low, high = early, late
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _items(count: int) -> str:
    return f"{count:,} item{'s' * (count != 1)}"


def _unit(label: str) -> str:
    return label.partition("(")[2].rstrip(")") or label


def _signed(value: float) -> str:
    return f"{value:+.4g}".replace("-", MINUS)


def _hexagons(count: int) -> str:
    return " The stronger a hexagon's colour, the more items it holds." * (count > POINTS)
