"""Outlines of WAV files against numpy, at every width; and files that are damaged."""

import struct
import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from exportable_losses.runtime.alignment.sound import read_sound
from exportable_losses.runtime.alignment.waveform import RATE, outline

HERTZ = 8000
RANDOM = np.random.default_rng(0)


def wav(
    path: Path, samples: bytes, channels: int, width: int, tag: int = 1, rate: int = HERTZ, **more: int
) -> Path:
    """A WAV file; `told` is what its header says of the size, `sub` the format inside an extensible one."""
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * channels * width, channels * width, 8 * width)
    if "sub" in more:
        form += struct.pack("<HHIH", 22, 8 * width, 0, more["sub"]) + bytes(14)
    chunks = b"LIST" + struct.pack("<I", 3) + b"odd\0"  # what is skipped: of an odd size, so padded
    chunks += b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", more.get("told", len(samples))) + samples
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def encoded(signal: np.ndarray, kind: str) -> bytes:
    if kind.startswith("f"):
        return signal.astype(f"<{kind}").tobytes()
    bits = int(kind[1:])
    whole = np.round(signal * (2 ** (bits - 1) - 1)).astype("<i4")
    if bits == 8:
        return (whole + 128).astype("u1").tobytes()
    return whole[..., None].view("u1")[..., : bits // 8].tobytes()


def expected(signal: np.ndarray, rate: int = HERTZ) -> np.ndarray:
    """The plain way: a loop over places."""
    count = -(-len(signal) * RATE // rate)
    edges = [place * rate // RATE for place in range(count)] + [len(signal)]
    parts = [signal[a:b] for a, b in pairwise(edges) if b > a]
    return np.array([(part.min(), part.max()) for part in parts])


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("kind", ["i8", "i16", "i24", "i32", "f4", "f8"])
@pytest.mark.parametrize("extensible", [False, True])
def test_every_width(kind: str, channels: int, extensible: bool, tmp_path: Path) -> None:
    signal = RANDOM.uniform(-1, 1, (2 * HERTZ + 7, channels))
    width = int(kind[1:]) if kind[0] == "f" else int(kind[1:]) // 8
    tag = 3 if kind[0] == "f" else 1
    more = {"tag": 0xFFFE, "sub": tag} if extensible else {"tag": tag}
    found = outline(wav(tmp_path / "a.wav", encoded(signal, kind), channels, width, **more))
    assert found is not None
    assert (found.seconds, found.missing) == (len(signal) / HERTZ, 0)
    atol = {"i8": 0.02, "i16": 1e-4}.get(kind, 1e-6)
    np.testing.assert_allclose(found.levels, expected(signal), atol=atol)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100])
def test_places_stay_in_time_at_every_rate(rate: int, tmp_path: Path) -> None:
    """Over more than one block of those that are read."""
    signal = RANDOM.uniform(-1, 1, 65 * rate)
    found = outline(wav(tmp_path / "a.wav", encoded(signal, "i16"), 1, 2, rate=rate))
    assert found is not None
    np.testing.assert_allclose(found.levels, expected(signal, rate), atol=1e-4)


def test_what_pythons_own_module_writes(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, HERTZ, 0, "NONE", ""))
        file.writeframes(encoded(np.array([0.5, -0.25]), "i16"))
    found = outline(tmp_path / "a.wav")
    assert found is not None
    np.testing.assert_allclose(found.levels, [[-0.25, 0.5]], atol=1e-4)


def test_floating_point_that_is_no_number_is_silence(tmp_path: Path) -> None:
    found = outline(wav(tmp_path / "a.wav", encoded(np.array([np.nan, np.inf, 0.5]), "f4"), 1, 4, tag=3))
    assert found is not None
    np.testing.assert_array_equal(found.levels, [[0, 0.5]])


@pytest.mark.parametrize("told", [0, 0xFFFFFFFF])
def test_a_size_that_a_pipe_left_open(told: int, tmp_path: Path) -> None:
    found = outline(wav(tmp_path / "a.wav", bytes(2 * HERTZ), 1, 2, told=told))
    assert found is not None
    assert (found.seconds, found.missing) == (1, 0)


def test_a_file_that_is_cut_off_keeps_what_it_has(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", bytes(2 * HERTZ), 1, 2, told=6 * HERTZ)
    sound = read_sound(path, 3.0, 1 << 20)
    assert sound.notes == ("The audio is cut off: 1.00 of 3.00 seconds are there.",)
    assert sound.address
    assert sound.levels


def test_a_codec_is_left_to_the_browser(tmp_path: Path) -> None:
    sound = read_sound(wav(tmp_path / "a.wav", bytes(100), 1, 1, tag=7), 1.0, 1 << 20)  # µ-law
    assert sound.address.startswith("data:audio/wav;base64,UklGR")
    assert (sound.levels, sound.notes) == ("", ())


WHOLE = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\4\0\0\0\1\0\1\0"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "does not begin as a WAV"),
        (b"OggS" + bytes(60), "does not begin as a WAV"),
        (WHOLE[:12], "ends before its samples"),
        (WHOLE[:30], "its format is cut off"),
        (WHOLE[:36], "ends before its samples"),
        (WHOLE[:44], "has no samples"),
        (WHOLE[:45], "has no samples"),
        (WHOLE[:12] + WHOLE[36:], "before their format"),
        (WHOLE.replace(b"\1\0\1\0", b"\1\0\0\0", 1), "impossible: 0 channels"),
        (WHOLE.replace(b"\1\0\1\0", b"\1\0\3\0", 1), "impossible: 3 channels"),
    ],
)
def test_damage_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        outline(tmp_path / "a.wav")
    sound = read_sound(tmp_path / "a.wav", 1.0, 1 << 20)
    assert sound.address == sound.levels == ""
    (note,) = sound.notes
    assert reason in note


def test_every_file_cut_short_or_with_a_byte_changed_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for at in range(len(WHOLE)):
        for byte in (0, 1, 0x7F, 0xFF):
            for content in (WHOLE[:at], WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]):
                path.write_bytes(content)
                read_sound(path, 1.0, 1 << 20)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.wav", "No such file"),
        ("none.mp3", "No such file"),
        ("a.txt", "browsers play"),
        ("folder.wav", "a folder"),
    ],
)
def test_what_is_no_recording(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    (note,) = read_sound(tmp_path / name, 1.0, 1 << 20).notes
    assert reason in note


def test_another_length_than_the_alignments_is_said(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", bytes(8 * HERTZ), 1, 2)
    assert read_sound(path, 3.9, 1 << 20).notes == ()
    (note,) = read_sound(path, 2.0, 1 << 20).notes
    assert note == "The audio has 4.00 seconds, the alignment 2.00. Is it the right file, and the right hop?"
