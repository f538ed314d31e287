"""Words in the formats of editors, players and tools: text of one item each."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Iterator, Sequence

from ..corpus.results import plain
from .words import Token, Word

_LINE = 80  # characters of a caption
_CAPTION, _PAUSE = 6.0, 1.0  # seconds of a caption, and of a pause that ends one
_SENTENCE = re.compile(r"[.?!…。\uff1f\uff01][\"'”\u2019)\]]*$")


def ctm(id_: str, words: Sequence[Word], duration: float) -> str:
    """NIST's CTM: id, channel, start, duration, word and confidence on each line, parted by spaces.

    Neither an id nor a word may have a space: they get an underscore.
    """
    lines = [
        f"{_joined(id_)} 1 {word.start:.3f} {word.end - word.start:.3f} {_joined(word.text)} "
        f"{min(word.confidence, 1.0):.4f}\n"
        for word in words
    ]
    return "".join(lines)


def _joined(text: str) -> str:
    return re.sub(r"\s+", "_", text)


def json_line(id_: str, words: Sequence[Word], duration: float) -> str:
    """An object on one line, with words and their tokens; seconds to the microsecond."""
    about = {"id": id_, "duration": duration, "words": [dataclasses.asdict(word) for word in words]}
    return json.dumps(_rounded(plain(about)), ensure_ascii=False) + "\n"


def _rounded(content: object) -> object:
    if isinstance(content, dict):
        return {name: _rounded(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    return round(content, 6) if isinstance(content, float) else content


def textgrid(words: Sequence[Word], duration: float) -> str:
    """Praat's TextGrid in the long format: tiers of words and tokens, from zero to the end without gaps."""
    duration = max([duration, *(word.end for word in words)])
    tiers: dict[str, Sequence[Word | Token]] = {"words": words}
    tiers["tokens"] = [token for word in words for token in word.tokens]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0"]
    lines += [f"xmax = {_seconds(duration)}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, parts) in enumerate(tiers.items(), 1):
        intervals = _intervals(parts, duration)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {_seconds(duration)}"]
        lines += [f"        intervals: size = {len(intervals)}"]
        for place, (start, end, text) in enumerate(intervals, 1):
            quoted = text.replace('"', '""')
            lines += [f"        intervals [{place}]:", f"            xmin = {start}"]
            lines += [f"            xmax = {end}", f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


def _intervals(parts: Sequence[Word | Token], duration: float) -> list[tuple[str, str, str]]:
    """Parts and what is between them: the end of each is, as it is written, the start of the next."""
    found = []
    last = _seconds(0.0)
    for part in parts:
        start, end = _seconds(part.start), _seconds(part.end)
        if float(end) <= float(start):  # it ends before the recording begins
            continue
        if float(start) > float(last):
            found.append((last, start, ""))
        found.append((start, end, part.text))
        last = end
    if float(last) < float(_seconds(duration)):
        found.append((last, _seconds(duration), ""))
    return found


def _seconds(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def srt(words: Sequence[Word], duration: float) -> str:
    """SubRip: captions, numbered, with a comma in their times. There is nothing to escape but an arrow."""
    captions = []
    for number, some in enumerate(_captions(words), 1):
        times = f"{_clock(some[0].start, ',')} --> {_clock(some[-1].end, ',')}"
        text = " ".join(word.text for word in some).replace("-->", "->")
        captions.append(f"{number}\n{times}\n{text}\n")
    return "\n".join(captions)


def vtt(words: Sequence[Word], duration: float) -> str:
    """WebVTT: captions, in which each word but the first has the time at which it begins."""
    captions = ["WEBVTT\n"]
    for some in _captions(words):
        start, end = _clock(some[0].start), _clock(some[-1].end)
        text, last = html.escape(some[0].text, quote=False), start
        for word in some[1:]:
            time = _clock(word.start)
            stamp = f"<{time}>" * (last < time < end)
            text, last = f"{text} {stamp}{html.escape(word.text, quote=False)}", max(last, time)
        captions.append(f"{start} --> {end}\n{text}\n")
    return "\n".join(captions)


def _captions(words: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """Words that are shown together: until a sentence ends, there is a pause, or there are too many."""
    first = 0
    for at, word in enumerate(words):
        some = words[first : at + 1]
        following = words[at + 1] if at + 1 < len(words) else None
        if (
            following is None
            or _SENTENCE.search(word.text)
            or following.start - word.end >= _PAUSE
            or following.end - some[0].start > _CAPTION
            or sum(len(each.text) + 1 for each in some) + len(following.text) > _LINE
        ):
            yield some
            first = at + 1


def _clock(seconds: float, point: str = ".") -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def audacity(words: Sequence[Word], duration: float) -> str:
    """Audacity's labels: start, end and text on each line, parted by tabs."""
    return "".join(f"{word.start:.6f}\t{word.end:.6f}\t{word.text}\n" for word in words)
