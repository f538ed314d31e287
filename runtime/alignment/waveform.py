"""The outline of a WAV file, to be drawn. No library is needed; other formats are left to the browser."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ..files import check_regular

RATE = 200  # places of the outline in a second
_BLOCK = 30  # seconds that are read at a time: edges of places and of blocks then meet at every sampling rate
_UNTOLD = (0, 0xFFFFFFFF)  # the size in the header of what was written to a pipe
_EXTENSIBLE = 0xFFFE
# by the tag of the format, and the bytes of a sample
_SAMPLES = {(1, 1): "u1", (1, 2): "<i2", (1, 3): "u1", (1, 4): "<i4", (3, 4): "<f4", (3, 8): "<f8"}


@dataclass(frozen=True)
class Outline:
    """The outline of a recording.

    Args:
        levels: the lowest and the highest sample of each place, over all channels, `[places, 2]`; full scale
            is one.
        seconds: how long the recording is.
        missing: how many seconds more its header promises.
    """

    levels: np.ndarray
    seconds: float
    missing: float


@dataclass(frozen=True)
class _Format:
    tag: int
    channels: int
    rate: int
    width: int  # bytes of a sample

    @property
    def frame(self) -> int:
        return self.channels * self.width


def outline(path: str | Path) -> Outline | None:
    """The outline of a WAV file: PCM of 8, 16, 24 and 32 bits and floating point, any number of channels.

    The file is read in pieces, and may be hours long.

    Args:
        path: the file.

    Returns:
        Nothing where the samples are encoded in a way that is not read here, µ-law say.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    check_regular("audio", path)
    with open(path, "rb") as file:
        form, size = _header(file)
        if (form.tag, form.width) not in _SAMPLES:
            return None
        here = os.fstat(file.fileno()).st_size - file.tell()
        promised = here if size in _UNTOLD else size
        frames = min(here, promised) // form.frame
        if not frames:
            raise ValueError("it has no samples")
        levels = _levels(file, form, frames)
    return Outline(levels, frames / form.rate, (promised // form.frame - frames) / form.rate)


def _header(file: IO[bytes]) -> tuple[_Format, int]:
    """The format, and how many bytes of samples follow, by what the header says."""
    riff = file.read(12)
    if riff[:4] not in (b"RIFF", b"RF64") or riff[8:] != b"WAVE":
        raise ValueError("it does not begin as a WAV file does")
    form = None
    while len(head := file.read(8)) == 8:
        name, size = head[:4], int.from_bytes(head[4:], "little")
        if name == b"data":
            if form is None:
                raise ValueError("its samples come before their format")
            return form, size
        body = file.tell()
        if name == b"fmt ":
            form = _format(file.read(min(size, 40)))
        file.seek(body + size + size % 2)
    raise ValueError("it ends before its samples")


def _format(chunk: bytes) -> _Format:
    if len(chunk) < 16:
        raise ValueError("its format is cut off")
    tag, channels, rate, _, frame, _ = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) == 40:
        (tag,) = struct.unpack_from("<H", chunk, 24)
    if not (channels and rate and frame) or frame % channels:
        raise ValueError(f"its format is impossible: {channels} channels, {rate} Hz, {frame} bytes a frame")
    return _Format(tag, channels, rate, frame // channels)


def _levels(file: IO[bytes], form: _Format, frames: int) -> np.ndarray:
    found = []
    while frames > 0:
        block = file.read(min(frames, _BLOCK * form.rate) * form.frame)
        samples = _samples(block, form)
        places = np.arange(_BLOCK * RATE) * form.rate // RATE
        places = places[places < len(samples)]
        ends = np.minimum.reduceat(samples, places).min(1), np.maximum.reduceat(samples, places).max(1)
        found.append(np.stack(ends, 1))
        frames -= len(samples)
    return np.concatenate(found)


def _samples(block: bytes, form: _Format) -> np.ndarray:
    """`[frames, channels]`, floating point with full scale at one."""
    samples = np.frombuffer(block, _SAMPLES[form.tag, form.width])
    if form.width == 3:  # the upper bytes of four
        wide = np.zeros((len(block) // 3, 4), "u1")
        wide[:, 1:] = samples.reshape(-1, 3)
        samples = wide.view("<i4")
    samples = samples.reshape(-1, form.channels)
    if form.tag == 3:
        return np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if form.width == 1:
        return (samples.astype(np.float32) - 128) / 128
    return samples.astype(np.float32) / 2.0 ** (8 * samples.itemsize - 1)
