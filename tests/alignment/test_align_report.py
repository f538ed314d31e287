"""The page of an alignment: one file with all that it needs, whatever the items are."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from recordings import page_of_three, three, tone

from exportable_losses.runtime.alignment.report import AlignedItem, write_report
from exportable_losses.runtime.alignment.words import Word


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of_three(tmp_path_factory.mktemp("page"))


def source(folder: Path, items: list[AlignedItem], **more: Any) -> str:
    write_report(folder / "page.html", items, title="page", **more)
    return (folder / "page.html").read_text(encoding="utf-8")


def test_one_file_that_loads_and_runs_nothing_else(written: Path) -> None:
    page = written.read_text(encoding="utf-8")
    assert re.findall(r"\b(?:src|href)=\"(?!data:|#)[^\"]*", page) == []
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("<script>") == page.count("</script>") == 1
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    assert "<b>no" not in page


def test_the_recording_itself_is_in_it(written: Path) -> None:
    (held,) = re.findall(r'src="data:audio/wav;base64,([^"]*)"', written.read_text(encoding="utf-8"))
    assert base64.b64decode(held) == (written.parent / "heard.wav").read_bytes()


def test_equal_items_give_equal_bytes(written: Path, tmp_path: Path) -> None:
    pages = [source(tmp_path, three(written.parent)) for _ in range(2)]
    assert pages[0] == pages[1]


def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path) -> None:
    """The worst item is too large, and the two after it share what room there is."""
    lengths = {"long": 9.0, "second": 2.0, "third": 2.0, "fourth": 1.0}
    items = [
        AlignedItem(name, [Word(name, 0, 1, 0.1 * i)], seconds, tone(tmp_path / f"{name}.wav", seconds))
        for i, (name, seconds) in enumerate(lengths.items())
    ]
    room = (tmp_path / "second.wav").stat().st_size + (tmp_path / "fourth.wav").stat().st_size
    page = source(tmp_path, items, audio_limit=room)
    assert re.findall(r'<audio[^>]*aria-label="(\w+)"', page) == ["second", "fourth"]
    assert page.count('<p class="note">Not to be heard here') == 2
    assert "2 recordings did not fit: they are seen here" in page
    assert len(re.findall(r'data-levels="[^"]+"', page)) == 4  # all of them are still drawn
    assert "did not fit" not in source(tmp_path, items)


def test_the_worst_of_many_are_shown(tmp_path: Path) -> None:
    items = (AlignedItem(f"item {i}", [Word("a", 0, 1, i / 100)], 1.0) for i in range(99, -1, -1))
    page = source(tmp_path, items, shown=5, worst=3)  # type: ignore[arg-type]
    assert re.findall(r'id="t\d" class="id"><bdi>item (\d)', page) == ["0", "1", "2", "3", "4"]
    assert "The 5 of 100 items that have the worst words" in page
    assert re.findall(r'<a href="#w(\d)-0">', page) == ["0", "1", "2"]
    assert "<b>0.0 to 0.2</b> 20 words" in page
    assert "<dd>1:40</dd>" in page  # the length of all


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "None was aligned."),
        ([AlignedItem("silent", [], 2.0)], "0 words in 0:02.00"),
        ([AlignedItem("all wild", [Word("", 0, 1, 0.0, True)], 2.0)], "\N{ASTERISK OPERATOR}"),
        (
            [AlignedItem("odd", [Word("a", 0, 1, float("nan")), Word("b", 1, 2, 7.0)], 2.0)],
            "confidence no number",
        ),
        (
            [AlignedItem("\ud800", [Word("\ud800\0", 3599.995, 3600.5, 0.5)], 4000.0)],
            "1:00:00.00 to 1:00:00.50",
        ),
    ],
)
def test_odd_items(items: list[AlignedItem], said: str, tmp_path: Path) -> None:
    assert said in source(tmp_path, items)


def test_a_recording_is_not_written_over(tmp_path: Path) -> None:
    item = AlignedItem("a", [], 1.0, tone(tmp_path / "page.html", 1.0))
    with pytest.raises(ValueError, match=r"path: got .*page.html, which is an input too"):
        source(tmp_path, [AlignedItem("worse", [Word("a", 0, 1, 0.1)], 1.0), item], shown=1)
