"""What is drawn is what was given: the image, the path over it, the names beside it."""

import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exportable_losses.missing import install
from exportable_losses.runtime import plot
from exportable_losses.runtime.plot import labels_of

Arrays = dict[str, np.ndarray]
# One item of a padded batch: two labels, of four states and frames more than it has.
CTC = np.array([[1.0, 0, 0, 0, 0], [0, 0.75, 0.25, 0, 0], [0, 0, 0, 0.5, 0.5], [0, 0, 0, 0, 1]])
NODES = np.array([[1.0, 0.5, 0], [0.5, 0.75, 0.25], [0.25, 0.5, 1]])


def batch(item: np.ndarray, labels: int) -> np.ndarray:
    """`item` as the second of two, padded with zeros; the first is a label longer and has a frame more."""
    states = (item.shape[1] - 1) // labels
    first = np.full((len(item) + 1, item.shape[1] + states), 0.5)
    second = np.pad(item, [(0, 1), (0, states)])
    return np.stack([first, second])


def ctc() -> Arrays:
    return {
        "posteriors": batch(CTC, 2),
        "costs": np.array([9.0, 1.234]),
        "tokens": np.array([[1, 2, 3], [7, 5, -1]]),
        "starts": np.array([[0, 1, 2], [1, 2, 0]]),
        "ends": np.array([[1, 2, 3], [2, 3, 0]]),
    }


def transducer() -> Arrays:
    return {
        "posteriors": batch(NODES, 2),
        "emissions": np.zeros((2, 4, 3)),
        "costs": np.array([9.0, 1.234]),
        "tokens": np.array([[1, 2, 3], [7, 5, -1]]),
        "starts": np.array([[0, 1, 2], [1, 1, 0]]),
        "ends": np.array([[1, 2, 3], [2, 2, 0]]),
    }


def image(figure: Figure) -> np.ndarray:
    """What is drawn, time first; the first row at the bottom."""
    axes = figure.axes[0]
    (drawn,) = axes.images
    assert drawn.origin == "lower"
    assert drawn.get_clim() == (0, 1)
    assert drawn.get_cmap()(0.0)[:3] > drawn.get_cmap()(1.0)[:3]  # the more probable, the darker
    return np.asarray(drawn.get_array()).T


def path(figure: Figure) -> list[list[int]]:
    (line,) = figure.axes[0].lines
    return line.get_xydata().astype(int).tolist()


def names(axes: Axes) -> dict[float, str]:
    return {
        tick: label.get_text() for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    }


def test_a_lattice_of_ctc() -> None:
    figure = plot(ctc(), item=1)
    np.testing.assert_array_equal(image(figure), CTC)
    assert path(figure) == [[0, 0], [1, 1], [2, 3], [3, 4]]
    assert names(figure.axes[0]) == {1: "7", 3: "5"}


def test_a_lattice_of_a_transducer() -> None:
    figure = plot(transducer(), item=1)
    np.testing.assert_array_equal(image(figure), NODES)
    assert path(figure) == [[0, 0], [1, 0], [1, 1], [1, 2], [2, 2]]
    assert names(figure.axes[0]) == {1: "7", 2: "5"}


def test_the_longest_item_is_drawn_whole() -> None:
    np.testing.assert_array_equal(image(plot(ctc())), ctc()["posteriors"][0])
    np.testing.assert_array_equal(image(plot(transducer())), transducer()["posteriors"][0])
    assert path(plot(ctc())) == [[0, 1], [1, 3], [2, 5], [3, 6], [4, 6]]
    assert path(plot(transducer())) == [[0, 0], [0, 1], [1, 1], [1, 2], [2, 2], [2, 3], [3, 3]]


def test_axes_say_what_they_are() -> None:
    figure = plot(ctc(), item=1)
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time (frames)", "tokens")
    assert bar.get_ylabel() == "posterior probability"
    assert axes.get_title(loc="left") == "cost: 1.23 nats"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["best path"]


def test_names_as_they_are_given() -> None:
    # no mathematics between dollars, and a space that can be seen
    figure = plot(ctc(), tokens=["$a$", " ", "_b"])
    assert names(figure.axes[0]) == {1: "$a$", 3: "␣", 5: "_b"}
    assert not any(label.get_parse_math() for label in figure.axes[0].get_yticklabels())


def test_posteriors_alone() -> None:
    figure = plot({"posteriors": batch(NODES, 2)}, item=1, lattice="transducer")
    np.testing.assert_array_equal(image(figure), NODES)
    axes = figure.axes[0]
    assert names(axes) == {1: "1", 2: "2"}
    assert (list(axes.lines), axes.get_legend(), axes.get_title(loc="left")) == ([], None, "")


def test_a_lattice_that_is_named_counts() -> None:
    states = {**ctc(), "emissions": np.zeros((2, 5, 3))}
    np.testing.assert_array_equal(image(plot(states, item=1, lattice="ctc")), CTC)


def test_labels_that_are_impossible_have_no_path() -> None:
    outputs = ctc() | {"costs": np.array([9.0, np.inf]), "starts": np.zeros((2, 3), int)}
    outputs["posteriors"][1] = 0
    figure = plot(outputs, item=1)
    assert image(figure).shape == (5, 5)  # of its two labels
    assert not image(figure).any()
    assert names(figure.axes[0]) == {1: "7", 3: "5"}
    assert image(plot({"posteriors": outputs["posteriors"]}, item=1)).shape == (5, 7)
    assert not figure.axes[0].lines
    assert figure.axes[0].get_title(loc="left") == "cost: inf nats"


@pytest.mark.parametrize("states", [1, 2])
def test_no_labels(states: int) -> None:
    outputs = {"posteriors": np.ones((1, 3, 1)), "costs": np.ones(1)} | {
        name: np.zeros((1, 0), int) for name in ("tokens", "starts", "ends")
    }
    figure = plot(outputs, tokens=[], lattice="transducer" if states == 1 else "ctc")
    assert path(figure) == [[0, 0], [1, 0], [2, 0]]
    assert names(figure.axes[0]) == {}


def test_a_last_blank_that_is_impossible() -> None:
    # the last label is the end; its names are still two
    ends = CTC.copy()
    ends[2:] = [[0, 0, 0, 1, 0], [0, 0, 0, 1, 0]]
    figure = plot({"posteriors": batch(ends, 2)}, item=1, tokens=["a", "b"])
    np.testing.assert_array_equal(image(figure), ends)


def test_many_names_are_thinned_out() -> None:
    posteriors = np.eye(401)[None]
    figure = plot({"posteriors": posteriors}, tokens=[f"w{i}" for i in range(200)])
    shown = names(figure.axes[0])
    assert 30 < len(shown) <= 60
    assert all(text == f"w{(state - 1) // 2}" for state, text in shown.items())
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(low.y1 <= high.y0 for low, high in pairwise(boxes))


@pytest.mark.parametrize(
    ("change", "call", "message"),
    [
        (
            {"posteriors": None},
            {},
            "outputs: got costs, tokens, starts, ends, expected posteriors among them",
        ),
        ({"posteriors": np.ones((2, 5))}, {}, r"posteriors: got shape \[2, 5\], expected \[B, T, 2S\+1\]"),
        (
            {"posteriors": np.ones((2, 5, 6))},
            {},
            r"posteriors: got shape \[2, 5, 6\], expected \[B, T, 2S\+1\]",
        ),
        ({"posteriors": np.ones((2, 0, 5))}, {}, r"posteriors: got shape \[2, 0, 5\], expected"),
        ({}, {"item": 2}, "item: got 2, expected one of the 2 from 0"),
        ({}, {"item": -1}, "item: got -1, expected one of the 2 from 0"),
        ({}, {"tokens": ["a"]}, "tokens: got 1 names, expected 2, one for each label of item 1"),
        ({}, {"tokens": ["a", "b"], "classes": ["c"]}, "classes: got 1 names beside tokens, expected none"),
        ({}, {"lattice": "hmm"}, "lattice: got 'hmm', expected 'ctc', 'transducer' or 'durations'"),
        ({"starts": np.ones(3, int)}, {}, r"starts: got shape \[3\], expected \[2, 3\]"),
        ({"ends": np.ones((1, 3), int)}, {}, r"ends: got shape \[1, 3\], expected \[2, 3\]"),
        ({"tokens": np.ones((2, 6), int)}, {}, r"tokens: got shape \[2, 6\], expected \[2, 3\]"),
        ({"costs": np.ones(1)}, {}, r"costs: got shape \[1\], expected \[2\]"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], call: dict[str, Any], message: str) -> None:
    outputs = {name: array for name, array in (ctc() | change).items() if array is not None}
    with pytest.raises(ValueError, match=f"^{message}"):
        plot(outputs, **{"item": 1, **call})


def test_without_matplotlib_it_says_what_to_install() -> None:
    code = """
import sys
sys.modules["matplotlib"] = None
import numpy as np
from exportable_losses.runtime import plot
plot({"posteriors": np.ones((1, 2, 3))})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    wanted = f"ModuleNotFoundError: matplotlib is not installed: {install('plot')}"
    assert done.stderr.strip().splitlines()[-1] == wanted


def test_a_path_has_both_its_ends() -> None:
    outputs = ctc()
    for name in ("starts", "ends"):
        assert plot(outputs, item=1).axes[0].lines
        assert not plot({n: array for n, array in outputs.items() if n != name}, item=1).axes[0].lines


def test_labels_behind_their_lengths_are_none() -> None:
    targets = np.array([[3, 1, 7], [2, 5, 0]])
    relative, absolute = np.array([1 / 3, 1], np.float32), np.array([1, 3])
    for lengths in (relative, absolute):
        found = labels_of({"targets": targets, "target_lens": lengths})
        np.testing.assert_array_equal(found, [[3, -1, -1], [2, 5, 0]])
    assert labels_of({"targets": targets}) is targets


def test_a_path_with_durations_leads_from_starts_to_ends() -> None:
    """A label of two frames is one line up and across; one of none is upright."""
    nodes = np.ones((1, 5, 3))
    outputs = {"posteriors": nodes, "emissions": nodes[:, :, :2], "tokens": np.array([[4, 6]])}
    outputs |= {"starts": np.array([[1, 3]]), "ends": np.array([[3, 3]])}
    figure = plot(outputs, lattice="durations")
    (line,) = figure.axes[0].get_lines()
    expected = [(0, 0), (1, 0), (3, 1), (3, 1), (3, 2), (4, 2)]
    assert list(zip(*line.get_data(), strict=True)) == expected


def test_the_arcs_of_an_occupation() -> None:
    """A line for each arc that is taken, bowed over the node that a blank of two frames skips."""
    occupation = np.zeros((1, 3, 2, 3))  # blanks of one and of two frames, a label of one
    occupation[0, 0, 0, 2] = occupation[0, 1, 1, 1] = 1.0
    figure = plot({"occupation": occupation}, durations=([1, 2], [1]))
    label, blank = (np.array(line.get_data()).T for line in figure.axes[0].get_lines())
    assert (label[0].tolist(), label[-1].tolist()) == ([0, 0], [1, 1])
    assert (blank[0].tolist(), blank[-1].tolist()) == ([1, 1], [3, 1])
    assert np.all(np.diff(label[:, 1]) > 0)
    assert blank[len(blank) // 2, 1] > 1
    with pytest.raises(ValueError, match="durations: got none, expected those of the arcs"):
        plot({"occupation": occupation})
    with pytest.raises(ValueError, match=r"occupation: got shape \[1, 3, 2, 3\] and item 0, expected"):
        plot({"occupation": occupation}, durations=([1], [1]))
