"""Label priors of a corpus: the mean probability of each class, whatever the batches, windows and workers."""

import json
import math
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pytest
from speech import LETTERS, corpus

from exportable_losses import CTCAlign, CTCLoss, CTCPosterior, catalog
from exportable_losses.export import to_onnx
from exportable_losses.runtime import Aligner, Scorer, align_corpus, score_corpus
from exportable_losses.runtime.alignment.tokens import of_names
from exportable_losses.runtime.corpus.priors import estimated, read_priors


def items(number: int, classes: int = 5) -> dict[str, np.ndarray]:
    """Members of an archive: random log-probabilities of several lengths."""
    draw = np.random.default_rng(0)
    found = {}
    for i in range(number):
        logits = 3 * draw.standard_normal((3 + int(draw.integers(30)), classes))
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        found[f"utt{i}.log_probs"] = logits.astype(np.float32)
        found[f"utt{i}.targets"] = np.array([1 + i % (classes - 1)])
    return found


def data_of(folder: Path, arrays: dict[str, Any]) -> Path:
    np.savez(folder / "dev.npz", **arrays)
    return folder / "dev.npz"


def test_they_are_the_mean_over_all_frames(tmp_path: Path) -> None:
    arrays = items(40)
    arrays["utt3.input_lens"] = np.array(2)  # what lies behind a length is not the item's
    data = data_of(tmp_path, dict(sorted(arrays.items(), key=lambda each: each[0].partition(".")[0])))
    found = score_corpus(Scorer(exports.onnx(CTCLoss(0)), priors=True), [data], tmp_path / "out")["priors"]
    frames = [array for name, array in arrays.items() if name.endswith("log_probs")]
    frames[3] = frames[3][:2]
    joined = np.concatenate(frames).astype(np.float64)
    assert (found["frames"], found["left_out"]) == (len(joined), 0)
    np.testing.assert_allclose(np.exp(found["log_priors"]), np.exp(joined).mean(0), rtol=1e-6)
    assert json.loads((tmp_path / "out" / "totals.json").read_text())["priors"] == found


def test_nothing_changes_a_bit_of_them(tmp_path: Path) -> None:
    graph, data = exports.onnx(CTCLoss(0)), data_of(tmp_path, items(60))

    def priors(name: str, window_bytes: int = 1 << 28, workers: int = 1, **how: Any) -> Any:
        scorer = Scorer(graph, priors=True, **how)
        out = tmp_path / name
        return score_corpus(scorer, [data], out, workers=workers, window_bytes=window_bytes)["priors"]

    first = priors("first")
    assert priors("batches", batch_bytes=1) == first
    assert priors("workers", workers=2, batch_bytes=2000) == first
    several = priors("windows", window_bytes=1)
    np.testing.assert_allclose(several["log_priors"], first["log_priors"], rtol=1e-15)


def test_a_run_that_was_broken_off_keeps_them(tmp_path: Path) -> None:
    graph, data = exports.onnx(CTCLoss(0)), data_of(tmp_path, items(400))
    whole = score_corpus(Scorer(graph, priors=True), [data], tmp_path / "whole", window_bytes=1)
    assert whole["data"][0]["rows"] == 400

    def stop(items: int, *_: Any) -> None:
        if items == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        score_corpus(Scorer(graph, priors=True), [data], out, window_bytes=1, progress=stop)
    with pytest.raises(ValueError, match="an unfinished run with priors, or without them: resume"):
        score_corpus(Scorer(graph), [data], out, window_bytes=1)
    assert score_corpus(Scorer(graph, priors=True), [data], out, window_bytes=1) == whole


def test_what_is_set_aside_or_has_no_probabilities_does_not_count(tmp_path: Path) -> None:
    arrays = items(3)
    alone = {name: array for name, array in arrays.items() if name.startswith("utt0")}
    arrays["utt1.log_probs"] = arrays["utt1.log_probs"] - 3
    arrays["utt2.targets"] = np.array([9])
    run = Scorer(exports.onnx(CTCLoss(0)), priors=True)
    found = score_corpus(run, [data_of(tmp_path, arrays)], tmp_path / "out")
    assert (found["set_aside"], found["priors"]["left_out"]) == (1, 1)
    expected = score_corpus(run, [data_of(tmp_path, alone)], tmp_path / "alone")["priors"]
    assert found["priors"] == {**expected, "left_out": 1}


def test_a_class_of_less_than_a_frame_counts_as_one() -> None:
    windows = [{"frames": 6, "sums": [5.0, 1.0, 0.0], "left_out": 0}] * 2
    found = estimated(windows)
    assert found == {"frames": 12, "left_out": 0, "log_priors": [math.log(n / 13) for n in (10, 2, 1)]}
    assert estimated([{"frames": 0, "sums": [], "left_out": 2}])["log_priors"] == []


def test_a_graph_without_log_probs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"priors: got predictions, targets, length, expected a graph that"):
        Scorer(exports.onnx(catalog.get("l1_loss").module()), priors=True)
    assert Scorer(exports.onnx(CTCPosterior()), priors=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text", "priors: got .*priors.npy, which is no .npy file of numbers"),
        (
            b"\x93NUMPY\1\0\x10\0{'descr': '<f8',",
            "which is no .npy file of numbers: got a header that is none",
        ),
        (np.log([[0.5, 0.5]]), r"priors: got float64 of shape \[1, 2\], expected a floating-point vector"),
        (np.array([1, 0]), r"priors: got int64 of shape \[2\], expected a floating-point"),
        (np.array([0.5, 0.5]), "from 0.5 to 0.5 whose exp adds up to 3.297, expected natural logarithms"),
        (np.log10([0.5, 0.5]), "whose exp adds up to 1.48, expected natural logarithms"),
        (np.array([0.0, -np.inf]), "priors: got numbers from -inf to 0 whose exp adds up to 1, expected"),
        (np.array([0.0, np.nan]), "expected natural logarithms"),
        (np.zeros(0), "got float64 of shape \\[0\\], expected a floating-point vector"),
    ],
)
def test_a_file_that_has_none(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "priors.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(ValueError, match=message):
        read_priors(path)


def test_priors_in_python(tmp_path: Path) -> None:
    data = corpus(tmp_path / "dev.parquet")
    priors = np.log(np.full(len(LETTERS), 1 / len(LETTERS)))
    to_onnx(CTCAlign(log_priors=priors), tmp_path / "align.onnx")
    aligner = Aligner(tmp_path / "align.onnx", of_names(LETTERS))
    plain = Aligner(exports.onnx(CTCAlign()), of_names(LETTERS))
    found = [
        align_corpus(each, [data], tmp_path / name, hop=0.02)
        and (tmp_path / name / "words.jsonl").read_text()
        for name, each in (("with", aligner), ("without", plain))
    ]
    assert found[0] == found[1]  # alike for all classes, they change nothing
