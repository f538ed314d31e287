"""Recordings and their words, for the tests of the page."""

import wave
from pathlib import Path

import numpy as np

from exportable_losses.runtime.alignment.report import AlignedItem, write_report
from exportable_losses.runtime.alignment.words import Word

EVIL = "</script><script>evil()</script>\"'&<!--"
HEBREW = "שלום"
HERTZ = 8000


def tone(path: Path, seconds: float, loud: tuple[float, float] = (0.0, 60.0)) -> Path:
    """A WAV file with a tone from when to when, and silence else."""
    time = np.arange(int(seconds * HERTZ)) / HERTZ
    signal = np.where((time >= loud[0]) & (time < loud[1]), np.sin(2 * np.pi * 440 * time), 0)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, HERTZ, 0, "NONE", ""))
        file.writeframes((20000 * signal).astype("<i2").tobytes())
    return path


def three(folder: Path) -> list[AlignedItem]:
    """A recording of nine seconds, one that is damaged, one without a sound."""
    (folder / "damaged.wav").write_bytes(b"RIFFnothing")
    words = [Word("quick", 0.5, 1.2, 0.95), Word("fox", 1.4, 2.0, 0.3), Word("1984", 3, 3.5, 0.01, True)]
    words += [Word(HEBREW, 5.0, 5.4, 0.75), Word("over", 5.8, 6.6, 0.5), Word("dog", 7.5, 8.0, 0.88)]
    return [
        AlignedItem("good", [Word("sure", 0.2, 0.9, 0.99)], 1.0),
        AlignedItem("heard", words, 9.0, tone(folder / "heard.wav", 9.0, (1.4, 2.0))),
        AlignedItem(
            EVIL, [Word(EVIL, 0.1, 0.6, 0.05), Word("b", 0.7, 0.9, 0.9)], 1.0, folder / "damaged.wav"
        ),
    ]


def page_of_three(folder: Path) -> Path:
    """The page of the three, with others set aside."""
    aside = [("lost", "too short"), (EVIL, "<b>no</b>"), ("gone", "too short")]
    write_report(folder / "page.html", iter(three(folder)), title=f"Words {EVIL}", set_aside=aside)
    return folder / "page.html"
