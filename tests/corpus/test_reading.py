"""Which files a corpus is of, and whether they are those of before."""

import os
from pathlib import Path

import pytest

from exportable_losses.runtime.corpus.reading import fingerprint, shards


def test_a_pattern_may_be_a_url(tmp_path: Path) -> None:
    for name in ("b.npz", "a.npz", "a.tar", "notes.txt"):
        (tmp_path / name).touch()
    assert shards([f"file://{tmp_path}/*.npz"]) == [f"file://{tmp_path}/{name}.npz" for name in "ab"]
    with pytest.raises(FileNotFoundError, match=r"\*\.arrow, where there is no \.parquet, "):
        shards([f"file://{tmp_path}/*.arrow"])


def test_a_file_that_is_written_anew_is_another(tmp_path: Path) -> None:
    """Of the same size too: a run is not taken up again on other numbers."""
    path = tmp_path / "dev.npz"
    path.write_bytes(b"one")
    before = fingerprint(str(path))
    assert fingerprint(str(path)) == before
    written = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(written, written + 1_000_000))
    assert fingerprint(str(path)) != before
    path.write_bytes(b"three")
    os.utime(path, ns=(written, written))
    assert fingerprint(str(path)) != before


def test_a_url_that_is_written_anew_is_another() -> None:
    fsspec = pytest.importorskip("fsspec")
    found = []
    for content in (b"one", b"two"):
        with fsspec.open("memory://fingerprint/dev.npz", "wb") as file:
            file.write(content)
        found.append(fingerprint("memory://fingerprint/dev.npz"))
        assert fingerprint("memory://fingerprint/dev.npz") == found[-1]
    assert found[0] != found[1]
