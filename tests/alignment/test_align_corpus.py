"""Corpora aligned with their transcripts: to the words and seconds that the scores were made of."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import speech
import torch
from speech import LETTERS, TEXTS, corpus, scores

from exportable_losses import CTCAlign, CTCLoss, catalog
from exportable_losses.runtime import Aligner, align_corpus
from exportable_losses.runtime.alignment.tokens import WILDCARD, of_names
from exportable_losses.runtime.corpus.columns import Column

HOP = 0.02


class Acoustic(torch.nn.Module):
    """Gives its features as scores."""

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": features, "scores": (2 * features).log_softmax(-1)}


@pytest.fixture
def graph() -> Path:
    return exports.onnx(CTCAlign())


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    (tmp_path / "tokens.txt").write_text("\n".join(LETTERS))
    return tmp_path / "tokens.txt"


def words_of(out: Path) -> dict[str, list[dict[str, Any]]]:
    lines = (out / "words.jsonl").read_text("utf-8").splitlines()
    return {item["id"]: item["words"] for item in map(json.loads, lines)}


def aside(out: Path) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in pq.read_table(out / "set_aside.parquet").to_pylist()}


def test_words_are_where_the_scores_say(graph: Path, tokens: Path, tmp_path: Path) -> None:
    data, out = corpus(tmp_path / "dev.parquet"), tmp_path / "out"
    found = align_corpus(Aligner(graph, tokens), [data], out, hop=HOP, offset=1.0)
    assert (found["items"], found["set_aside"], found["words"], found["wildcards"]) == (5, 0, 10, {})
    for number, text in enumerate(TEXTS):
        items = words_of(out)[f"utt{number}"]
        assert [word["text"] for word in items] == text.split()
        begin = 0
        for word in items:  # each letter takes two frames and a blank, and so does the bar
            assert word["start"] == pytest.approx(1 + HOP * 3 * begin)
            assert word["end"] == pytest.approx(1 + HOP * (3 * (begin + len(word["text"])) - 1))
            assert 0.9 < word["confidence"] < 1
            begin += len(word["text"]) + 1
    columns = pq.read_table(out / "items.parquet").column_names
    assert {"id", "size", "path_scores", "tokens", "starts", "ends", "scores"} < set(columns)


def test_what_is_written_has_the_words_as_they_are_written(graph: Path, tokens: Path, tmp_path: Path) -> None:
    data = speech.write(
        tmp_path / "dev.parquet", [{"id": "a", "log_probs": scores("it rains"), "text": ' "It\u00a0rains!" '}]
    )
    align_corpus(Aligner(graph, tokens), [data], tmp_path / "out", hop=HOP)
    assert [word["text"] for word in words_of(tmp_path / "out")["a"]] == ['"It', 'rains!"']


def test_every_way_to_have_transcripts(graph: Path, tokens: Path, tmp_path: Path) -> None:
    corpus(tmp_path / "dev.parquet")
    found = {}
    (tmp_path / "text").write_text("".join(f"utt{i} {text}\n" for i, text in enumerate(TEXTS)))
    lines = (json.dumps({"id": f"utt{i}", "text": text}) for i, text in enumerate(TEXTS))
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    table = pq.read_table(tmp_path / "dev.parquet")
    as_category = table.set_column(2, "said", table["text"].cast(pa.large_string()).dictionary_encode())
    with (
        pa.OSFile(str(tmp_path / "dev.arrow"), "wb") as file,
        pa.ipc.new_file(file, as_category.schema) as writer,
    ):
        writer.write_table(as_category)
    arrays = {f"utt{i}.log_probs": scores(text) for i, text in enumerate(TEXTS)}
    texts = {f"utt{i}.text": np.array(text) for i, text in enumerate(TEXTS)}
    np.savez(tmp_path / "dev.npz", **dict(sorted({**arrays, **texts}.items())))
    for name, data, how in (
        ("column", "dev.parquet", {}),
        ("kaldi", "dev.parquet", {"transcripts": tmp_path / "text"}),
        ("json", "dev.parquet", {"transcripts": tmp_path / "text.jsonl"}),
        ("category", "dev.arrow", {"text": "said"}),
        ("npz", "dev.npz", {}),
    ):
        align_corpus(Aligner(graph, tokens, **how), [tmp_path / data], tmp_path / name, hop=HOP)
        found[name] = words_of(tmp_path / name)
    assert all(each == found["column"] for each in found.values())


def test_the_text_of_a_single_item(graph: Path, tokens: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "talk.npz", **{"talk.log_probs": scores("it rains")})
    (tmp_path / "talk.txt").write_text("It\nrains.\n")
    aligner = Aligner(graph, tokens, tmp_path / "talk.txt")
    align_corpus(aligner, [tmp_path / "talk.npz"], tmp_path / "out", hop=HOP)
    assert [word["text"] for word in words_of(tmp_path / "out")["talk"]] == ["It", "rains."]


def test_a_model_before_the_alignment(graph: Path, tokens: Path, tmp_path: Path) -> None:
    model = exports.onnx(Acoustic(), {"features": torch.randn(2, 6, len(LETTERS))})
    rows = [{"id": f"utt{i}", "features": scores(text), "text": text} for i, text in enumerate(TEXTS)]
    data = speech.write(tmp_path / "dev.parquet", rows)
    aligner = Aligner(graph, tokens, model=model, inputs={"log_probs": "scores"})
    assert align_corpus(aligner, [data], tmp_path / "out", hop=HOP)["items"] == 5
    assert words_of(tmp_path / "out")["utt0"][1]["start"] == pytest.approx(9 * HOP)


def test_items_that_cannot_be_aligned_are_set_aside(graph: Path, tokens: Path, tmp_path: Path) -> None:
    nan, never = scores("no"), scores("no")
    nan[1, 3] = np.nan
    never[:, LETTERS.index("o")] = -np.inf
    rows = [
        {"id": "good", "log_probs": scores("no"), "text": "no"},
        {"id": "long", "log_probs": scores("no"), "text": "all too long"},
        {"id": "nan", "log_probs": nan, "text": "no"},
        {"id": "never", "log_probs": never, "text": "no"},
        {"id": "null", "log_probs": scores("no"), "text": None},
        {"id": "empty", "log_probs": scores("no"), "text": " ... "},
        {"id": "digits", "log_probs": scores("no"), "text": "n 0"},
        {"id": "logits", "log_probs": scores("no") + 9, "text": "no"},
        {"id": "low logits", "log_probs": scores("no") - 9, "text": "no"},
        {"id": "good", "log_probs": scores("so"), "text": "so"},
        {"id": "last", "log_probs": scores("so"), "text": "so"},
    ]
    data, out = speech.write(tmp_path / "dev.parquet", rows), tmp_path / "out"
    found = align_corpus(Aligner(graph, tokens), [data], out, hop=HOP)
    assert (found["items"], found["set_aside"]) == (2, 9)
    assert {id_: words[0]["text"] for id_, words in words_of(out).items()} == {"good": "no", "last": "so"}
    reasons = aside(out)
    assert reasons["long"] == "targets: got 12 labels for 6 frames, expected 14 frames at least"
    assert reasons["nan"].startswith("log_probs: got nan at [0, 1, 3]")
    assert reasons["never"] == "log_probs: got a probability of zero on each path of the 2 labels"
    assert reasons["null"] == "text: got a null, expected text"
    assert reasons["empty"] == "text: got ' ... ', expected words"
    assert reasons["digits"] == "text: got '0', expected what the tokens spell, or a graph with wildcards"
    assert reasons["logits"].startswith("log_probs: got scores whose exp adds up to 8.1e+03 per frame")
    assert reasons["low logits"].startswith("log_probs: got scores whose exp adds up to 0.000123 per frame")
    assert reasons["good"] == "id: got it a second time, expected one item of each"


def test_a_transcript_of_an_item_that_is_set_aside_has_its_item(
    graph: Path, tokens: Path, tmp_path: Path
) -> None:
    rows = [{"id": "a", "log_probs": scores("so")}, {"id": "b", "log_probs": scores("so")}]
    data = speech.write(tmp_path / "dev.parquet", rows)
    (tmp_path / "text").write_text("a so\nb much too long\nc so\n")
    found = align_corpus(Aligner(graph, tokens, tmp_path / "text"), [data], tmp_path / "out", hop=HOP)
    assert (found["items"], found["set_aside"], found["unmatched"]) == (1, 1, ["c"])


def test_the_second_of_an_id_has_its_own_text(graph: Path, tokens: Path, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "log_probs": scores("so"), "text": "much too long"},
        {"id": "a", "log_probs": scores("no"), "text": "No"},
    ]
    data = speech.write(tmp_path / "dev.parquet", rows)
    align_corpus(Aligner(graph, tokens), [data], tmp_path / "out", hop=HOP)
    assert [word["text"] for word in words_of(tmp_path / "out")["a"]] == ["No"]


def test_an_item_without_a_transcript(graph: Path, tokens: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("utt1 no\n")
    aligner = Aligner(graph, tokens, tmp_path / "text")
    data = corpus(tmp_path / "dev.parquet", TEXTS[:2])
    assert align_corpus(aligner, [data], tmp_path / "out", hop=HOP)["unused"] == {"text": ""}
    assert aside(tmp_path / "out") == {"utt0": "transcripts: got none of this id, expected one for each item"}


def test_a_column_that_is_no_text(graph: Path, tokens: Path, tmp_path: Path) -> None:
    data = speech.write(tmp_path / "dev.parquet", [{"id": "a", "log_probs": scores("no"), "text": 3}])
    with pytest.raises(ValueError, match=r"a: text: got int64 of shape \[\], expected text"):
        align_corpus(Aligner(graph, tokens), [data], tmp_path / "out", hop=HOP)
    other = corpus(tmp_path / "other.parquet")
    with pytest.raises(
        ValueError, match=r"utt0: said: got none, expected the transcript; columns not used: text"
    ):
        align_corpus(Aligner(graph, tokens, text="said"), [other], tmp_path / "other", hop=HOP)


def test_an_interrupted_run_is_resumed(graph: Path, tokens: Path, tmp_path: Path) -> None:
    data, out = corpus(tmp_path / "dev.npz.parquet"), tmp_path / "out"
    rows = pq.read_table(data)
    pq.write_table(rows, data, row_group_size=1)

    def stop(items: int, *_: Any) -> None:
        if items == 2:
            raise KeyboardInterrupt

    how: dict[str, Any] = {"hop": HOP, "window_bytes": 1}
    with contextlib.suppress(KeyboardInterrupt):
        align_corpus(Aligner(graph, tokens), [data], out, progress=stop, **how)
    assert len(list((out / "state").glob("part-*"))) == 1
    with pytest.raises(ValueError, match="which holds an unfinished run with other tokens: resume it"):
        align_corpus(Aligner(graph, of_names([*LETTERS, "é"])), [data], out, **how)
    (tmp_path / "text").write_text("utt0 it rains\n")
    with pytest.raises(ValueError, match="which holds an unfinished run with other transcripts"):
        align_corpus(Aligner(graph, tokens, tmp_path / "text"), [data], out, **how)
    align_corpus(Aligner(graph, tokens), [data], out, **how)
    align_corpus(Aligner(graph, tokens), [data], tmp_path / "whole", **how)
    for name in ("items.parquet", "totals.json", "words.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_run_is_written_again_in_other_formats(graph: Path, tokens: Path, tmp_path: Path) -> None:
    data, out = corpus(tmp_path / "dev.parquet"), tmp_path / "out"
    first = align_corpus(Aligner(graph, tokens), [data], out, hop=HOP)
    before = (out / "items.parquet").stat().st_mtime_ns
    again = align_corpus(Aligner(graph, tokens), [data], out, hop=2 * HOP, formats=["ctm", "textgrid"])
    assert again == json.loads(json.dumps(first))
    assert (out / "items.parquet").stat().st_mtime_ns == before
    assert (out / "words.ctm").read_text().splitlines()[1].split()[2] == f"{2 * HOP * 9:.3f}"
    assert len(list((out / "textgrid").iterdir())) == 5
    with pytest.raises(ValueError, match="which holds a finished run, expected another folder"):
        align_corpus(Aligner(graph, of_names(LETTERS[:-1])), [data], out, hop=HOP)
    corpus(data, TEXTS[::-1])  # written since: these words would not be of it
    with pytest.raises(ValueError, match="which holds a finished run, expected another folder"):
        align_corpus(Aligner(graph, tokens), [data], out, hop=HOP)
    os.utime(data, ns=(0, 0))  # as a copy that keeps its time
    with pytest.raises(ValueError, match="which holds a finished run, expected another folder"):
        align_corpus(Aligner(graph, tokens), [data], out, hop=HOP)


def test_a_token_of_no_class_is_no_wildcard(tmp_path: Path) -> None:
    graph = exports.onnx(catalog.get("CTCAlign").module(wildcard="mean"))
    rows = [{"id": each, "log_probs": scores("so"), "text": each} for each in ("so", "s\u00e9")]
    data = speech.write(tmp_path / "dev.parquet", rows)
    align_corpus(Aligner(graph, of_names([*LETTERS, "\u00e9"])), [data], tmp_path / "out", hop=HOP)
    aside = pq.read_table(tmp_path / "out" / "set_aside.parquet").to_pylist()
    assert [each["id"] for each in aside] == ["s\u00e9"]
    assert "expected an index in" in aside[0]["reason"]


def test_an_id_that_is_no_name_of_a_file(graph: Path, tokens: Path, tmp_path: Path) -> None:
    rows = [{"id": 200 * "\u304b" + end, "log_probs": scores("so"), "text": "so"} for end in "ab"]
    data = speech.write(tmp_path / "dev.parquet", rows)
    align_corpus(Aligner(graph, tokens), [data], tmp_path / "out", hop=HOP, formats=["textgrid"])
    assert len(list((tmp_path / "out" / "textgrid").iterdir())) == 2


def test_two_workers_align_as_one(graph: Path, tokens: Path, tmp_path: Path) -> None:
    for name, number in (("one", 1), ("two", 2)):
        data = corpus(tmp_path / "dev.parquet") if name == "one" else tmp_path / "dev.parquet"
        align_corpus(Aligner(graph, tokens), [data], tmp_path / name, hop=HOP, workers=number)
    assert words_of(tmp_path / "one") == words_of(tmp_path / "two")


def test_wildcards_have_the_label_behind_the_last_class(graph: Path, tokens: Path) -> None:
    aligner = Aligner(graph, tokens)
    columns = {
        "log_probs": Column.of([np.zeros((3, 4), np.float32), np.zeros((5, 4), np.float32)]),
        "targets": Column.of([np.array([1, WILDCARD, 2]), np.array([WILDCARD])]),
    }
    assert [labels.tolist() for labels in aligner._arrays(columns)["targets"]] == [[1, 4, 2], [4]]


def test_digits_become_wildcards(tokens: Path, tmp_path: Path) -> None:
    module = catalog.get("CTCAlign").module(wildcard="mean")
    rows = [
        {"id": "a", "log_probs": scores("so four goes"), "text": "so 4 goes"},
        {"id": "b", "log_probs": scores("no"), "text": "no"},
    ]
    data = speech.write(tmp_path / "dev.parquet", rows)
    found = align_corpus(Aligner(exports.onnx(module), tokens), [data], tmp_path / "out", hop=HOP)
    assert found["wildcards"] == {"a": 1}
    so, four, goes = words_of(tmp_path / "out")["a"]
    assert (so["text"], four["text"], goes["text"]) == ("so", "4", "goes")
    assert (so["wildcard"], four["wildcard"], goes["wildcard"]) == (False, True, False)
    assert 3 * 3 * HOP - HOP <= four["start"] < four["end"] <= goes["start"] == pytest.approx(3 * 8 * HOP)


def test_a_graph_of_something_else(tokens: Path) -> None:
    with pytest.raises(ValueError, match="graph: got ctc_loss, expected an exported CTCAlign"):
        Aligner(exports.onnx(CTCLoss()), tokens)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"hop": 0}, "hop: got 0, expected a positive number of seconds"),
        ({"hop": float("inf")}, "hop: got inf, expected a positive"),
        ({"hop": 1, "offset": float("nan")}, "offset: got nan, expected a number of seconds"),
        ({"hop": 1, "formats": ["elan"]}, "formats: got elan, expected ctm"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_done(
    how: dict[str, Any], message: str, graph: Path, tokens: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        align_corpus(Aligner(graph, tokens), [corpus(tmp_path / "dev.parquet")], tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()
