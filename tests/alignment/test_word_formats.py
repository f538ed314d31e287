"""What is written is read back, by readers of a few lines each that know the formats, not their writers."""

import contextlib
import html
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from exportable_losses.runtime.alignment.formats import audacity, ctm, json_line, srt, textgrid, vtt
from exportable_losses.runtime.alignment.words import Token, Word
from exportable_losses.runtime.alignment.writing import FORMATS, check_formats, writers


def word(text: str, start: float, end: float, confidence: float = 0.5) -> Word:
    middle = (start + end) / 2
    tokens = (Token(text[:1], start, middle, confidence), Token(text[1:], middle, end, confidence))
    return Word(text, start, end, confidence, False, tokens)


WORDS = [
    word('"So"', 0.5, 0.75),
    word("R&B<i>", 0.75, 1.1),
    word("ça", 1.3, 1.32, 1.0),
    word("-->", 2.0, 2.5),
]
TIMES = [(0.5, 0.75), (0.75, 1.1), (1.3, 1.32), (2.0, 2.5)]


def read_textgrid(text: str) -> dict[str, list[tuple[float, float, str]]]:
    """The intervals of each tier."""
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = ')
    (tiers,) = re.findall(r"^tiers\? <exists>\nsize = (\d+)\nitem \[\]:$", text, re.MULTILINE)
    found = {}
    for part in re.split(r"^    item \[\d+\]:$", text, flags=re.MULTILINE)[1:]:
        name = re.search(r'class = "IntervalTier"\s+name = "(\w+)"', part)[1]
        size = int(re.search(r"intervals: size = (\d+)", part)[1])
        pattern = r'intervals \[(\d+)\]:\s+xmin = (\S+)\s+xmax = (\S+)\s+text = "((?:[^"]|"")*)"\n'
        intervals = re.findall(pattern, part)
        assert [int(number) for number, *_ in intervals] == list(range(1, size + 1))
        found[name] = [(float(a), float(b), inner.replace('""', '"')) for _, a, b, inner in intervals]
    assert len(found) == int(tiers)
    return found


def test_textgrid() -> None:
    text = textgrid(WORDS, 3.0)
    tiers = read_textgrid(text)
    assert [(start, end) for start, end, inner in tiers["words"] if inner] == TIMES
    assert [inner for *_, inner in tiers["words"]] == ["", '"So"', "R&B<i>", "", "ça", "", "-->", ""]
    assert [inner for *_, inner in tiers["tokens"] if inner][:2] == ['"', 'So"']
    for intervals in tiers.values():  # Praat takes no gap, no overlap and no empty interval
        assert (intervals[0][0], intervals[-1][1]) == (0.0, 3.0)
        assert [a[1] for a in intervals[:-1]] == [b[0] for b in intervals[1:]]
        assert all(start < end for start, end, _ in intervals)
    assert re.findall(r"xmax = (\S+)", text)[0] == "3"


def test_a_textgrid_without_words_is_one_empty_interval() -> None:
    assert read_textgrid(textgrid([], 1.5)) == {"words": [(0.0, 1.5, "")], "tokens": [(0.0, 1.5, "")]}


def test_a_word_that_ends_before_the_recording_begins_is_no_interval() -> None:
    assert read_textgrid(textgrid([word("no", 0.0, 0.0)], 1.0))["words"] == [(0.0, 1.0, "")]


@pytest.mark.parametrize("hop", [0.01, 0.02, 1 / 30, 0.0799999])
def test_times_of_a_textgrid_follow_one_another_whatever_the_hop(hop: float) -> None:
    some = [word("ab", at * hop, (at + 1) * hop) for at in range(0, 900, 3)]
    some += [word("ab", at * hop, (at + 1) * hop) for at in range(900, 1000)]
    intervals = read_textgrid(textgrid(some, 1000 * hop))["words"]
    assert [a[1] for a in intervals[:-1]] == [b[0] for b in intervals[1:]]
    assert len([text for *_, text in intervals if text]) == 400


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


def test_srt() -> None:
    many = [*WORDS, word("on.", 3661.0, 3662.5), word("next", 3662.6, 3663.0)]
    blocks = srt(many, 4000.0).strip().split("\n\n")
    found = []
    for number, block in enumerate(blocks, 1):
        first, times, text = block.split("\n")
        assert first == str(number)
        start, end = re.fullmatch(r"(\d\d:\d\d:\d\d,\d{3}) --> (\d\d:\d\d:\d\d,\d{3})", times).groups()
        found.append((seconds(start), seconds(end), text))
    assert found == [
        (0.5, 2.5, '"So" R&B<i> ça ->'),
        (3661.0, 3662.5, "on."),
        (3662.6, 3663.0, "next"),
    ]


def test_vtt() -> None:
    head, *blocks = vtt(WORDS, 3.0).strip().split("\n\n")
    assert head == "WEBVTT"
    (times, text) = blocks[0].split("\n")
    assert times == "00:00:00.500 --> 00:00:02.500"
    stamps = re.findall(r"<(\d\d:\d\d:\d\d\.\d{3})>", text)
    assert [seconds(stamp) for stamp in stamps] == [0.75, 1.3, 2.0]
    plain = re.sub(r"<\d[\d:.]*>", "", text)
    assert re.search(r"[<>]|&(?!amp;|lt;|gt;)", plain) is None
    assert html.unescape(plain).split() == [each.text for each in WORDS]


def test_captions_are_short_and_lose_no_word() -> None:
    some = [word("word", 0.3 * at, 0.3 * at + 0.2) for at in range(200)]
    blocks = srt(some, 60.0).strip().split("\n\n")
    lines = [block.split("\n")[2] for block in blocks]
    assert " ".join(lines).split() == ["word"] * 200
    assert max(map(len, lines)) <= 80
    for block in blocks:
        start, end = map(seconds, block.split("\n")[1].split(" --> "))
        assert end - start <= 6.0


def test_ctm() -> None:
    some = [*WORDS, word("New York", 2.5, 2.75)]
    rows = [line.split(" ") for line in ctm("talk one", some, 3.0).splitlines()]
    assert {len(row) for row in rows} == {6}
    assert {(row[0], row[1]) for row in rows} == {("talk_one", "1")}
    assert [row[4] for row in rows] == ['"So"', "R&B<i>", "ça", "-->", "New_York"]
    for row, (start, end) in zip(rows, TIMES, strict=False):
        assert float(row[2]) == pytest.approx(start)
        assert float(row[2]) + float(row[3]) == pytest.approx(end)
    assert [float(row[5]) for row in rows] == [0.5, 0.5, 1.0, 0.5, 0.5]


def test_audacity() -> None:
    rows = [line.split("\t") for line in audacity(WORDS, 3.0).splitlines()]
    assert [(float(start), float(end)) for start, end, _ in rows] == TIMES
    assert [text for *_, text in rows] == [each.text for each in WORDS]


def test_json() -> None:
    line = json_line("utt1", [word("so", 3 * 0.02, 0.1 + 0.2, float("nan"))], 3.0)
    found = json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert line.count("\n") == 1
    assert (found["id"], found["duration"]) == ("utt1", 3.0)
    (only,) = found["words"]
    assert (only["text"], only["start"], only["end"], only["confidence"]) == ("so", 0.06, 0.3, "nan")
    assert [token["text"] for token in only["tokens"]] == ["s", "o"]


def written(folder: Path) -> dict[str, Any]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_all_formats_of_two_items(tmp_path: Path) -> None:
    with writers(tmp_path, FORMATS) as write:
        write("dev/utt1", WORDS, 3.0)
        write("été 2", WORDS[:1], 1.0)
    found = written(tmp_path)
    apart = {"textgrid": "TextGrid", "srt": "srt", "vtt": "vtt", "audacity": "txt"}
    names = [
        f"{name}/{id_}.{suffix}"
        for name, suffix in apart.items()
        for id_ in ("dev%2Futt1", "%C3%A9t%C3%A9 2")
    ]
    assert sorted(found) == sorted([*names, "words.ctm", "words.jsonl", "words.parquet"])
    rows = pq.read_table(found["words.parquet"]).to_pylist()
    assert [(row["id"], row["number"], row["text"]) for row in rows][-2:] == [
        ("dev/utt1", 3, "-->"),
        ("été 2", 0, '"So"'),
    ]
    assert rows[0]["tokens"][1] == {"text": 'So"', "start": 0.625, "end": 0.75, "confidence": 0.5}
    assert len(found["words.ctm"].read_text("utf-8").splitlines()) == 5
    assert len(found["words.jsonl"].read_text("utf-8").splitlines()) == 2


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), writers(tmp_path, ["ctm", "parquet", "json"]) as write:
        write("utt1", WORDS, 3.0)
        raise KeyboardInterrupt
    assert written(tmp_path) == {}


def test_a_format_that_is_none() -> None:
    with pytest.raises(
        ValueError, match="formats: got elan, expected ctm, json, textgrid, srt, vtt, audacity, parquet"
    ):
        check_formats(["ctm", "elan"])
