"""What the page of an alignment has of a recording: its outline, itself, and what is wrong with it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .waveform import Outline, outline

TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
    ".m4a": "audio/mp4",
}


@dataclass(frozen=True)
class Sound:
    """A recording, as far as the page has it.

    Args:
        address: the recording itself as an address that holds it; empty where the page lacks it.
        levels: its outline, a signed byte for the lowest and one for the highest sample of each place, in
            base64; empty where the browser has to find it out.
        seconds: how long it is; zero where only the browser knows.
        size: its bytes.
        too_large: whether the page lacks it only because of its size.
        notes: what there is to say of it.
    """

    address: str = ""
    levels: str = ""
    seconds: float = 0.0
    size: int = 0
    too_large: bool = False
    notes: tuple[str, ...] = ()


def read_sound(path: Path, duration: float, room: int) -> Sound:
    """Read a recording for the page. What is wrong with it is said in `notes`.

    Args:
        path: the file.
        duration: how long the alignment says that it is, in seconds.
        room: how many bytes the page can still take.
    """
    kind = TYPES.get(path.suffix.lower())
    if kind is None:
        return _without(f"browsers play {', '.join(TYPES)}")
    try:
        drawn = outline(path) if kind == "audio/wav" else None
        size = path.stat().st_size
        content = path.read_bytes() if size <= room else b""
    except OSError as error:
        return _without(error.strerror or str(error))
    except ValueError as error:
        return _without(str(error))
    if kind != "audio/wav" and not size:
        return _without("it is empty")
    return Sound(
        f"data:{kind};base64,{base64.b64encode(content).decode()}" if content else "",
        _encoded(drawn.levels) if drawn else "",
        drawn.seconds if drawn else 0.0,
        size,
        not content,
        _notes(drawn, duration) if drawn else (),
    )


def _without(reason: str) -> Sound:
    return Sound(notes=(f"The audio cannot be used: {reason}.",))


def _encoded(levels: np.ndarray) -> str:
    """`levels` as signed bytes, the loudest at full scale: quiet recordings too are to be seen."""
    loudest = np.abs(levels).max() or 1.0
    return base64.b64encode((levels * (127 / loudest)).round().astype("i1").tobytes()).decode()


def _notes(drawn: Outline, duration: float) -> tuple[str, ...]:
    notes = []
    if drawn.missing > 0:
        whole = drawn.seconds + drawn.missing
        notes.append(f"The audio is cut off: {drawn.seconds:.2f} of {whole:.2f} seconds are there.")
    elif abs(drawn.seconds - duration) > 0.5 + 0.01 * duration:  # the last window, and what a hop rounds
        lengths = f"The audio has {drawn.seconds:.2f} seconds, the alignment {duration:.2f}."
        notes.append(f"{lengths} Is it the right file, and the right hop?")
    return tuple(notes)
