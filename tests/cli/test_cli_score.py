"""`score` runs an exported loss on arrays and says what is wrong with them."""

import subprocess
import sys

import numpy as np
import pytest

from exportable_losses.export.score import summary
from exportable_losses.runtime import LossSession

WHOLE = np.ones(1, np.float32)
UNIFORM = {
    "log_probs": np.log(np.full((1, 3, 4), 0.25, np.float32)),
    "targets": np.array([[1, 2]]),
    "input_lens": WHOLE,
    "target_lens": WHOLE,
}
COST = np.log(64 / 5)  # five alignments of two labels to three frames, each (1/4)^3


@pytest.fixture
def graph(exported):
    return exported / "ctc_loss" / "ctc_loss.onnx"


@pytest.fixture
def save(tmp_path):
    def save(name, **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return save


def test_prints_and_writes_the_loss(cli, graph, save, tmp_path):
    out = tmp_path / "results" / "costs.npz"
    result = cli("score", graph, "--inputs", save("batch.npz", **UNIFORM), "--out", out)
    assert result.exit_code == 0, result.output
    assert f"{COST / 2:.5f}" in result.stdout  # the mean is per label
    np.testing.assert_allclose(np.load(out)["loss"], COST / 2, rtol=1e-6)


def test_several_files_are_named_in_the_results(cli, graph, save, tmp_path):
    first = save("first.npz", **UNIFORM)
    second = save("second.npz", **{**UNIFORM, "targets": np.array([[3, 3]])})
    out = tmp_path / "out.npz"
    result = cli("score", graph, "--inputs", first, "--inputs", second, "--out", out)
    assert result.exit_code == 0, result.output
    results = np.load(out)
    costs = [results[f"{path.with_suffix('').as_posix()}/loss"] for path in (first, second)]
    assert costs == pytest.approx([COST / 2, np.log(64) / 2])  # one alignment of a label twice
    session = LossSession(graph)
    assert costs[0] == session(**UNIFORM)["loss"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"targets": np.array([[0, 1]])},
            "targets: got 0 at [0, 0], expected labels other than blank_index=0",
        ),
        ({"targets": np.array([[1, 4]])}, "targets: got 4 at [0, 1], expected an index in [0, 3]"),
        ({"targets": np.array([[1, None]])}, "not an .npz file of plain arrays"),
        ({"input_lens": 3 * WHOLE}, "input_lens: got 3.0 at [0], expected relative lengths in (0, 1]"),
        ({"speaker": WHOLE}, "got speaker, expected log_probs, targets, input_lens, target_lens"),
    ],
)
def test_inputs_that_do_not_fit(cli, graph, save, change, message):
    path = save("batch.npz", **{**UNIFORM, **change})
    result = cli("score", graph, "--inputs", path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {path}: ")
    assert message in result.stderr


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_a_file_of_another_kind(cli, graph, tmp_path, content):
    path = tmp_path / "batch.npz"
    path.write_bytes(content)
    result = cli("score", graph, "--inputs", path)
    assert (result.exit_code, "not an .npz file" in result.stderr) == (2, True)


def test_a_single_array_is_not_enough(cli, graph, tmp_path):
    np.save(tmp_path / "batch.npy", WHOLE)
    result = cli("score", graph, "--inputs", tmp_path / "batch.npy")
    assert (result.exit_code, "not an .npz file" in result.stderr) == (2, True)


def test_a_graph_that_is_none(cli, save):
    path = save("batch.npz", **UNIFORM)
    result = cli("score", path, "--inputs", path)
    assert (result.exit_code, "not a graph that ONNX Runtime takes" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.float32(2.5), "2.5"),
        (np.array([[7]]), "7"),
        (np.array([1.0, 2.0, 6.0]), "mean 3, from 1 to 6, shape [3]"),
        (np.zeros((2, 0)), "empty, shape [2, 0]"),
        (np.array([np.inf, 1.0]), "mean inf, from 1 to inf, shape [2]"),
    ],
)
def test_summary(array, text):
    assert summary(np.asarray(array)) == text


@pytest.fixture
def corpus(tmp_path):
    """Three items in an archive, the last of them with a label that is none."""
    item = {name: array[0] for name, array in UNIFORM.items() if not name.endswith("_lens")}
    items = [item, {**item, "targets": np.array([3, 3])}, {**item, "targets": np.array([4])}]
    members = {f"utt{i}.{name}": array for i, item in enumerate(items) for name, array in item.items()}
    np.savez(tmp_path / "dev.npz", **members)
    return tmp_path / "dev.npz"


def test_a_corpus(cli, graph, corpus, tmp_path):
    out = tmp_path / "scores"
    result = cli("score", graph, "--data", corpus, "--out", out, "--batch-bytes", 100)
    assert result.exit_code == 0, result.output
    assert f"{(COST + np.log(64)) / 2:.6f}"[:7] in result.stdout
    assert f"2 items scored, 1 set aside; {out}/set_aside.parquet says why" in result.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "items.parquet",
        "set_aside.parquet",
        "totals.json",
    ]
    again = cli("score", graph, "--data", corpus, "--out", out)
    assert again.exit_code == 1
    assert "which holds a finished run" in again.stderr


def test_strict_is_an_exit_code_and_the_run_goes_on(cli, graph, corpus, tmp_path):
    out = tmp_path / "scores"
    result = cli("score", graph, "--data", corpus, "--out", out, "--strict")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: utt2: targets: got 4 at [0, 0], expected an index in [0, 3]")
    assert cli("score", graph, "--data", corpus, "--out", out).exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either --inputs or --data"),
        (("--data", "CORPUS", "--inputs", "CORPUS"), "give either --inputs or --data"),
        (("--data", "CORPUS"), "--data needs --out"),
        (("--inputs", "CORPUS", "--strict", "--workers", "2"), "--workers, --strict: of --data"),
        (("--data", "nowhere/*.tar", "--out", "OUT"), "data: got nowhere/*.tar, where there is no .parquet"),
        (("--data", "CORPUS", "--out", "OUT", "--feed", "log_probs"), "--feed: got 'log_probs'"),
        (("--data", "CORPUS", "--out", "OUT", "--feed", "log_probs=x"), "expected none without a model"),
        (("--data", "CORPUS", "--out", "OUT", "--model", "CORPUS"), "not graphs that ONNX Runtime takes"),
    ],
)
def test_a_wrong_call(cli, graph, corpus, tmp_path, words, message):
    places = {"CORPUS": corpus, "OUT": tmp_path / "out"}
    result = cli("score", graph, *(places.get(word, word) for word in words))
    assert result.exit_code == 2
    assert message in result.stderr


def _without(packages, *words):
    """The command line in a process where some packages are missing."""
    code = "import sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split()));"
    code += "from exportable_losses.export import cli; cli.main()"
    command = [sys.executable, "-c", code, " ".join(packages), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_corpus_needs_no_torch(graph, corpus, tmp_path):
    unwanted = ("torch", "onnx", "onnxscript")
    done = _without(unwanted, "score", graph, "--data", corpus, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "2 items scored" in done.stdout


def test_a_corpus_needs_pyarrow(graph, corpus, tmp_path):
    done = _without(["pyarrow"], "score", graph, "--data", corpus, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr == "pyarrow is not installed. Try: pip install 'exportable-losses[corpus]'\n"
