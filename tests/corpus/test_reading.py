"""Which files a corpus is of, and whether they are those of before."""

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from corpora import items_of, write

from exportable_losses.runtime import Scorer, score_corpus
from exportable_losses.runtime.corpus import reading
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
    path.write_bytes(b"two")  # of the same size and time: copied with its time from elsewhere, say
    os.utime(path, ns=(written, written))
    assert fingerprint(str(path)) != before


@pytest.mark.parametrize("size", [1, 1000, reading._SAMPLE, reading._SAMPLE + 1, 3 * reading._SAMPLE - 1])
def test_a_fingerprint_is_of_every_byte_of_a_small_file(size: int, tmp_path: Path) -> None:
    path = tmp_path / "dev.npz"
    found = set()
    for at in (None, 0, size // 2, size - 1):
        content = bytearray(size)
        if at is not None:
            content[at] = 1
        path.write_bytes(content)
        os.utime(path, ns=(0, 0))
        found.add(fingerprint(str(path)))
    assert len(found) == len({None, 0, size // 2, size - 1})


def test_a_fingerprint_of_a_large_file_reads_little_of_it(tmp_path: Path) -> None:
    """Its first and last bytes, and some on the way: the hole of 200 GB would take minutes."""
    path, found = tmp_path / "dev.tar", set()
    for at in (None, 0, 199_999_999_999):
        with path.open("wb") as file:
            file.truncate(200_000_000_000)
            file.seek(at or 0)
            file.write(b"0" if at is None else b"1")
        os.utime(path, ns=(0, 0))
        found.add(fingerprint(str(path)))
    assert len(found) == 3


def test_a_url_that_is_written_anew_is_another() -> None:
    fsspec = pytest.importorskip("fsspec")
    found = []
    for content in (b"one", b"two"):
        with fsspec.open("memory://fingerprint/dev.npz", "wb") as file:
            file.write(content)
        found.append(fingerprint("memory://fingerprint/dev.npz"))
        assert fingerprint("memory://fingerprint/dev.npz") == found[-1]
    assert found[0] != found[1]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "npz", "tar"])
def test_a_link_that_leads_nowhere_is_a_shard_that_is_lost(kind: str, graphs: Any, tmp_path: Path) -> None:
    scorer, dev = Scorer(graphs["ctc_loss"]), tmp_path / "dev"
    dev.mkdir()
    good = write("npz", dev / "good", items_of("ctc_loss", 3), list("abc"))
    link = dev / f"bad.{kind}"
    link.symlink_to("gone")
    why = "unreadable: a link to gone, where there is no file"
    for number, data in enumerate([[dev], [f"{dev}/*"], [link, good]]):
        found = score_corpus(scorer, data, tmp_path / str(number))
        assert found["data"][0] == {"path": str(link), "rows": 0, "damaged": why}
        assert (found["items"], found["data"][1]) == (3, {"path": str(good), "rows": 3})
        aside = pq.read_table(tmp_path / str(number) / "set_aside.parquet").to_pylist()
        assert aside == [{"id": link.name, "source": str(link), "reason": why}]
    link.unlink()
    link.symlink_to(link.name)  # round and round
    with pytest.raises(ValueError, match=f"none of 1 items could be scored; {link.name}: unreadable: a link"):
        score_corpus(scorer, [link], tmp_path / "alone")


def test_a_link_that_leads_nowhere_meanwhile_is_an_error_and_the_run_goes_on(
    graphs: Any, tmp_path: Path
) -> None:
    """A disk that is there again tomorrow, say: nothing of the shard is given up."""
    scorer, items, disk = Scorer(graphs["ctc_loss"]), items_of("ctc_loss", 30), tmp_path / "disk"
    disk.mkdir()
    first = write("npz", tmp_path / "a", items[:25], [f"utt{i}" for i in range(25)])
    write("npz", disk / "b", items[25:], list("abcde"))
    (tmp_path / "b.npz").symlink_to(disk / "b.npz")
    data = [first, tmp_path / "b.npz"]
    whole = score_corpus(scorer, data, tmp_path / "whole")

    def vanish(*_: Any) -> None:
        if disk.exists():
            disk.rename(tmp_path / "away")

    with pytest.raises(ValueError, match=r"^data: .*b\.npz changed while it was scored"):
        score_corpus(scorer, data, tmp_path / "out", window_bytes=1, progress=vanish)
    (tmp_path / "away").rename(disk)
    found = score_corpus(scorer, data, tmp_path / "out", window_bytes=1)
    assert (found["items"], found["totals"]) == (30, whole["totals"])
