"""Picture the page of an alignment for aligning.md: ``python docs/align_report.py``, where a Chromium is.

Nobody speaks in it: words are vowels of made-up formants, with a hiss where one begins with a consonant. The
alignment is made up as well.
"""

import base64
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np

from exportable_losses.export.checking.web import devtools
from exportable_losses.runtime.alignment.report import AlignedItem, write_report
from exportable_losses.runtime.alignment.words import Word

PICTURE = Path(__file__).parent / "images" / "align-report.png"
RATE = 16_000
SENTENCES = {
    "librivox-0142": "the harbour was empty when we came down to the water * and nobody had seen the boat "
    "leave that morning not even the old man who mended nets beside the wall",
    "librivox-0087": "she counted the steps twice to be certain there were 39 of them",
    "librivox-0203": "rain again by noon",
}
DOUBTFUL = {
    "nobody": 0.11,
    "had": 0.38,
    "nets": 0.27,
    "mended": 0.56,
    "twice": 0.46,
    "certain": 0.71,
    "down": 0.64,
}


def spoken(text: str, random: np.random.Generator) -> tuple[np.ndarray, list[Word]]:
    """A sound for a text, and where its words are."""
    pieces, words, at = [np.zeros(int(0.35 * RATE))], [], 0.35
    for word in text.split():
        syllables = [syllable(random, letter) for letter in word[:: 3 if len(word) > 3 else 4]]
        sound, wildcard = np.concatenate(syllables), not word.isalpha()
        sure = DOUBTFUL.get(word, 1 - 0.12 * random.random())
        words.append(Word("" if word == "*" else word, at, at + len(sound) / RATE, sure, wildcard))
        pause = np.zeros(int(RATE * random.choice([0.03, 0.05, 0.09, 0.3], p=[0.4, 0.3, 0.2, 0.1])))
        pieces += [sound, pause]
        at += (len(sound) + len(pause)) / RATE
    signal = np.concatenate([*pieces, np.zeros(int(0.3 * RATE))])
    return signal + 0.004 * random.standard_normal(len(signal)), words


def syllable(random: np.random.Generator, letter: str) -> np.ndarray:
    """A vowel with a falling pitch, behind a hiss if the letter is a consonant."""
    time = np.arange(int(RATE * random.uniform(0.13, 0.2))) / RATE
    phase = 2 * np.pi * (130 - 40 * time).cumsum() / RATE
    formants = random.uniform([300, 900, 2300], [800, 2200, 2900])
    vowel = np.zeros(len(time))
    for harmonic in range(1, 28):
        near = np.exp(-(((harmonic * 120 - formants) / 130) ** 2)).sum()
        vowel += (near + 0.05) / np.sqrt(harmonic) * np.sin(harmonic * phase)
    vowel *= np.hanning(len(time)) ** 0.4 * random.uniform(0.5, 1)
    if letter in "aeiou":
        return 0.5 * vowel
    hiss = random.standard_normal(int(RATE * random.uniform(0.03, 0.07)))
    return np.concatenate([0.12 * hiss * np.hanning(len(hiss)), 0.5 * vowel])


def items(folder: Path) -> list[AlignedItem]:
    """Each sentence, with its sound in a file."""
    random, found = np.random.default_rng(7), []
    for name, text in SENTENCES.items():
        signal, words = spoken(text, random)
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((signal / np.abs(signal).max() * 30000).astype("<i2").tobytes())
        found.append(AlignedItem(name, words, len(signal) / RATE, folder / f"{name}.wav"))
    return found


def main(picture: Path = PICTURE, scheme: str = "light") -> None:
    """Write the picture, in the light scheme or the dark one."""
    found = devtools.browser()
    if found is None:
        sys.exit(f"no browser: none of {', '.join(devtools.BROWSERS)} is on the path")
    with tempfile.TemporaryDirectory() as folder, devtools.page(found) as page:
        path = Path(folder) / "page.html"
        aside = [("librivox-0311", "targets: 41 labels need 47 frames, got 32")]
        write_report(path, items(Path(folder)), title="Three chapters, aligned", set_aside=aside, worst=5)
        screen = {"width": 1180, "height": 1265, "deviceScaleFactor": 1.25, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **screen)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.call("Emulation.setEmulatedMedia", features=features)
        page.call("Emulation.setScrollbarsHidden", hidden=True)
        page.go(path.as_uri())
        page.run("document.querySelector('.context a').click()")
        page.run("scrollTo(0, 300); new Promise(done => setTimeout(done, 500))")
        shown = page.call("Page.captureScreenshot", format="png")["data"]
        picture.write_bytes(base64.b64decode(shown))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]), *sys.argv[2:3])
