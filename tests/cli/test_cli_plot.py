"""`plot` draws what exported graphs give, and says what is wrong with what it is given."""

import shutil
import sys
from itertools import pairwise

import exports
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import exportable_losses as el
from exportable_losses import runtime
from exportable_losses.export import attach
from exportable_losses.missing import install
from exportable_losses.runtime import LossSession

MODULES = {
    "ctc": (el.CTCPosterior, el.CTCAlign, "log_probs"),
    "transducer": (el.TransducerPosterior, el.TransducerAlign, "logits"),
}


@pytest.fixture(scope="module", params=MODULES)
def lattice(request):
    return request.param


@pytest.fixture(scope="module")
def graphs(lattice, tmp_path_factory):
    """The posterior and the best path of one lattice, a file each, and what both give for a batch."""
    folder = tmp_path_factory.mktemp(lattice)
    paths = []
    for module in MODULES[lattice][:2]:
        path = folder / module.__name__ / f"{module.__name__}.onnx"
        path.parent.mkdir()
        shutil.copy(exports.onnx(module()), path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def batch(lattice, tmp_path_factory):
    """Inputs for both, as a file: two items of 20 frames, the second of 15 with 2 labels."""
    rng = np.random.default_rng(0)
    shape = (2, 20, 5) if lattice == "ctc" else (2, 20, 5, 5)
    scores = rng.normal(size=shape).astype(np.float32)
    path = tmp_path_factory.mktemp("batch") / "batch.npz"
    arrays = {
        MODULES[lattice][2]: scores - np.log(np.exp(scores).sum(-1, keepdims=True)),
        "targets": rng.integers(1, 5, (2, 4)),
        "input_lens": np.array([1, 0.75], np.float32),
        "target_lens": np.array([1, 0.5], np.float32),
    }
    np.savez(path, **arrays)
    return path


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a command draws."""
    figures = []

    def plot(*arguments, **settings):
        figures.append(original(*arguments, **settings))
        return figures[-1]

    original = runtime.plot
    monkeypatch.setattr(runtime, "plot", plot)
    return figures


@pytest.mark.parametrize("item", [0, 1])
def test_the_posterior_with_its_best_path(cli, lattice, graphs, batch, drawn, item, tmp_path):
    out = tmp_path / "new" / "lattice.png"
    result = cli("plot", *graphs, "--inputs", batch, "--out", out, "--item", item)
    assert (result.exit_code, result.stdout) == (0, f"Wrote {out}.\n"), result.output
    assert np.ptp(np.asarray(Image.open(out).convert("L"))) == 255
    (axes, _) = drawn[0].axes
    outputs = {k: v for path in graphs for k, v in LossSession(path)(**np.load(batch)).items()}
    frames, labels = (20, 4) if item == 0 else (15, 2)
    states = labels * (2 if lattice == "ctc" else 1) + 1
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array().T, outputs["posteriors"][item, :frames, :states])
    (line,) = axes.lines
    path = line.get_xydata().astype(int)
    starts, ends = outputs["starts"][item, :labels], outputs["ends"][item, :labels]
    if lattice == "ctc":  # a label is at an odd state, as long as it lasts
        spoken = [[t, 2 * u + 1] for u in range(labels) for t in range(starts[u], ends[u])]
        assert [point for point in path.tolist() if point[1] % 2] == spoken
        assert path[:, 0].tolist() == list(range(frames))
    else:  # a label is a step up
        steps = [a.tolist() for a, b in pairwise(path) if a[1] < b[1]]
        assert steps == [[t, u] for u, t in enumerate(starts)]
        assert len(path) == frames + labels
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert ticks == [str(x) for x in np.load(batch)["targets"][item, :labels]]
    assert axes.get_title(loc="left") == f"cost: {outputs['costs'][item]:.2f} nats"


def test_the_posterior_alone_with_names(cli, lattice, graphs, batch, drawn, tmp_path):
    names = ["<blank>", "é", " ", "a\u2028b"]  # class 4 has none
    (tmp_path / "tokens.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    words = ("--inputs", batch, "--item", 1, "--tokens", tmp_path / "tokens.txt")
    for suffix, starts in ((".svg", b"<?xml"), (".pdf", b"%PDF"), (".png", b"\x89PNG")):
        out = tmp_path / f"lattice{suffix}"
        assert cli("plot", graphs[0], *words, "--out", out).exit_code == 0
        assert out.read_bytes().startswith(starts)
    axes = drawn[0].axes[0]
    labels = np.load(batch)["targets"][1, :2]
    shown = ["<blank>", "é", "␣", "a\u2028b", "4"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [shown[label] for label in labels]
    assert not axes.lines


def test_padding_of_labels_is_not_shown(cli, lattice, graphs, batch, drawn, tmp_path):
    """Of an item that cannot be, either, whose posterior says nothing of how many labels it has."""
    arrays = dict(np.load(batch))
    # every label is impossible
    arrays[MODULES[lattice][2]][1, ..., 1:] = -np.inf
    np.savez(tmp_path / "impossible.npz", **arrays)
    words = ("--inputs", tmp_path / "impossible.npz", "--item", 1, "--out", tmp_path / "lattice.svg")
    result = cli("plot", graphs[0], *words)
    assert result.exit_code == 0, result.output
    labels = [str(label) for label in arrays["targets"][1, :2]]
    shown = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert [label for label in shown if label in labels] == labels
    assert len([label for label in shown if label.isdigit()]) == 2


def test_one_graph_that_gives_both(cli, lattice, graphs, batch, drawn, tmp_path):
    # a model whose output is what both take
    name = MODULES[lattice][2]
    dims = ["B", "T", 5] if lattice == "ctc" else ["B", "T", "P", 5]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n in ("x", "y")]
    node = helper.make_node("LogSoftmax" if lattice == "ctc" else "Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "model", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx")
    scores = "log_probs" if lattice == "ctc" else "logits"
    attach(tmp_path / "model.onnx", graphs[0], tmp_path / "1.onnx", inputs={name: "y"}, scores=scores)
    attach(tmp_path / "1.onnx", graphs[1], tmp_path / "2.onnx", inputs={name: "y"}, scores=scores)
    arrays = dict(np.load(batch))
    prefix = MODULES[lattice][1].__name__  # of the second's own inputs, since the first has taken the names
    again = {f"{prefix}_{k}": arrays[k] for k in ("targets", "input_lens", "target_lens")}
    np.savez(tmp_path / "joint.npz", x=arrays.pop(name), **arrays, **again)
    for files, inputs in ((graphs, batch), ([tmp_path / "2.onnx"], tmp_path / "joint.npz")):
        result = cli("plot", *files, "--inputs", inputs, "--out", tmp_path / "lattice.png")
        assert result.exit_code == 0, result.output
    two, one = (figure.axes[0] for figure in drawn)
    np.testing.assert_allclose(one.images[0].get_array(), two.images[0].get_array(), atol=1e-5)
    np.testing.assert_array_equal(one.lines[0].get_xydata(), two.lines[0].get_xydata())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--item", "2"], "plot: item: got 2, expected one of the 2 from 0"),
        (["--out", "lattice.bmp"], "--out: got lattice.bmp, expected a name that ends in .png, .svg, .pdf."),
        (["--out", "lattice"], "--out: got lattice, expected a name that ends in"),
        (["--tokens", "{binary}"], "--tokens: 'utf-8' codec can't decode"),
    ],
)
def test_what_does_not_fit(cli, graphs, batch, words, message, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    words = [word.format(binary=tmp_path / "binary") for word in words]
    result = cli("plot", *graphs, "--inputs", batch, "--out", tmp_path / "lattice.png", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {message}")
    assert not list(tmp_path.glob("lattice*"))


def test_a_graph_without_a_posterior(cli, graphs, batch, tmp_path):
    result = cli("plot", graphs[1], "--inputs", batch, "--out", tmp_path / "lattice.png")
    assert result.exit_code == 2
    outputs = "tokens, starts, ends, scores, path_scores"
    assert result.stderr == f"Error: plot: outputs: got {outputs}, expected posteriors among them\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speaker": np.ones(1)}, "inputs: got speaker, expected "),
        ({"targets": None}, "inputs: targets missing, expected "),
        ({"targets": np.full((2, 4), 5)}, "targets: got 5 at [0, 0], expected an index in [0, 4]"),
    ],
)
def test_inputs_that_do_not_fit(cli, graphs, batch, change, message, tmp_path):
    arrays = {name: array for name, array in {**np.load(batch), **change}.items() if array is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    result = cli("plot", *graphs, "--inputs", tmp_path / "bad.npz", "--out", tmp_path / "lattice.png")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path / 'bad.npz'}: {message}")


def test_a_graph_that_is_none(cli, batch, tmp_path):
    result = cli("plot", batch, "--inputs", batch, "--out", tmp_path / "lattice.png")
    assert (result.exit_code, "not a graph that ONNX Runtime takes" in result.stderr) == (2, True)


def test_without_matplotlib(cli, graphs, batch, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = cli("plot", graphs[0], "--inputs", batch, "--out", tmp_path / "lattice.png")
    assert result.exit_code == 2
    assert result.stderr == f"Error: plot: matplotlib is not installed: {install('plot')}\n"
