"""The parts of `make demo`, and its recogniser on two lines."""

import shutil
from itertools import permutations

import exports
import numpy as np
import onnxruntime
import pytest
import quantised
import recogniser
from PIL import Image
from recogniser import Result

from exportable_losses import CTCAlign, CTCLoss, CTCPosterior, TokenErrorRate
from exportable_losses.export import attach
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
    shutil.copy(exports.onnx(CTCLoss(reduction="none", zero_infinity=False)), path)
    return path


@pytest.fixture(scope="module")
def joint(ctc_loss):
    path = ctc_loss.with_name("recogniser.onnx")
    attach(recogniser.model_path(), ctc_loss, path, inputs={"log_probs": recogniser.SCORES}, scores="probs")
    return path


def test_the_recogniser_knows_every_character_of_the_lines(joint):
    model = recogniser.Recogniser(joint)
    assert len(model.characters) == 6625
    for line in recogniser.LINES:
        classes = model.encode(line)
        assert (classes > 0).all()
        assert "".join(model.characters[i] for i in classes) == line


def test_the_recogniser_sees_white_as_one_and_black_as_minus_one(joint):
    model, seen = recogniser.Recogniser(joint), {}

    def session(**feed):
        seen.update(feed)
        return {recogniser.SCORES: np.ones((1, 5, 6625)), "loss": np.ones(1)}

    model.session = session
    probabilities, cost = model(np.repeat([[0.0, 1.0]], 48, 0), "a")
    assert (probabilities.shape, cost) == ((5, 6625), 1)
    assert seen["x"].shape == (1, 3, 48, 2)
    assert np.unique(seen["x"][..., 0]) == -1
    assert np.unique(seen["x"][..., 1]) == 1


def test_two_lines_end_to_end(joint, tmp_path):
    lines = recogniser.LINES[:2]
    clean, blurred, noisy = recogniser.score(joint, lines)
    assert clean.example == lines[0]
    assert [each.condition for each in (clean, blurred, noisy)] == ["clean", "blurred", "noisy"]
    assert 0 < clean.nll < 0.1 < min(blurred.nll, noisy.nll)
    assert clean.cer < 0.02 < noisy.cer
    picture = tmp_path / "new" / "recogniser.png"
    recogniser.plot([clean, blurred, noisy], picture)
    assert np.ptp(np.asarray(Image.open(picture))) == 255


def test_the_lattice_of_a_phrase(joint, tmp_path, monkeypatch):
    graphs = []
    for module in (CTCPosterior(), CTCAlign()):
        graphs.append(tmp_path / type(module).__name__ / "graph.onnx")
        graphs[-1].parent.mkdir()
        shutil.copy(exports.onnx(module), graphs[-1])
    figures, plot = [], recogniser.plot_lattice
    monkeypatch.setattr(
        recogniser, "plot_lattice", lambda *a, **k: figures.append(plot(*a, **k)) or figures[-1]
    )
    recogniser.draw_lattice(joint, *graphs, tmp_path / "new" / "lattice.png")
    assert np.ptp(np.asarray(Image.open(tmp_path / "new" / "lattice.png"))) == 255
    axes = figures[0].axes[0]
    shown = "".join(label.get_text() for label in axes.get_yticklabels())
    assert shown == recogniser.PHRASE.replace(" ", "␣")
    posterior = axes.images[0].get_array()
    np.testing.assert_allclose(posterior.sum(0), 1, atol=1e-4)  # of the states of each frame
    # where the recogniser is sure, the best path goes through the state that it is sure of
    frames, states = axes.lines[0].get_xydata().astype(int).T
    sure = posterior.max(0) > 0.9
    assert sure.sum() > 10
    np.testing.assert_array_equal(posterior.argmax(0)[frames][sure], states[sure])


@pytest.mark.parametrize("native", ["auto", False])
def test_one_file_gives_what_the_model_and_the_loss_do_in_two_steps(native, joint, ctc_loss):
    """The second step has the lines as one padded batch, and the first the model as it came."""
    model = recogniser.Recogniser(joint)
    model.session = LossSession(joint, native=native)
    first = onnxruntime.InferenceSession(recogniser.model_path(), providers=["CPUExecutionProvider"])
    lines, outputs, costs = ["A kettle.", "Tomorrow the tide turns."], [], []
    for line, condition in zip(lines, ("noisy", "blurred"), strict=True):
        grey = recogniser.draw(line, condition)
        costs.append(model(grey, line)[1])
        picture = np.broadcast_to(2 * grey - 1, (1, 3, *grey.shape))
        outputs.append(np.log(first.run(None, {"x": picture})[0][0]))
    feed = {}
    for name, lens, items in (
        ("log_probs", "input_lens", outputs),
        ("targets", "target_lens", list(map(model.encode, lines))),
    ):
        longest = max(map(len, items))
        padding = [[(0, longest - len(item)), *[(0, 0)] * (item.ndim - 1)] for item in items]
        feed[name] = np.stack([np.pad(item, each) for item, each in zip(items, padding, strict=True)])
        feed[lens] = np.array([len(item) / longest for item in items], np.float32)
    two_steps = LossSession(ctc_loss, native=native)(**feed)["loss"]
    np.testing.assert_allclose(costs, two_steps, rtol=1e-4)


@pytest.fixture(scope="module")
def losses(ctc_loss):
    """A folder of the losses by which the quantised recogniser is judged."""
    folder = ctc_loss.parent / "losses"
    for row, path in (("ctc_loss", ctc_loss), ("TokenErrorRate", ctc_loss.with_name("rate.onnx"))):
        if not path.exists():
            shutil.copy(exports.onnx(TokenErrorRate()), path)
        (folder / row).mkdir(parents=True)
        shutil.copy(path, folder / row / f"{row}.onnx")
    return folder


def test_the_quantised_recogniser_is_held_to_the_float_one(losses, tmp_path, monkeypatch):
    names = ["clean-00", "clean-04", "blurred-00", "blurred-02"]
    monkeypatch.setattr(quantised, "ITEMS", {name: quantised.ITEMS[name] for name in names})
    exact = quantised.score(recogniser.model_path(), losses, tmp_path / "float")
    assert exact.read["clean-00"] == recogniser.LINES[0]
    differences = {}
    for kind, operators in quantised.KINDS.items():
        quantised.quantise(operators, tmp_path / "model.onnx")
        page = tmp_path / f"{kind}.html"
        scored = quantised.score(tmp_path / "model.onnx", losses, tmp_path / kind)
        likelihood, errors = quantised.compare(exact, scored, page)
        assert likelihood.ids == errors.ids == names
        differences[kind] = likelihood.outputs[0].difference, errors.outputs[0].difference
        assert page.read_text(encoding="utf-8").count("<h1>") == 2
        outside = likelihood.outputs[0].verdict == "outside"  # four items are too few for more
        assert (outside, errors.outputs[0].moved > 2) == (kind != "products",) * 2
    # as the session itself says
    (loss, rate), (worse, unreadable) = differences.values()
    costs = []
    for folder in ("float", "products"):
        model = recogniser.Recogniser(tmp_path / folder / "joint.onnx")
        costs.append(np.mean([model(*quantised.ITEMS[name])[1] for name in names]))
    assert loss == pytest.approx(costs[1] - costs[0], abs=1e-4)
    assert 0 < abs(loss) < 1 < 50 < worse
    assert abs(rate) < 0.1 < 0.4 < unreadable
