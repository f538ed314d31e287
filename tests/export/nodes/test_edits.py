"""Edit distance against jiwer and against a recursion over the last tokens."""

import jiwer
import pytest
import torch
from edit_cases import Tokens, batch_of, by_recursion, every_pair, random_pairs, words
from export_cases import Case
from onnx_runs import RUNTIMES

import exportable_losses as el


@pytest.mark.parametrize("scripted", [False, True], ids=["eager", "scripted"])
@pytest.mark.parametrize("pairs", [every_pair(), random_pairs(0, 100, 12)], ids=["all", "random"])
def test_counts_are_those_of_the_recursion(pairs: list[tuple[Tokens, Tokens]], scripted: bool) -> None:
    module = torch.jit.script(el.EditDistance()) if scripted else el.EditDistance()
    got = torch.stack(module(*batch_of(pairs, width=13)), 1).tolist()
    for (prediction, target), counts in zip(pairs, got, strict=True):
        edits, _, *kinds = by_recursion(prediction, target)
        assert counts == [edits, *kinds, len(target)]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_counts_of_exported_files(runtime: str) -> None:
    run = RUNTIMES[runtime](Case("EditDistance").graph())
    for pairs, width in ((every_pair(), 1), (every_pair(), 9), (random_pairs(1, 50, 12), 12)):
        call = dict(
            zip(
                ("predictions", "targets", "prediction_lens", "target_lens"),
                batch_of(pairs, width),
                strict=True,
            )
        )
        got = run({name: x.float() if x.is_floating_point() else x for name, x in call.items()})
        for at, (prediction, target) in enumerate(pairs):
            edits, _, *kinds = by_recursion(prediction, target)
            assert [int(x[at]) for x in got.values()] == [edits, *kinds, len(target)]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("wide", "empty"), [("predictions", "targets"), ("targets", "predictions")])
def test_sequences_of_no_width(runtime: str, wide: str, empty: str) -> None:
    run = RUNTIMES[runtime](Case("EditDistance").graph())
    call = {
        wide: torch.tensor([[3, 4]]),
        empty: torch.zeros(1, 0, dtype=torch.int64),
        "prediction_lens": torch.ones(1),
        "target_lens": torch.ones(1),
    }
    expected = [2, 2, 0, 0, 0] if empty == "targets" else [2, 0, 2, 0, 2]
    assert [int(x) for x in el.EditDistance()(**call)] == expected
    assert [int(x[0]) for x in run(call).values()] == expected


def test_rates_are_jiwers() -> None:
    for seed in range(30):
        pairs = random_pairs(seed, 8, 15)
        rate, errors, insertions, deletions, substitutions, tokens = el.TokenErrorRate()(*batch_of(pairs))
        theirs = jiwer.process_words([words(t) for _, t in pairs], [words(p) for p, _ in pairs])
        assert rate.item() == theirs.wer
        assert errors == theirs.insertions + theirs.deletions + theirs.substitutions
        assert tokens == theirs.hits + theirs.substitutions + theirs.deletions
        assert errors == insertions + deletions + substitutions
        assert insertions - deletions == theirs.insertions - theirs.deletions
        assert substitutions >= theirs.substitutions  # as many as there can be


def test_an_empty_prediction_is_all_deletions_as_jiwer_counts() -> None:
    rate, *counts = el.TokenErrorRate()(*batch_of([((), (1, 2, 3)), ((7,), (7,))]))
    theirs = jiwer.process_words(["w1 w2 w3", "w7"], ["", "w7"])
    assert rate.item() == theirs.wer == 0.75
    assert [int(x) for x in counts] == [3, 0, theirs.deletions, 0, 4]


def test_an_empty_target_is_all_insertions() -> None:
    # jiwer refuses an empty reference unless it stands among others; what a field counts is an insertion
    rate, *counts = el.TokenErrorRate()(*batch_of([((1, 2), ()), ((7,), (7,))]))
    assert rate.item() == 2.0
    assert [int(x) for x in counts] == [2, 2, 0, 0, 1]


def test_a_corpus_in_batches_is_exact() -> None:
    pairs = random_pairs(5, 90, 20)
    whole = jiwer.wer([words(t) for _, t in pairs], [words(p) for p, _ in pairs])
    sums = [0, 0]
    for start in range(0, 90, 7):
        _, errors, *_, tokens = el.TokenErrorRate()(*batch_of(pairs[start : start + 7]))
        sums = [sums[0] + int(errors), sums[1] + int(tokens)]
    assert sums[0] / sums[1] == whole
