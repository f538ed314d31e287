"""The pages: all that a run has, nothing from elsewhere, the same bytes each time."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from run_folders import mean_run, write_run

from exportable_losses import catalog
from exportable_losses.runtime.corpus import plots, report
from exportable_losses.runtime.corpus.compare import compare_runs
from exportable_losses.runtime.corpus.report import pictures_in, write_comparison, write_report
from exportable_losses.runtime.corpus.results import as_json
from exportable_losses.runtime.corpus.runs import read_run

RANDOM = np.random.default_rng(3)
EVIL = "<script>alert('&\"')</script>"
SQUARE = '<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'


class Page(HTMLParser):
    """What a page has: tags with attributes, ids, text, and the rows of its tables."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: list[dict[str, Any]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append({"caption": "", "rows": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "caption" in self.open:
            self.tables[-1]["caption"] += data
        elif "td" in self.open or {"tbody", "th"} <= set(self.open):
            self.tables[-1]["rows"][-1][-1] += data

    def table(self, caption: str) -> list[list[str]]:
        """The cells of the table whose caption has these words."""
        (found,) = [table for table in self.tables if caption in table["caption"]]
        return [[cell.strip() for cell in row] for row in found["rows"][1:]]


def one_page(folder: Path, values: Any, sizes: Any = None, **more: Any) -> Page:
    pictured = {key: more.pop(key) for key in ("picture", "worst", "outputs") if key in more}
    run = read_run(mean_run(folder / "run", values, sizes=sizes, **more))
    write_report(run, folder / "page.html", **pictured)
    return Page(folder / "page.html")


def two_pages(folder: Path, a: Any, b: Any, more: dict[str, Any] | None = None, **arguments: Any) -> Page:
    runs = [read_run(mean_run(folder / name, x, **(more or {}))) for name, x in (("a", a), ("b", b))]
    write_comparison(compare_runs(*runs, **arguments), folder / "page.html")
    return Page(folder / "page.html")


def check_alone_and_legible(page: Page) -> None:
    """Nothing is loaded from elsewhere, no script runs, every plot and table says what it is."""
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "foreignobject", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                assert (value or "").startswith(("#", "data:image/"))
        if tag == "img":
            assert attributes["alt"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    assert not re.search(r"@import|url\((?!#)", page.source)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert {attributes["aria-labelledby"], attributes["aria-describedby"]} <= set(ids)
        for reference in re.findall(r"url\(#(.*?)\)", attributes.get("style") or ""):
            assert reference in ids
        if attributes.get("xlink:href"):
            assert attributes["xlink:href"][1:] in ids
    assert all(table["caption"].strip() for table in page.tables)
    used = set(re.findall(r"var\(--([\w-]+)\)", page.source))
    assert used <= set(re.findall(r"--([\w-]+):", page.source))
    assert not re.search(r"#00000[1-5]\b", page.source), "a colour that is not the page's"


def test_a_page_has_what_the_run_has(tmp_path: Path) -> None:
    values = np.arange(1.0, 41.0)
    aside = {"broken": "targets: got 70", "torn": "targets: got 70", "lost": "a NaN"}
    page = one_page(tmp_path, values, np.arange(40) + 50, set_aside=aside)
    check_alone_and_legible(page)
    assert page.table("The outputs over the whole corpus") == [["loss", "20.5", "820", "40"]]
    assert page.table("loss (nats) of items") == [["1", "2.95", "20.5", "38.05", "40"]]
    worst = page.table("The 20 items with the highest loss (nats)")
    assert worst[0] == ["utterance-0039", "89", "40"]
    assert [row[2] for row in worst] == [f"{value:g}" for value in range(40, 20, -1)]
    assert page.table("by reason") == [["targets: got 70", "2"], ["a NaN", "1"]]
    assert page.table("The items") == [[name, "dev.parquet", why] for name, why in aside.items()]
    assert page.table("SHA-256") == [["graph", "ctc_loss.onnx", "5f" * 32]]
    assert page.table("Data") == [["dev.parquet", "43"]]
    assert page.table("Settings") == [["blank_index", "0"], ["reduction", "none"]]
    assert ["native library", "avx2"] in page.table("Environment")
    assert sum(tag == "svg" for tag, _ in page.tags) == 2
    for words in ("loss (nats)", "length (frames)", "items", "median 20.5", "95 % below 38.05"):
        assert words in page.text


def test_a_comparison_has_what_it_found(tmp_path: Path) -> None:
    a = np.arange(1.0, 41.0)
    moves = np.where(np.arange(40) == 7, -2.0, 0.5)
    page = two_pages(tmp_path, a, a + moves, tolerance=1.0)
    check_alone_and_legible(page)
    row = page.table("Totals over the items")[0]
    assert row[:4] == ["loss (nats)", "20.5", "20.9375", "+0.4375"]
    assert row[5:] == ["±1", "40", "✓ within"]
    assert "✓ Passes: all within the tolerances" in page.text
    assert page.table("that moved most")[0] == ["utterance-0007", "100", "8", "6", f"{plots.MINUS}2"]
    assert len(page.table("that moved most")) == 20
    assert "39 items above the line of no change, 1 item below it." in page.text
    spread = 1.96 * moves.std(ddof=1)
    assert (
        f"limits of agreement are {plots.MINUS}{spread - 0.4375:.4g} and +{spread + 0.4375:.4g}" in page.text
    )
    assert "39 items of 40 are within them" in page.text
    assert [row[:2] for row in page.table("SHA-256")] == [["A", "graph"], ["B", "graph"]]


@pytest.mark.parametrize(
    ("tolerance", "words"),
    [
        (0.1, "✗ Does not pass loss: the total moved by +0.4375, more than 0.1"),
        (0.49, "? Undecided: it takes more items to tell loss: the interval of"),
        (None, "No tolerance was given, so there is no verdict"),
    ],
)
def test_the_page_says_the_verdict(tmp_path: Path, tolerance: float | None, words: str) -> None:
    a = np.arange(1.0, 41.0)
    page = two_pages(tmp_path, a, a + np.where(np.arange(40) == 7, -2.0, 0.5), tolerance=tolerance)
    assert words in " ".join(page.text.split())


def test_the_page_lists_what_one_run_lacks(tmp_path: Path) -> None:
    a = mean_run(tmp_path / "a", [1.0, 2.0, 3.0], ids=["x", "y", "z"])
    b = mean_run(tmp_path / "b", [1.0], ids=["x"], set_aside={"y": "a NaN"})
    write_comparison(compare_runs(read_run(a), read_run(b)), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert page.table("that B lacks") == [["y", "B", "set aside: a NaN"], ["z", "B", "not in its data"]]
    assert "2 items scored in only one run" in page.text


def test_whatever_the_data_say_is_text(tmp_path: Path) -> None:
    """Ids, reasons, settings, paths and names of outputs come from outside."""
    odd = {"ids": [EVIL, "$x^2$"], "set_aside": {EVIL + "2": EVIL}, "settings": {EVIL: EVIL}, "row": EVIL}
    page = one_page(tmp_path, [2.0, 1.0], **odd, picture=lambda name: SQUARE)
    check_alone_and_legible(page)
    assert page.table("The 2 items")[0][0] == EVIL
    assert page.table("The items")[0] == [EVIL + "2", "dev.parquet", EVIL]
    page = two_pages(tmp_path / "two", [2.0, 1.0], [3.0, 0.0], {**odd, "settings": {"a": EVIL}})
    check_alone_and_legible(page)
    assert page.table("that moved most")[0][0] == EVIL
    total = {EVIL: {"kind": "sum", "by": "", "value": 3.0}}
    run = read_run(write_run(tmp_path / "named", {EVIL: [1.0, 2.0]}, total))
    write_report(run, tmp_path / "page.html")
    check_alone_and_legible(Page(tmp_path / "page.html"))
    write_comparison(compare_runs(run, run), tmp_path / "page.html")
    check_alone_and_legible(Page(tmp_path / "page.html"))


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    values = RANDOM.gamma(2, 10, 2500)
    run = read_run(mean_run(tmp_path / "a", values))
    other = read_run(mean_run(tmp_path / "b", values + RANDOM.normal(0, 1, 2500)))
    for name in ("first", "second"):
        write_report(run, tmp_path / f"{name}.html")
        write_comparison(compare_runs(run, other), tmp_path / f"{name}-two.html")
    for suffix in (".html", "-two.html"):
        assert (tmp_path / f"first{suffix}").read_bytes() == (tmp_path / f"second{suffix}").read_bytes()


def test_the_settings_of_matplotlib_change_nothing(tmp_path: Path) -> None:
    import matplotlib as mpl

    plain = plots.histogram(np.arange(9.0), "loss").svg
    with mpl.rc_context({"axes.linewidth": 5, "font.size": 30, "svg.fonttype": "path"}):
        assert plots.histogram(np.arange(9.0), "loss").svg == plain
    assert mpl.rcParams["svg.hashsalt"] is None


def points(svg: str) -> int:
    """How many points or hexagons a plot has."""
    return sum("fill: var(--accent)" in each for each in re.findall(r"<use.*?/>", svg))


def bars(svg: str) -> list[float]:
    """How high each bar of a histogram is."""
    paths = [each for each in re.findall(r"<path.*?/>", svg, re.DOTALL) if "fill: var(--accent)" in each]
    levels = [list(map(float, re.findall(r"[ML] [\d.]+ ([\d.]+)", path))) for path in paths]
    return [max(level) - min(level) for level in levels]


def test_a_histogram_has_a_bar_for_each_range() -> None:
    values = np.repeat([0.0, 10.0], [30, 70])
    heights = bars(plots.histogram(values, "loss").svg)
    assert len(heights) == 10  # of equal width, most of them empty
    assert [height > 1 for height in heights] == [True, *[False] * 8, True]
    assert heights[-1] / heights[0] == pytest.approx(7 / 3, rel=1e-3)


def test_what_is_far_away_does_not_flatten_the_histogram() -> None:
    values = np.append(RANDOM.normal(50, 5, 999), 1e6)
    plot = plots.histogram(values, "loss")
    assert "further out, in the outermost bars" in plot.description
    assert "to 1e+06" in plot.description
    assert ">1000000<" not in plot.svg
    counts = np.array(bars(plot.svg)) / sum(bars(plot.svg)) * 1000
    np.testing.assert_allclose(counts, counts.round(), atol=0.02)  # each of the thousand is in a bar
    everything = plots.histogram(RANDOM.normal(50, 5, 1000), "loss")
    assert "further out" not in everything.description


def test_few_items_are_points_and_many_are_hexagons() -> None:
    for count in (1, 300, plots.POINTS):
        a = RANDOM.gamma(3, 10, count)
        svg = plots.scatter(a, a + RANDOM.normal(0, 1, count), "loss", "x").svg
        assert points(svg) == count
    a = RANDOM.gamma(3, 10, 50_000)
    plot = plots.scatter(a, a + RANDOM.normal(0, 1, 50_000), "loss", "x")
    assert 50 < points(plot.svg) < 2500
    assert "hexagon" in plot.description


def test_a_bland_altman_plot_keeps_its_outliers() -> None:
    a = RANDOM.gamma(3, 10, 400)
    moves = RANDOM.normal(0.1, 0.2, 400)
    moves[5], moves[6] = 80.0, 90.0
    plot = plots.bland_altman(a, a + moves, "loss", "x")
    centre, spread = moves.mean(), 1.96 * moves.std(ddof=1)
    signed = [
        f"{value:+.4g}".replace("-", plots.MINUS) for value in (centre, centre - spread, centre + spread)
    ]
    assert f"mean {signed[0]}" in plot.svg
    assert f"limits of agreement {signed[1]}, {signed[2]}" in plot.svg
    beyond = int(re.findall(r"(\d+) items? further out: triangles", plot.description)[0])
    assert 2 <= beyond <= 6


def test_medians_over_sizes_are_medians() -> None:
    sizes = np.repeat([10, 20, 30], 5)
    values = np.arange(15.0)
    plot = plots.against_size(sizes, values, "length (frames)", "loss (nats)")
    assert "15 items of 10 to 30 frames. The median goes from 2 for the shortest to 12" in plot.description


def test_a_label_is_no_formula() -> None:
    assert r">$\frac$<" in plots.histogram(np.arange(3.0), r"$\frac$").svg


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values",
    [
        [3.0],
        [2.0, 2.0],
        [np.inf, np.nan, 1.0],
        [np.inf, np.inf],
        [1e300, -1e300, 0.0],
        [1e-300, 2e-300],
        [0.0],
    ],
)
def test_odd_values_make_a_page_too(tmp_path: Path, values: list[float]) -> None:
    check_alone_and_legible(one_page(tmp_path, values))
    check_alone_and_legible(two_pages(tmp_path / "same", values, values))
    check_alone_and_legible(two_pages(tmp_path / "two", values, [0.5] * len(values)))


def test_an_item_without_a_number_is_the_worst(tmp_path: Path) -> None:
    page = one_page(tmp_path, [5.0, np.nan, 7.0, np.inf])
    assert [row[2] for row in page.table("highest")] == ["no number", "∞", "7", "5"]
    assert "2 items without a finite value, not in the plots." in page.text


def test_of_accuracy_the_lowest_is_the_worst(tmp_path: Path) -> None:
    columns = {"accuracy": [0.9, 0.1, 0.5], "accuracy_weight": [1.0, 1.0, 1.0]}
    totals = {"accuracy": {"kind": "mean", "by": "T", "value": 0.5, "numerator": 1.5, "denominator": 3.0}}
    write_report(read_run(write_run(tmp_path / "run", columns, totals, row="Accuracy")), tmp_path / "p.html")
    assert [row[2] for row in Page(tmp_path / "p.html").table("lowest accuracy")] == ["0.1", "0.5", "0.9"]


def test_pictures_are_images_that_hold_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "dev%2Futt 1.svg").write_text(SQUARE)
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    ids = ["dev/utt 1", "b", "none"]
    page = one_page(tmp_path, [3.0, 2.0, 1.0], ids=ids, picture=pictures_in(folder))
    check_alone_and_legible(page)
    shown = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [each["alt"] for each in shown] == ["Picture of dev/utt 1", "Picture of b"]
    assert [(each["src"] or "")[:25] for each in shown] == [
        "data:image/svg+xml;base64",
        "data:image/png;base64,iVB",
    ]
    assert pictures_in(folder / "inner")("../b") is None


def test_which_outputs_are_drawn(tmp_path: Path) -> None:
    columns = {"one": [1.0, 2.0], "other": [3.0, 4.0]}
    totals = {name: {"kind": "sum", "by": "", "value": sum(values)} for name, values in columns.items()}
    run = read_run(write_run(tmp_path / "run", columns, totals, row="EditDistance"))
    for outputs, count in (((), 2), (("other", "one"), 4)):
        write_report(run, tmp_path / "page.html", outputs=outputs)
        page = Page(tmp_path / "page.html")
        check_alone_and_legible(page)
        assert sum(tag == "svg" for tag, _ in page.tags) == count
    with pytest.raises(ValueError, match="output: got third, expected one of one, other"):
        write_report(run, tmp_path / "page.html", outputs=["third"])


def test_a_page_about_many_items_is_small(tmp_path: Path) -> None:
    count = 100_000
    a = RANDOM.gamma(4, 10, count)
    aside = {f"broken-{i}": f"reason {i}" for i in range(1000)}
    page = one_page(tmp_path, a, RANDOM.integers(50, 401, count), set_aside=aside)
    assert (tmp_path / "page.html").stat().st_size < 600_000
    assert len(page.table("The items: the first 100")) == 100
    mean_run(
        tmp_path / "b", a + RANDOM.standard_t(2, count), ids=[f"utterance-{i:04d}" for i in range(count)]
    )
    found = compare_runs(read_run(tmp_path / "run"), read_run(tmp_path / "b"), resamples=50)
    write_comparison(found, tmp_path / "two.html")
    assert (tmp_path / "two.html").stat().st_size < 600_000


@pytest.mark.parametrize("size", ["frames", "tokens", "numbers"])
def test_the_page_says_what_sizes_count(size: str, tmp_path: Path) -> None:
    run = read_run(mean_run(tmp_path / "run", [1.0, 2.0], size=size))
    write_report(run, tmp_path / "page.html")
    assert tmp_path.joinpath("page.html").read_text(encoding="utf-8").count(f"length ({size})") > 2


def test_units_are_of_rows() -> None:
    assert set(report._UNITS) <= set(catalog.names())


def test_the_page_has_the_model_that_ran_first(tmp_path: Path) -> None:
    folder = mean_run(tmp_path / "run", [1.0, 2.0])
    about = json.loads((folder / "totals.json").read_text())
    about["model"] = {"file": "model.onnx", "sha256": "a7" * 32, "inputs": {"log_probs": "scores"}}
    (folder / "totals.json").write_text(json.dumps(about))
    write_report(read_run(folder), tmp_path / "page.html")
    assert Page(tmp_path / "page.html").table("SHA-256") == [
        ["graph", "ctc_loss.onnx", "5f" * 32],
        ["model", "model.onnx", "a7" * 32],
    ]


def test_of_many_items_that_one_run_lacks_some_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "LISTED", 2)
    a = mean_run(tmp_path / "a", np.arange(6.0))
    b = mean_run(tmp_path / "b", np.arange(2.0))
    write_comparison(compare_runs(read_run(a), read_run(b)), tmp_path / "page.html")
    listed = Page(tmp_path / "page.html").table("4 that B lacks: the first 2")
    assert [row[0] for row in listed] == ["utterance-0002", "utterance-0003"]


def test_a_histogram_of_many_items_has_bars_that_can_be_told_apart() -> None:
    counts = [len(bars(plots.histogram(np.linspace(0, 1, items), "loss").svg)) for items in (1000, 50_000)]
    assert counts == [20, 60]  # twice the cube root of the number of items, up to sixty


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_leaves_the_page_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("before")
    (tmp_path / "page.html.unfinished").symlink_to("/dev/full")  # what is written there finds no space
    run = read_run(mean_run(tmp_path / "run", [1.0, 2.0]))
    with pytest.raises(OSError, match="No space left on device"):
        write_report(run, path)
    assert path.read_text() == "before"


@pytest.mark.parametrize("name", ["é" * 150, ".", "..", "a/b", "../up", "nul\0", "CON", " ", "a%2Fb", "x\ny"])
def test_a_picture_of_any_id_is_one_in_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (tmp_path / "pictures.svg").write_text("of nobody")
    (tmp_path / "up.svg").write_text("of nobody")
    picture = pictures_in(folder)
    assert picture(name) is None
    if len(name) < 100:
        (folder / f"{quote(name, safe='#() ,=')}.svg").write_text(f"of {name}")
        assert picture(name) == f"of {name}"


def test_totals_that_are_not_finite_are_read_as_they_were(tmp_path: Path) -> None:
    folder = mean_run(tmp_path / "run", [1.0, math.inf, math.nan])
    about = json.loads((folder / "totals.json").read_text())
    (folder / "totals.json").write_bytes(as_json(about))
    json.loads((folder / "totals.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    total = read_run(folder).about["totals"]["loss"]
    assert math.isnan(total["value"])
    write_report(read_run(folder), tmp_path / "page.html")
    assert "no number" in (tmp_path / "page.html").read_text()
