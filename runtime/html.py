"""Pages of HTML from templates, each one file that needs nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2

from .files import whole_file

MINUS = "\N{MINUS SIGN}"
_SHARED = Path(__file__).parent / "pages"


def write_page(path: str | Path, template: Path, **values: Any) -> None:
    """Write a page as a whole. Text in `values` is escaped.

    Args:
        path: the file to write; folders that lead to it are made.
        template: for Jinja. It may extend and include its neighbours and those in ``pages``.
        values: what the template is given.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _SHARED]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "signed": _signed, "count": count}
    pieces = environment.get_template(template.name).generate(**values)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        for piece in pieces:  # a page with audio is too large to be held twice
            file.write(piece.encode(errors="replace"))


def number(value: float | None) -> str:
    """A number as people read it."""
    if value is None:
        return ""
    if math.isnan(value):
        return "no number"
    if 1e5 <= abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", MINUS)
    return f"{value:.6g}".replace("inf", "∞").replace("-", MINUS)


def count(value: int, what: str = "") -> str:
    """How many there are, of what where it is said: ``1,234 items``."""
    return f"{value:,} {what}{'s' * (value != 1)}" if what else f"{value:,}"


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)
