"""The parts of `make demo`, and its recogniser on two lines."""

from itertools import permutations

import numpy as np
import pytest
import recogniser
from PIL import Image
from recogniser import Result

from exportable_losses import CTCLoss
from exportable_losses.export import to_onnx
from exportable_losses.runtime import LossSession


def test_twenty_lines_all_different():
    assert len(set(recogniser.LINES)) == 20


def test_a_drawing_is_black_on_white_of_the_right_height():
    grey = recogniser.draw("kettle")
    assert (grey.shape[0], grey.dtype) == (48, np.float32)
    assert (grey.min(), grey.max()) == (0, 1)
    assert (grey[:, :8] == 1).all()  # a margin
    assert recogniser.draw("kettle kettle").shape[1] > 1.8 * grey.shape[1]


def test_conditions_spoil_the_drawing_and_are_the_same_each_time():
    clean = recogniser.draw("kettle")
    blurred, noisy = (recogniser.draw("kettle", condition) for condition in ("blurred", "noisy"))
    assert np.abs(np.diff(blurred)).max() < 0.3 < np.abs(np.diff(clean)).max()
    assert np.abs(noisy - clean).mean() > 0.1
    np.testing.assert_array_equal(noisy, recogniser.draw("kettle", "noisy"))
    assert not np.array_equal(noisy, recogniser.draw("kettle", "noisy", seed=1))


@pytest.mark.parametrize(
    ("path", "labels"),
    [([], []), ([0, 0], []), ([3, 3, 3], [3]), ([3, 0, 3], [3, 3]), ([0, 1, 1, 0, 0, 2, 1], [1, 2, 1])],
)
def test_collapse_merges_then_removes(path, labels):
    assert recogniser.collapse(np.array(path, int)).tolist() == labels


@pytest.mark.parametrize(
    ("read", "text", "number"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abc", 0),
        ("abd", "abc", 1),
        ("ac", "abc", 1),
        ("abcc", "abc", 1),
        ("kitten", "sitting", 3),
        ("bca", "abc", 2),
    ],
)
def test_edits(read, text, number):
    assert recogniser.edits(read, text) == recogniser.edits(text, read) == number


def test_pad_gives_back_relative_lengths():
    batch, lengths = recogniser.pad([np.ones((2, 3)), np.ones((4, 3))])
    assert batch.shape == (2, 4, 3)
    assert batch.sum((1, 2)).tolist() == [6, 12]
    assert lengths.tolist() == [0.5, 1]


def _results(*pairs):
    return [Result(str(i), nll, cer, "") for i, (nll, cer) in enumerate(pairs)]


def test_rise_together_whatever_the_order():
    for order in permutations([(0.1, 0.0), (0.2, 0.1), (0.3, 0.4)]):
        assert recogniser.rise_together(_results(*order))


@pytest.mark.parametrize(
    "pairs", [[(0.1, 0.2), (0.2, 0.1)], [(0.1, 0.1), (0.2, 0.1)], [(0.1, 0.1), (0.1, 0.2)]]
)
def test_a_fall_or_a_tie_is_no_rise(pairs):
    assert not recogniser.rise_together(_results(*pairs))


@pytest.fixture(scope="module")
def ctc_loss(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "ctc_loss.onnx"
    to_onnx(CTCLoss(reduction="none", zero_infinity=False), path)
    return LossSession(path)


def test_the_recogniser_knows_every_character_of_the_lines():
    model = recogniser.Recogniser()
    assert len(model.characters) == 6625
    for line in recogniser.LINES:
        classes = model.encode(line)
        assert (classes > 0).all()
        assert "".join(model.characters[i] for i in classes) == line


def test_the_recogniser_sees_white_as_one_and_black_as_minus_one():
    model, seen = recogniser.Recogniser(), {}

    class Session:
        def run(self, _, feed):
            seen.update(feed)
            return [np.ones((1, 5, 6625))]

    model.session = Session()
    assert model(np.repeat([[0.0, 1.0]], 48, 0)).shape == (5, 6625)
    assert seen["x"].shape == (1, 3, 48, 2)
    assert np.unique(seen["x"][..., 0]) == -1
    assert np.unique(seen["x"][..., 1]) == 1


def test_two_lines_end_to_end(ctc_loss, tmp_path):
    lines = recogniser.LINES[:2]
    clean, blurred, noisy = recogniser.score(ctc_loss, lines)
    assert clean.example == lines[0]
    assert [each.condition for each in (clean, blurred, noisy)] == ["clean", "blurred", "noisy"]
    assert 0 < clean.nll < 0.1 < min(blurred.nll, noisy.nll)
    assert clean.cer < 0.02 < noisy.cer
    picture = tmp_path / "new" / "recogniser.png"
    recogniser.plot([clean, blurred, noisy], picture)
    assert np.ptp(np.asarray(Image.open(picture))) == 255


def test_costs_are_those_of_one_line_at_a_time(ctc_loss):
    """Padding a batch of lines changes no line's cost."""
    lines = ["A kettle.", "Tomorrow the tide turns."]
    together = next(recogniser.score(ctc_loss, lines)).nll * sum(map(len, lines))
    alone = [next(recogniser.score(ctc_loss, [line])).nll * len(line) for line in lines]
    assert together == pytest.approx(sum(alone), rel=1e-4)
