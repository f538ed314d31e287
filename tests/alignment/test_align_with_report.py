"""The page that `align_corpus` writes: its items, their recordings, and what was set aside."""

import os
import re
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pyarrow.parquet as pq
import pytest
import speech
from recordings import tone
from speech import LETTERS, TEXTS, corpus, scores

from exportable_losses import CTCAlign
from exportable_losses.runtime import Aligner, align_corpus
from exportable_losses.runtime.alignment.recordings import in_folder
from exportable_losses.runtime.alignment.tokens import of_names


def aligner(**how: Any) -> Aligner:
    return Aligner(exports.onnx(CTCAlign()), of_names(LETTERS), **how)


def heard(page: Path) -> list[str]:
    return sorted(re.findall(r'<audio[^>]*aria-label="([^"]+)"', page.read_text("utf-8")))


def with_paths(folder: Path) -> Path:
    """Three items, of which the first two name recordings, and a fourth that is too long for its frames."""
    (folder / "wav").mkdir()
    tone(folder / "wav" / "first.wav", 0.5)
    rows = [
        {"id": "a", "log_probs": scores("no"), "text": "no", "sound": "wav/first.wav"},
        {"id": "b", "log_probs": scores("so"), "text": "so", "sound": "wav/nowhere.wav"},
        {"id": "c", "log_probs": scores("so"), "text": "so", "sound": None},
        {"id": "d", "log_probs": scores("so"), "text": "much too long", "sound": "wav/first.wav"},
    ]
    return speech.write(folder / "dev.parquet", rows)


@pytest.mark.parametrize("transcripts", [False, True])
def test_a_column_of_paths(transcripts: bool, tmp_path: Path) -> None:
    data = with_paths(tmp_path)
    (tmp_path / "text").write_text("a no\nb so\nc so\nd much too long\n")
    how = {"transcripts": tmp_path / "text"} if transcripts else {}
    page = tmp_path / "pages" / "page.html"
    found = align_corpus(aligner(**how), [data], tmp_path / "out", hop=0.02, report=page, audio="sound")
    assert (found["words"], found["heard"]) == (3, 1)
    assert found.get("unused", {}) == ({"text": ""} if transcripts else {})
    assert heard(page) == ["a"]
    written = page.read_text("utf-8")
    assert "The audio cannot be used: No such file or directory." in written
    assert "targets: got 13 labels for 6 frames, expected 14 frames at least" in written
    assert "<title>dev.parquet" in written


def test_members_of_an_archive(tmp_path: Path) -> None:
    tone(tmp_path / "it.wav", 0.5)
    arrays = {"sp0.9-a.audio": np.array("it.wav"), "sp0.9-a.log_probs": scores("no"), "sp0.9-a.text": "no"}
    np.savez(tmp_path / "dev.npz", **arrays)
    page = tmp_path / "page.html"
    align_corpus(aligner(), [tmp_path / "dev.npz"], tmp_path / "out", hop=0.02, report=page, audio="audio")
    assert heard(page) == ["sp0.9-a"]


def test_a_folder_of_recordings_named_by_id(tmp_path: Path) -> None:
    data, sounds = corpus(tmp_path / "dev.parquet"), tmp_path / "sounds"
    sounds.mkdir()
    tone(sounds / "utt1.wav", 0.1)
    (sounds / "utt3.mp3").write_bytes(b"something")
    first = align_corpus(aligner(), [data], tmp_path / "out", hop=0.02)
    assert "heard" not in first
    before = (tmp_path / "out" / "items.parquet").stat().st_mtime_ns
    page = tmp_path / "page.html"
    found = align_corpus(aligner(), [data], tmp_path / "out", hop=0.02, report=page, audio=sounds)
    assert (found["heard"], heard(page)) == (2, ["utt1", "utt3"])
    assert (tmp_path / "out" / "items.parquet").stat().st_mtime_ns == before
    assert all(f"utt{number}" in page.read_text("utf-8") for number in range(len(TEXTS)))


def test_an_id_leads_to_a_file_of_the_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "sounds"
    (folder / "dev").mkdir(parents=True)
    for name in ("dev/a.wav", "dev%2Fb.flac", "dev/c.txt", "../sounds.wav", "../other.wav"):
        (folder / name).touch()
    assert in_folder(folder, "dev/a") == folder / "dev" / "a.wav"
    assert in_folder(folder, "dev/b") == folder / "dev%2Fb.flac"
    for id_ in ("dev/c", ".", "/", "../other", "dev/../../other", str(tmp_path / "other"), "\0", "x" * 300):
        assert in_folder(folder, id_) is None


def test_a_report_that_cannot_be_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    data, out = corpus(tmp_path / "dev.parquet"), tmp_path / "out"
    os.link(data, tmp_path / "link.html")
    for how, message in (
        ({"report": data}, "report: got .*dev.parquet, which is an input too"),
        ({"report": tmp_path / "link.html"}, "report: got .*link.html, which is an input too"),
        ({"audio": "text"}, "audio: got text without a report, expected one"),
        (
            {"report": tmp_path / "page.html", "audio": "sound"},
            "audio: got sound, which is neither, expected",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            align_corpus(aligner(), [data], out, hop=0.02, **how)
    assert not out.exists()
    align_corpus(aligner(), [data], out, hop=0.02)
    with pytest.raises(ValueError, match=r"report: got .*items.parquet, which is an input too"):
        align_corpus(aligner(), [data], out, hop=0.02, report=out / "items.parquet")
    assert pq.read_table(out / "items.parquet").num_rows == len(TEXTS)
