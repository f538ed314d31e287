"""A long item is a batch of its own, computed once, and what it comes to depends on nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pyarrow.parquet as pq
import pytest
import speech
from speech import LETTERS, scores

from exportable_losses import CTCAlign, catalog
from exportable_losses.runtime import Aligner, Scorer, align_corpus, score_corpus
from exportable_losses.runtime.alignment.tokens import of_names
from exportable_losses.runtime.corpus import batches

FRAMES = batches.LONE // (4 * len(LETTERS)) + 1


def sizes_seen(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the scores that the graph is given."""
    seen: list[tuple[int, ...]] = []
    run = scorer.session.run

    def watched(feed: Mapping[str, np.ndarray]) -> Any:
        seen.append(feed["log_probs"].shape)
        return run(feed)

    monkeypatch.setattr(scorer.session, "run", watched)
    return seen


def test_a_long_recording_is_aligned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(["so it goes"] * (FRAMES // 33))
    rows = [{"id": "talk", "log_probs": scores(text), "text": text}, {"id": "no", "log_probs": scores("no")}]
    data = speech.write(tmp_path / "dev.parquet", [rows[0], {**rows[1], "text": "no"}])
    aligner = Aligner(exports.onnx(CTCAlign()), of_names(LETTERS))
    seen = sizes_seen(aligner, monkeypatch)
    found = align_corpus(aligner, [data], tmp_path / "out", hop=0.02, formats=["textgrid"])
    assert (found["items"], found["words"]) == (2, 3 * (FRAMES // 33) + 1)
    assert sorted(shape[0] for shape in seen) == [1, 2]  # a short one alone is there twice
    ends = pq.read_table(tmp_path / "out" / "items.parquet")["ends"][0].as_py()
    assert ends == [3 * number + 2 for number in range(len(text))]


def test_long_items_are_the_same_in_any_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    arrays = {}
    for number in range(3):
        logits = draw.standard_normal((FRAMES + number, len(LETTERS)))
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        arrays[f"utt{number}.log_probs"] = logits.astype(np.float32)
        arrays[f"utt{number}.targets"] = draw.integers(1, len(LETTERS), 8)
    np.savez(tmp_path / "dev.npz", **arrays)
    graph = exports.onnx(catalog.get("ctc_loss").module())
    for name, size in (("small", 1), ("large", 1 << 30)):
        scorer = Scorer(graph, batch_bytes=size)
        seen = sizes_seen(scorer, monkeypatch)
        score_corpus(scorer, [tmp_path / "dev.npz"], tmp_path / name)
        assert [shape[0] for shape in seen] == [1, 1, 1]
    content = {(tmp_path / name / "items.parquet").read_bytes() for name in ("small", "large")}
    assert len(content) == 1
