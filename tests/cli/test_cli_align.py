"""`align` finds the words of a corpus, says what it could not spell, and what is wrong with a call."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import exports
import numpy as np
import pytest
from click.testing import Result
from speech import LETTERS, TEXTS, corpus, scores, write

from exportable_losses import CTCAlign
from exportable_losses.export.commands.align import Format, Wildcard, _unknown
from exportable_losses.lattice.wildcard import WILDCARDS
from exportable_losses.runtime.alignment.writing import FORMATS


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a corpus, tokens and a graph."""
    monkeypatch.chdir(tmp_path)
    corpus(tmp_path / "dev.parquet")
    (tmp_path / "tokens.txt").write_text("\n".join(LETTERS))
    (tmp_path / "align.onnx").write_bytes(exports.onnx(CTCAlign()).read_bytes())
    return tmp_path


WORDS = ("align", "dev.parquet", "--tokens", "tokens.txt", "--out", "out", "--graph", "align.onnx")


def test_words_of_a_corpus(cli: Callable[..., Result], desk: Path) -> None:
    result = cli(*WORDS, "--hop", 0.02)
    assert result.exit_code == 0, result.output
    assert result.stdout == "5 items aligned, 10 words, none set aside. Wrote out.\n"
    lines = (desk / "out" / "words.jsonl").read_text().splitlines()
    found = [" ".join(word["text"] for word in json.loads(line)["words"]) for line in lines]
    assert found == TEXTS


def test_more_formats_of_a_finished_run(cli: Callable[..., Result], desk: Path) -> None:
    assert cli(*WORDS, "--frame-rate", 50, "--format", "ctm").exit_code == 0
    before = (desk / "out" / "words.ctm").read_text()
    result = cli(*WORDS, "--hop", 0.02, "--format", "ctm", "--format", "srt", "--offset", 1)
    assert result.exit_code == 0, result.output
    assert before.startswith("utt0 1 0.000 0.100 it 0.9")
    assert (desk / "out" / "words.ctm").read_text().startswith("utt0 1 1.000 0.100 it 0.9")
    assert len(list((desk / "out" / "srt").iterdir())) == 5


def test_a_graph_is_exported_where_none_is_given(cli: Callable[..., Result], desk: Path) -> None:
    text = "so four goes"
    rows = [{"id": "a", "log_probs": scores(text), "text": text}]
    write(desk / "dev.parquet", [*rows, {"id": "b", "log_probs": scores("no"), "text": "no thing"}])
    result = cli(*WORDS[:-2], "--hop", 0.02, "--blank", 0, "--format", "textgrid")
    assert result.exit_code == 0, result.output
    assert (
        "1 items aligned, 3 words, 1 set aside; out/set_aside.parquet says why. Wrote out." in result.stdout
    )
    assert (desk / "out" / "textgrid" / "a.TextGrid").is_file()


def test_one_utterance_with_its_text(cli: Callable[..., Result], desk: Path) -> None:
    np.savez(desk / "talk.npz", **{"talk.log_probs": scores("it rains")})
    (desk / "talk.txt").write_text("It rains.")
    words = ["talk.npz" if word == "dev.parquet" else word for word in WORDS]
    result = cli(*words, "--transcripts", "talk.txt", "--hop", 0.02, "--format", "audacity")
    assert result.exit_code == 0, result.output
    labels = (desk / "out" / "audacity" / "talk.txt").read_text()
    assert labels == "0.000000\t0.100000\tIt\n0.180000\t0.460000\trains.\n"


def test_transcripts_of_no_item_are_mentioned(cli: Callable[..., Result], desk: Path) -> None:
    np.savez(desk / "talk.npz", **{"it.log_probs": scores("rains")})
    (desk / "talk.txt").write_text("it rains\nso it goes")
    words = ["talk.npz" if word == "dev.parquet" else word for word in WORDS]
    result = cli(*words, "--transcripts", "talk.txt", "--hop", 0.02)
    assert result.exit_code == 0, result.output
    assert "Note: transcripts of no item: so.\n" in result.stdout


def test_a_report_with_recordings(cli: Callable[..., Result], desk: Path) -> None:
    (desk / "sounds").mkdir()
    (desk / "sounds" / "utt2.mp3").write_bytes(b"something")
    result = cli(*WORDS, "--hop", 0.02, "--report", "page.html", "--audio", "sounds")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("Wrote out.\nWrote page.html, with recordings of 1 of 5 items.\n")
    assert (desk / "page.html").read_text("utf-8").count("<audio") == 1
    result = cli(*WORDS, "--hop", 0.02, "--report", "page.html")
    assert result.stdout.endswith("Wrote page.html.\n")
    assert "<audio" not in (desk / "page.html").read_text("utf-8")


def test_wildcards_are_counted_and_named() -> None:
    assert _unknown({"utt1": 3, "utt4": 1}, 20) == (
        "wildcards, for what the tokens cannot spell, in 4 of 20 words: utt1 (3), utt4 (1)"
    )
    assert _unknown({f"utt{i}": 1 for i in range(10)}, 20).endswith("utt7 (1) and 2 more items")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "--hop, --frame-rate: got neither, expected one: the seconds of a frame"),
        (("--hop", 1, "--frame-rate", 1), 2, "--hop, --frame-rate: got both, expected one"),
        (("--hop", 0), 2, "--hop: got 0.0, expected a positive number"),
        (("--frame-rate", "inf"), 2, "--frame-rate: got inf, expected a positive number"),
        (("--hop", 1, "--feed", "log_probs"), 2, "--feed: got 'log_probs'"),
        (("--hop", 1, "--feed", "log_probs=x"), 2, "expected none without a model"),
        (("--hop", 1, "--model", "tokens.txt"), 2, "not graphs that ONNX Runtime takes"),
        (("--hop", 1, "--blank", 1), 2, "--graph: got blank_index as well, expected a graph"),
        (("--hop", 1, "--transcripts", "align.onnx"), 2, "transcripts: got align.onnx, which is no UTF-8"),
        (("--hop", 1, "--text", "said"), 1, "utt0: said: got none, expected the transcript"),
        (("--hop", 1, "--audio", "."), 2, "--audio: got no --report, expected one"),
        (("--hop", 1, "--report", "page.html", "--audio", "x"), 1, "audio: got x, which is neither"),
        (("--hop", 1, "--report", "tokens.txt"), 2, "--report: got tokens.txt, which is an input too"),
        (("--hop", 1, "--report", "dev.parquet"), 2, "--report: got dev.parquet, which is an input too"),
        (("--hop", 1, "--format", "elan"), 2, "Invalid value for '--format'"),
        (("--hop", 1, "nowhere.tar"), 2, "data: got nowhere.tar, where there is no .parquet"),
    ],
)
def test_a_wrong_call(
    words: tuple[object, ...], code: int, message: str, cli: Callable[..., Result], desk: Path
) -> None:
    result = cli(*WORDS, *words)
    assert result.exit_code == code
    assert message in re.sub(r"\s+", " ", result.stderr)


def test_strict_is_an_exit_code_and_the_run_goes_on(cli: Callable[..., Result], desk: Path) -> None:
    rows = [{"id": "a", "log_probs": scores("no"), "text": "no"}]
    write(desk / "dev.parquet", [*rows, {"id": "b", "log_probs": scores("no"), "text": "no thing"}])
    result = cli(*WORDS, "--hop", 0.02, "--strict")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "Error: b: targets: got 8 labels for 6 frames, expected 8 frames at least"
    )
    assert cli(*WORDS, "--hop", 0.02).exit_code == 0


def test_what_it_offers_is_what_there_is() -> None:
    """The command lists both itself: its help loads neither numpy nor torch."""
    assert {each.value for each in Format} == set(FORMATS)
    assert {each.value for each in Wildcard} == set(WILDCARDS)
