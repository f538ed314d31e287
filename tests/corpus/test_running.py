"""A run that is taken up again looks at what was scored before; and what is said of a run while it lasts."""

import contextlib
import hashlib
import multiprocessing
from pathlib import Path
from typing import Any

import onnx
import pytest
from corpora import items_of, write

from exportable_losses.runtime import Scorer, score_corpus
from exportable_losses.runtime.corpus import running
from exportable_losses.runtime.corpus.about import about

IDS = [f"utt{i}" for i in range(6)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six items, the first of which has a label that is none."""
    items = items_of("ctc_loss", 6)
    items[0]["targets"][0] = 99
    return write("npz", tmp_path / "dev", items, IDS)


@pytest.fixture
def begun(corpus: Path, graphs: dict[str, Path], tmp_path: Path) -> Path:
    """The folder of a run that was broken off when it had two windows of one item each."""

    def stop(items: int, *_: Any) -> None:
        if items == 3:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        score_corpus(Scorer(graphs["ctc_loss"]), [corpus], tmp_path / "out", window_bytes=1, progress=stop)
    assert len(list((tmp_path / "out" / "state").glob("part-*"))) == 2
    return tmp_path / "out"


def test_strict_looks_at_what_was_set_aside_before(
    begun: Path, corpus: Path, graphs: dict[str, Path]
) -> None:
    """Nothing more is scored, and without `strict` the run goes on."""
    scorer = Scorer(graphs["ctc_loss"])
    with pytest.raises(ValueError, match=r"^utt0: targets: got 99 at \[0, 0\]"):
        score_corpus(scorer, [corpus], begun, window_bytes=1, strict=True)
    assert len(list((begun / "state").glob("part-*"))) == 2
    found = score_corpus(scorer, [corpus], begun, window_bytes=1)
    assert (found["items"], found["set_aside"]) == (5, 1)


def test_progress_counts_what_was_scored_before_but_not_in_its_rate(
    begun: Path, corpus: Path, graphs: dict[str, Path]
) -> None:
    told: list[tuple[Any, ...]] = []
    found = score_corpus(
        Scorer(graphs["ctc_loss"]), [corpus], begun, window_bytes=1, progress=lambda *now: told.append(now)
    )
    assert [items for items, *_ in told] == [1, 2, 3, 4, 5, 6]
    assert [aside for _, aside, *_ in told] == [1] * 6
    assert [rate > 0 for _, _, rate, _ in told] == [False] * 2 + [True] * 4
    assert told[0][-1] == {}  # nothing has counted yet
    assert told[-1][-1] == {"loss": found["totals"]["loss"]["value"]}


@pytest.mark.parametrize("workers", [0, -1])
def test_a_run_needs_a_worker(workers: int, corpus: Path, graphs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^workers: got {workers}, expected one or more"):
        score_corpus(Scorer(graphs["ctc_loss"]), [corpus], tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()


class Told(Exception):
    """What a worker was given is known."""


@pytest.mark.parametrize(("threads", "each"), [(None, 1), (3, 3)])
def test_a_worker_has_one_thread_unless_it_is_told_otherwise(
    threads: int | None,
    each: int,
    corpus: Path,
    graphs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Context:
        Pipe = staticmethod(multiprocessing.Pipe)

        def Process(self, args: Any, **_: Any) -> Any:
            raise Told(args[1].keywords["threads"])

    monkeypatch.setattr(running.multiprocessing, "get_context", lambda method: Context())
    scorer = Scorer(graphs["ctc_loss"], threads=threads)
    with pytest.raises(Told, match=f"^{each}$"):
        score_corpus(scorer, [corpus], tmp_path / "out", workers=2)
    assert scorer.settings["threads"] == threads


def test_a_run_says_the_hash_of_the_whole_graph(graphs: dict[str, Path], tmp_path: Path) -> None:
    graph, path = onnx.load(graphs["ctc_loss"]), tmp_path / "large.onnx"
    graph.doc_string = "-" * (3 << 20)
    onnx.save(graph, path)
    found = about(Scorer(path))
    assert (found["graph"]["file"], found["model"]) == ("large.onnx", None)
    assert found["graph"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
