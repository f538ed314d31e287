"""A scored corpus, or two of them compared, as one page of HTML that needs nothing else."""

from __future__ import annotations

import base64
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..files import refuse_overwriting
from ..html import write_page
from . import plots
from .compare import Comparison, Moves
from .names import as_text
from .runs import Run, files_of

Picture = Callable[[str], "str | bytes | None"]

LISTED = 100  # of the items that were set aside or are in one run alone; the run's folder has all
_NATS = (
    "nll_loss bce_loss kldiv_loss ctc_loss transducer_loss ctc_loss_kd ce_kd nll_loss_kd LogSoftmaxWrapper"
)
_DECIBELS = "get_si_snr_with_pitwrapper get_snr_with_pitwrapper cal_si_snr cal_snr SDR SISNRImprovement"
_UNITS = {**dict.fromkeys(_NATS.split(), "nats"), **dict.fromkeys(_DECIBELS.split(), "dB")}
_HIGHER = ("accuracy", "sdr", "improvement")  # the outputs of which more is better
_IN_UNITS = ("loss", "sdr", "improvement")


def write_report(
    run: Run,
    path: str | Path,
    *,
    outputs: Sequence[str] = (),
    worst: int = 20,
    picture: Picture | None = None,
) -> None:
    """Write a page about a scored corpus.

    Totals, how the values are spread, how they go with the items' sizes, the worst items, what was set
    aside and why, the files and their hashes. Equal runs give equal bytes.

    Args:
        run: what `read_run` has read.
        path: the file to write.
        outputs: which outputs to draw; the first alone without it.
        worst: how many of the worst items to list.
        picture: gives the picture of an item by its id, SVG as text or PNG as bytes, or nothing.

    Raises:
        ValueError: an output is not in the run.

    Example::

        write_report(read_run("scores/float"), "float.html")
    """
    known = [name for name, total in run.totals.items() if total.kind != "whole"]
    for name in outputs:
        if name not in known:
            raise ValueError(f"output: got {name}, expected one of {', '.join(known)}")
    drawn = [_output(run, name, worst, picture) for name in outputs or known[:1]]
    refuse_overwriting("path", path, *files_of(run.path))
    _write(path, "run", run=_about(run), outputs=drawn, totals=_totals(run), set_aside=_set_aside(run))


def write_comparison(
    comparisons: Comparison | Sequence[Comparison],
    path: str | Path,
    *,
    worst: int = 20,
    picture: Picture | None = None,
) -> None:
    """Write a page about two runs over the same items, or several such pairs.

    The verdict, by how much each output moved, scatter and Bland-Altman plot, the items that moved
    most, those that one run alone has, the files of both. Equal comparisons give equal bytes.

    Args:
        comparisons: what `compare_runs` has found, of each pair.
        path: the file to write.
        worst: how many items to list.
        picture: as of `write_report`.
    """
    given = [comparisons] if isinstance(comparisons, Comparison) else comparisons
    for each in given:
        refuse_overwriting("path", path, *files_of(each.a.path), *files_of(each.b.path))
    _write(path, "comparison", pairs=[_pair(i, each, worst, picture) for i, each in enumerate(given)])


def _pair(number: int, comparison: Comparison, worst: int, picture: Picture | None) -> dict[str, Any]:
    missing = comparison.missing
    return {
        "comparison": comparison,
        "runs": {"A": _about(comparison.a), "B": _about(comparison.b)},
        "outputs": [
            _moves(comparison, m, f"{number}-{m.output}", worst, picture) for m in comparison.outputs
        ],
        "percent": f"{100 * comparison.confidence:g} %",
        "missing": missing[:LISTED],
        "absent": Counter(item.run for item in missing),
    }


def pictures_in(folder: str | Path) -> Picture:
    """The pictures in a folder: ``ID.svg`` or ``ID.png``, the id as in a URL (``/`` is ``%2F``)."""

    def picture(name: str) -> str | bytes | None:
        stem = quote(name, safe="#() ,=")
        for suffix in (".svg", ".png"):
            file = os.path.join(folder, stem + suffix)
            if os.path.isfile(file):  # false too of a name that is too long for a file
                content = Path(file).read_bytes()
                return content if suffix == ".png" else content.decode()
        return None

    return picture


def _write(path: str | Path, template: str, **values: Any) -> None:
    write_page(path, Path(__file__).parent / "pages" / f"{template}.html", listed=LISTED, **values)


def _about(run: Run) -> dict[str, Any]:
    about = run.about
    files = [("graph", about["graph"]), *([("model", about["model"])] if about.get("model") else [])]
    rounded = {
        f"{name} rounded": f"from {came} to {taken}"
        for name, (came, taken) in about.get("rounded", {}).items()
    }
    notes = {**rounded, **({"columns not used": as_text(about["unused"])} if about.get("unused") else {})}
    return {
        "row": about["graph"]["row"],
        "path": str(run.path),
        "scored": len(run.ids),
        "set_aside": len(run.set_aside),
        "files": [(what, file["file"], file["sha256"]) for what, file in files],
        "data": about["data"],
        "settings": about["graph"]["settings"],
        "environment": {"graph written by": about["graph"]["version"], **about["environment"], **notes},
    }


def _totals(run: Run) -> list[dict[str, Any]]:
    nothing = {"numerator": None, "denominator": None}
    return [{"output": name, **nothing, **total} for name, total in run.about["totals"].items()]


def _set_aside(run: Run) -> dict[str, Any]:
    reasons = Counter(item.reason for item in run.set_aside)
    return {"reasons": reasons.most_common(LISTED), "items": run.set_aside[:LISTED]}


def _output(run: Run, name: str, worst: int, picture: Picture | None) -> dict[str, Any]:
    values, label = run.columns[name], _label(run, name)
    finite = np.isfinite(values)
    drawn = []
    if finite.any():
        shown, sizes = values[finite], run.sizes[finite]
        size_label = _size_label(run)
        drawn = [
            plots.histogram(shown, label, f"{name}-histogram"),
            plots.against_size(sizes, shown, size_label, label, f"{name}-size"),
        ]
    badness = -values if name in _HIGHER else values
    # an item without a number is the worst of all
    order = np.argsort(-np.where(np.isnan(values), np.inf, badness), kind="stable")[:worst]
    items = [
        {"id": run.ids[i], "size": run.sizes[i], "value": values[i], "picture": _image(picture, run.ids[i])}
        for i in order
    ]
    marks = ("lowest", 0), ("5 % below", 0.05), ("median", 0.5), ("95 % below", 0.95), ("highest", 1)
    return {
        "name": name,
        "label": label,
        "size_label": _size_label(run),
        "total": run.about["totals"][name]["value"],
        "unit": _unit(run, name),
        "marks": [(mark, np.quantile(values[finite], at)) for mark, at in marks if finite.any()],
        "plots": drawn,
        "not_finite": int((~finite).sum()),
        "worst": items,
        "extreme": "lowest" if name in _HIGHER else "highest",
        "pictures": any(item["picture"] for item in items),
    }


def _moves(
    comparison: Comparison, moves: Moves, name: str, worst: int, picture: Picture | None
) -> dict[str, Any]:
    a, b = moves.values
    finite = np.isfinite(a) & np.isfinite(b)
    label = _label(comparison.a, moves.output)
    drawn = []
    if finite.any():
        drawn = [
            plots.scatter(a[finite], b[finite], label, f"{name}-scatter"),
            plots.bland_altman(a[finite], b[finite], label, f"{name}-difference"),
        ]
    items = [
        {
            "id": comparison.ids[i],
            "size": comparison.sizes[i],
            "a": a[i],
            "b": b[i],
            "move": moves.moves[i],
            "picture": _image(picture, comparison.ids[i]),
        }
        for i in moves.worst(worst)
    ]
    return {
        "moves": moves,
        "interval": moves.interval if all(map(math.isfinite, moves.interval)) else None,
        "label": label,
        "unit": _unit(comparison.a, moves.output),
        "size_label": _size_label(comparison.a),
        "plots": drawn,
        "not_finite": int((~finite).sum()),
        "worst": items,
        "pictures": any(item["picture"] for item in items),
    }


def _unit(run: Run, output: str) -> str:
    """The unit of an output, where its row has one."""
    return _UNITS.get(run.about["graph"]["row"], "") if output in _IN_UNITS else ""


def _label(run: Run, output: str) -> str:
    unit = _unit(run, output)
    return f"{output} ({unit})" if unit else output


def _size_label(run: Run) -> str:
    return f"length ({run.about['size']})"


def _image(picture: Picture | None, name: str) -> str:
    """The picture of an item as an address that holds it. As an image it runs no script and loads nothing."""
    found = picture(name) if picture is not None else None
    if found is None:
        return ""
    kind, data = ("svg+xml", found.encode()) if isinstance(found, str) else ("png", found)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
