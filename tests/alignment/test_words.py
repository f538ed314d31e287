"""Words in seconds, of alignments in frames: by hand, and from `CTCAlign`."""

from typing import Any

import numpy as np
import pytest
import torch

import exportable_losses as el
from exportable_losses.runtime import Word, words

LETTERS = ["-", "|", *"abcdefghijklmnopqrstuvwxyz"]


def alignment(tokens: list[int], frames: list[tuple[int, int]], scores: list[float]) -> dict[str, Any]:
    starts, ends = zip(*frames, strict=True)
    return {"tokens": tokens, "starts": list(starts), "ends": list(ends), "scores": scores}


def texts(tokens: list[int], names: list[str]) -> list[str]:
    frames = [(2 * at, 2 * at + 1) for at in range(len(tokens))]
    return [word.text for word in words(alignment(tokens, frames, [0.0] * len(tokens)), names, hop=1.0)]


@pytest.mark.parametrize(
    ("names", "tokens", "wanted"),
    [
        (["-", "▁so", "ft", "▁rain", "▁"], [1, 2, 3], ["soft", "rain"]),
        (["-", "▁so", "ft", "▁rain", "▁"], [4, 2, 4, 2], ["ft", "ft"]),
        (["-", "▁so", "ft", "▁rain"], [1, 2, 4, 3], ["soft", "*", "rain"]),
        (["-", "|", "a", "b"], [2, 3, 1, 3, 1, 4], ["ab", "b", "*"]),
        (["-", "|", "a", "b"], [1, 2, 1, 1, 3, 1], ["a", "b"]),
        (["-", "<space>", "a", "b"], [2, 1, 3, 3], ["a", "bb"]),
        (["-", " ", "a", "b"], [2, 1, 3, 3], ["a", "bb"]),
        (["[PAD]", "go", "##ing", "on"], [1, 2, 3], ["going", "on"]),
        (["-", "HH", "AH", "L"], [1, 2, 4], ["HH", "AH", "*"]),
        (["-", "▁caf", "<0xC3>", "<0xA9>", "▁"], [1, 2, 3, 4, 3, 2], ["caf\u00e9", "\ufffd\ufffd"]),
    ],
)
def test_marks_part_words(names: list[str], tokens: list[int], wanted: list[str]) -> None:
    assert texts(tokens, names) == wanted


def test_times_and_confidence_of_what_ctc_align_gives() -> None:
    frames = [LETTERS.index(c) for c in "--nnoo-||it-"]
    log_probs = (5 * torch.eye(len(LETTERS))[frames]).log_softmax(-1)
    target = torch.tensor([[LETTERS.index(c) for c in "no|it"]])
    found = el.CTCAlign()(log_probs[None], target, torch.tensor([1.0]), torch.tensor([1.0]))
    item = {
        name: array[0].numpy()
        for name, array in zip(("tokens", "starts", "ends", "scores"), found[:4], strict=True)
    }
    no, it = words(item, LETTERS, hop=0.04, offset=0.1)
    assert (no.text, it.text, no.wildcard) == ("no", "it", False)
    np.testing.assert_allclose([no.start, no.end, it.start, it.end], [0.18, 0.34, 0.46, 0.54])
    sure = float(log_probs.max(-1).values.exp()[0])
    assert no.confidence == pytest.approx(sure)
    assert [(token.text, token.confidence) for token in no.tokens] == [
        ("n", pytest.approx(sure)),
        ("o", pytest.approx(sure)),
    ]


def test_confidence_is_a_mean_over_frames_and_not_over_tokens() -> None:
    (word,) = words(alignment([2, 3], [(0, 1), (1, 4)], [-4.0, 0.0]), ["-", "|", "a", "b"], hop=1.0)
    assert word.confidence == pytest.approx(np.exp(-1.0))


def test_wildcards_are_marked_and_count_only_where_there_is_nothing_else() -> None:
    half, whole = words(
        alignment([2, 9, 1, 9], [(0, 1), (1, 3), (3, 4), (4, 6)], [-1.0, -3.0, 0.0, -2.0]),
        ["-", "|", "a"],
        hop=1.0,
    )
    assert (half.text, half.wildcard, half.confidence) == ("a*", True, pytest.approx(np.exp(-1.0)))
    assert (whole.text, whole.wildcard, whole.confidence) == ("*", True, pytest.approx(np.exp(-2.0)))
    assert [token.text for token in half.tokens] == ["a", "*"]


def test_a_mark_alone_is_the_pause_before_a_word() -> None:
    (word,) = words(alignment([1, 2], [(0, 5), (8, 9)], [-3.0, -1.0]), ["-", "▁", "a"], hop=1.0)
    assert (word.start, word.confidence, len(word.tokens)) == (8.0, pytest.approx(np.exp(-1.0)), 1)


def test_nothing_begins_before_the_recording() -> None:
    (word,) = words(alignment([2], [(0, 3)], [0.0]), ["-", "|", "a"], hop=0.02, offset=-0.03)
    assert (word.start, word.end) == (0.0, pytest.approx(0.03))


def test_a_token_of_no_frame_counts_as_one() -> None:  # a transducer may have it
    (word,) = words(alignment([2, 2], [(1, 1), (1, 1)], [-1.0, -3.0]), ["-", "|", "a"], hop=1.0)
    assert (word.start, word.end, word.confidence) == (1.0, 1.0, pytest.approx(np.exp(-2.0)))


def test_padding_is_left_out() -> None:
    found = words(alignment([2, -1, -1], [(0, 1), (0, 0), (0, 0)], [0.0, 0.0, 0.0]), ["-", "|", "a"], hop=1.0)
    assert [word.text for word in found] == ["a"]
    assert isinstance(found[0], Word)


GOOD = alignment([2], [(0, 1)], [0.0])


@pytest.mark.parametrize(
    ("change", "hop", "message"),
    [
        ({}, 0.0, "hop: got 0.0, expected a positive number of seconds"),
        ({}, float("nan"), "hop: got nan, expected a positive number of seconds"),
        ({"scores": [-np.inf]}, 1.0, "got scores of -inf, expected those of a target that could be aligned"),
        (
            {"ends": [1, 2]},
            1.0,
            r"got ends of shape \[2\] beside tokens of \[1\], expected those of one item",
        ),
        ({"starts": [2]}, 1.0, "got a token of frames 2 to 1, expected none that ends before it starts"),
        ({"tokens": [[2]]}, 1.0, r"got tokens of shape \[1, 1\]"),
    ],
)
def test_what_is_no_alignment(change: dict[str, Any], hop: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        words({**GOOD, **change}, ["-", "|", "a"], hop)


def test_an_array_that_is_missing() -> None:
    with pytest.raises(
        ValueError, match="alignment: ends, scores missing, found tokens, starts, expected tokens"
    ):
        words({"tokens": [1], "starts": [0]}, ["-", "a"], 1.0)


def test_padding_is_behind_all_tokens() -> None:
    alignment = {"tokens": [1, -1, 1], "starts": [0, 0, 2], "ends": [1, 0, 3], "scores": [0.0, 0.0, 0.0]}
    with pytest.raises(ValueError, match="got -1 among the tokens, expected it behind them alone"):
        words(alignment, ["-", "a"], hop=0.02)
    padded = {**alignment, "tokens": [1, 1, -1], "starts": [0, 2, 0], "ends": [1, 3, 0]}
    assert [word.text for word in words(padded, ["-", "a"], hop=0.02)] == ["a", "a"]


def test_names_of_no_class_are_none_of_a_wildcard() -> None:
    names = ["<blk>", "\u2581a", "\u2581b", "#0", "#1"]
    assert texts([1, 3, 2], names) == ["a", "*", "b"]
    with pytest.raises(ValueError, match="got -2 among the tokens, expected -1 behind them alone"):
        texts([1, -2], names)


@pytest.mark.parametrize(("name", "value"), [("hop", "0.02"), ("hop", None), ("offset", "0")])
def test_seconds_that_are_no_numbers(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name}: got {value!r}, expected a number of seconds"):
        words(GOOD, ["-", "|", "a"], **{"hop": 0.02, name: value})
