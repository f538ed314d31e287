"""The folder of results is not among the data, and is not blocked by a run that scored nothing."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import items_of, write

from exportable_losses.runtime import Scorer, score_corpus

IDS = [f"utt{i}" for i in range(12)]


@pytest.mark.parametrize(
    ("data", "out"),
    [
        ("data", "data"),
        ("data", "data/scores"),
        ("data", "data/../data/scores"),
        ("data", "link"),
        ("link", "data/scores"),
        ("data/*.parquet", "data"),
        ("data/items.parquet", "data"),
    ],
)
def test_results_among_the_data_are_refused(data: str, out: str, graphs: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    path = write("parquet", tmp_path / "data" / "items", items_of("ctc_loss"), IDS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"^out: got .*, where the data .* are, expected another folder$"):
        score_corpus(Scorer(graphs["ctc_loss"]), [tmp_path / data], tmp_path / out)
    assert [each.name for each in (tmp_path / "data").iterdir()] == [path.name]
    assert path.read_bytes() == before


@pytest.mark.parametrize(("data", "out"), [("dev.parquet", "."), ("data", "scores"), ("data", "data-2")])
def test_a_folder_beside_the_data_is_fine(data: str, out: str, graphs: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = write("parquet", tmp_path / "dev", items_of("ctc_loss"), IDS)
    shutil.copy(path, tmp_path / "data")
    score_corpus(Scorer(graphs["ctc_loss"]), [tmp_path / data], tmp_path / out)
    assert (tmp_path / out / "totals.json").exists()


def test_a_run_of_something_else_is_not_gone_on_with(graphs: Any, tmp_path: Path) -> None:
    scorer, out = Scorer(graphs["ctc_loss"]), tmp_path / "out"
    paths = [write("npz", tmp_path / name, items_of("ctc_loss"), IDS) for name in ("dev", "test")]

    def stop(*_: Any) -> None:
        if any(out.glob("state/part-*")):  # something would be lost
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_corpus(scorer, paths[:1], out, window_bytes=3000, progress=stop)
    with pytest.raises(ValueError, match="which holds an unfinished run of other data: resume it with the"):
        score_corpus(scorer, paths[1:], out, window_bytes=3000)
    with pytest.raises(ValueError, match="which holds an unfinished run of another graph: resume it"):
        score_corpus(Scorer(graphs["l1_loss"]), paths[:1], out, window_bytes=3000)
    score_corpus(scorer, paths[:1], out, window_bytes=3000)
    with pytest.raises(ValueError, match="which holds a finished run, expected another folder"):
        score_corpus(scorer, paths[:1], out, window_bytes=3000)


def test_a_run_that_scored_nothing_is_begun_anew_with_other_arguments(graphs: Any, tmp_path: Path) -> None:
    wrong = [{"log_probs": item["log_probs"]} for item in items_of("ctc_loss")]
    paths = [
        write("npz", tmp_path / name, items, IDS)
        for name, items in (("wrong", wrong), ("right", items_of("ctc_loss")))
    ]
    scorer, out = Scorer(graphs["ctc_loss"]), tmp_path / "out"
    for _ in range(2):
        with pytest.raises(ValueError, match="none of 12 items could be scored"):
            score_corpus(scorer, paths[:1], out, window_bytes=3000)
    found = score_corpus(scorer, paths[1:], out)
    assert (found["items"], found["set_aside"]) == (12, 0)
    assert not (out / "state").exists()


def test_a_strict_run_that_stopped_at_once_is_begun_anew(graphs: Any, tmp_path: Path) -> None:
    items = items_of("ctc_loss")
    path = write("npz", tmp_path / "dev", [{**items[0], "targets": np.array([99])}, *items[1:]], IDS)
    scorer, out = Scorer(graphs["ctc_loss"]), tmp_path / "out"
    with pytest.raises(ValueError, match=r"^utt0: targets: got 99"):
        score_corpus(scorer, [path], out, strict=True)
    path = write("npz", tmp_path / "dev", items, IDS)
    assert score_corpus(scorer, [path], out, strict=True)["items"] == 12
