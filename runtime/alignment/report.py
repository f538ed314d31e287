"""An alignment to see and to hear, as one page of HTML that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import heapq
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import refuse_overwriting
from ..html import write_page
from .layout import REM, Line, lines
from .sound import Sound, read_sound
from .waveform import RATE
from .words import Word

LISTED = 100  # of the items that were set aside
MANY = 3000  # words; more are laid out as they come into sight
LEVELS = 5  # colours, each for as much of the confidence
_PAGES = Path(__file__).parent / "pages"
_ABOUT = 3  # words of context on either side


@dataclass(frozen=True)
class AlignedItem:
    """A recording whose words have been found.

    Args:
        id: its name.
        words: its words.
        duration: how long it is, in seconds.
        audio: where it is to be heard: a .wav, .flac, .ogg, .opus, .mp3 or .m4a file.
    """

    id: str
    words: Sequence[Word]
    duration: float
    audio: Path | None = None


@dataclass
class _Sums:
    """What is said of all items, those too that the page does not show."""

    items: int = 0
    seconds: float = 0.0
    wildcards: int = 0
    confidences: array[float] = field(default_factory=lambda: array("d"))

    def counting(self, items: Iterable[AlignedItem]) -> Iterator[AlignedItem]:
        """The same items, added up as they pass."""
        for item in items:
            self.items += 1
            self.seconds += item.duration
            self.wildcards += sum(word.wildcard for word in item.words)
            self.confidences.extend(_sure(word) for word in item.words if not word.wildcard)
            yield item


@dataclass(frozen=True)
class _Shown:
    """An item as the page shows it."""

    item: AlignedItem
    sound: Sound
    lines: list[Line]
    lowest: float | None


@dataclass(frozen=True)
class _Worst:
    """A word that may be wrong: of which item and which of its words, and those about it."""

    item: int
    number: int
    word: Word
    before: str
    after: str


def write_report(
    path: str | Path,
    items: Iterable[AlignedItem],
    *,
    title: str,
    set_aside: Sequence[tuple[str, str]] = (),
    audio_limit: int = 64 << 20,
    shown: int = 200,
    worst: int = 50,
) -> None:
    """Write a page about an alignment: each word under its waveform, to be clicked and heard.

    The colour of a word and the height of its bar say how sure it is. A table lists the worst words; below it
    are the items, those with the worst words first. Equal items give equal bytes.

    A recording that cannot be read, or is cut off, is said to be so, and keeps its words.

    Args:
        path: the file to write.
        items: the items; read once, and no more of them kept than are shown.
        title: the heading of the page.
        set_aside: the ids of the items that could not be aligned, and why.
        audio_limit: how many bytes of audio the page may hold, the worst items first; as text they take a
            third more. What does not fit is said on the page.
        shown: how many items the page shows.
        worst: how many words to list, of the items shown.

    Raises:
        ValueError: `path` is one of the recordings.

    Example::

        word = Word("hello", 0.5, 0.92, confidence=0.97)
        item = AlignedItem("greeting", [word], duration=1.4, audio=Path("greeting.wav"))
        write_report("page.html", [item], title="A greeting")
    """
    sums = _Sums()
    kept = heapq.nsmallest(shown, sums.counting(_apart(path, items)), key=_lowest)
    script = (_PAGES / "alignment.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    write_page(
        path,
        _PAGES / "alignment.html",
        title=title,
        sums=sums,
        median=float(np.median(sums.confidences)) if sums.confidences else None,
        levels=_levels(sums),
        items=_with_sound(kept, audio_limit),
        worst=_worst(kept, worst),
        many=sum(len(item.words) for item in kept) > MANY,
        reasons=Counter(reason for _, reason in set_aside).most_common(LISTED),
        set_aside=set_aside,
        listed=LISTED,
        limit=f"{audio_limit / (1 << 20):.3g} MiB",
        rem=REM,
        rate=RATE,
        level=_level,
        sure=_sure,
        confidence=_confidence,
        decimal=_decimal,
        clock=_clock,
        script=script,
        digest=digest,
    )


def _apart(path: str | Path, items: Iterable[AlignedItem]) -> Iterator[AlignedItem]:
    """The same items, none of whose recordings is where the page will be."""
    for item in items:
        if item.audio is not None:
            refuse_overwriting("path", path, item.audio)
        yield item


def _sure(word: Word) -> float:
    """The confidence of a word; one that is no number is the worst there is."""
    return 0.0 if math.isnan(word.confidence) else min(max(word.confidence, 0.0), 1.0)


def _confidence(word: Word) -> str:
    """The confidence as people read it: as it is, be it out of bounds."""
    return "no number" if math.isnan(word.confidence) else f"{word.confidence:.2f}"


def _level(word: Word) -> int:
    return min(int(_sure(word) * LEVELS), LEVELS - 1)


def _lowest(item: AlignedItem) -> float:
    """The confidence of the worst word; an item that has none comes last. Wildcards fit anything."""
    return min((_sure(word) for word in item.words if not word.wildcard), default=math.inf)


def _levels(sums: _Sums) -> list[dict[str, Any]]:
    """The legend: what each colour is for, and how many words have it."""
    words = np.asarray(sums.confidences)
    counts = np.bincount((words * LEVELS).astype(int).clip(0, LEVELS - 1), minlength=LEVELS)
    return [
        {"from": i / LEVELS, "to": (i + 1) / LEVELS, "words": int(n), "share": n / max(len(words), 1)}
        for i, n in enumerate(counts)
    ]


def _with_sound(items: list[AlignedItem], room: int) -> list[_Shown]:
    found = []
    for item in items:
        sound = Sound() if item.audio is None else read_sound(item.audio, item.duration, room)
        room -= sound.size if sound.address else 0
        lowest = _lowest(item)
        laid = lines(item.words, max(item.duration, sound.seconds))
        found.append(_Shown(item, sound, laid, lowest if lowest < math.inf else None))
    return found


def _worst(items: list[AlignedItem], most: int) -> list[_Worst]:
    every = (
        (_sure(word), i, k)
        for i, item in enumerate(items)
        for k, word in enumerate(item.words)
        if not word.wildcard
    )
    found = []
    for _, i, k in heapq.nsmallest(most, every):
        words = items[i].words
        before, after = words[max(k - _ABOUT, 0) : k], words[k + 1 : k + 1 + _ABOUT]
        found.append(_Worst(i, k, words[k], _text(before), _text(after)))
    return found


def _text(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def _decimal(value: float) -> str:
    """A number for CSS and JavaScript: thousandths, and no more digits than it takes."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _clock(seconds: float, digits: int = 2) -> str:
    """A time as a player shows it: ``0:07.25``, ``1:02:07.25``."""
    hundredths = round(seconds * 10**digits)
    minutes, rest = divmod(hundredths, 60 * 10**digits)
    hours, minutes = divmod(minutes, 60)
    shown = f"{rest / 10**digits:0{3 + digits if digits else 2}.{digits}f}"
    return f"{hours}:{minutes:02}:{shown}" if hours else f"{minutes}:{shown}"
