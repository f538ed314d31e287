"""`score` runs an exported loss on arrays and says what is wrong with them."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exportable_losses import CTCPosterior, catalog
from exportable_losses.export import attach
from exportable_losses.export.commands import lattices
from exportable_losses.export.commands.sessions import summary
from exportable_losses.missing import install
from exportable_losses.runtime import LossSession, Scorer, score_corpus

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


def test_a_damaged_archive_is_an_exit_code_with_what_is_before_the_damage_scored(
    cli, graph, corpus, tmp_path
):
    shard, out = tmp_path / "dev.tar", tmp_path / "scores"
    with tarfile.open(shard, "w") as tar, zipfile.ZipFile(corpus) as members:
        for name in members.namelist():
            about = tarfile.TarInfo(name)
            about.size = members.getinfo(name).file_size
            tar.addfile(about, members.open(name))
    content = bytearray(shard.read_bytes())
    content[content.index(b"utt1.") + 100] ^= 1
    shard.write_bytes(content)
    result = cli("score", graph, "--data", shard, "--out", out)
    assert (result.exit_code, result.stdout.count("1 items scored, 1 set aside")) == (1, 1)
    assert result.stderr.startswith(f"Error: {shard} may have more items: unreadable: no header of a member")
    (row,) = pq.read_table(out / "items.parquet").to_pylist()
    assert row["id"] == "utt0"
    strict = cli("score", graph, "--data", shard, "--out", tmp_path / "strict", "--strict")
    assert (strict.exit_code, strict.stderr.startswith("Error: dev.tar: unreadable: ")) == (1, True)


def test_a_link_that_leads_nowhere_is_an_exit_code_with_what_is_beside_it_scored(
    cli, graph, corpus, tmp_path
):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(corpus, data)
    (data / "gone.npz").symlink_to("nowhere.npz")
    result = cli("score", graph, "--data", data, "--out", tmp_path / "scores")
    assert (result.exit_code, result.stdout.count("2 items scored, 2 set aside")) == (1, 1)
    assert "gone.npz may have more items: unreadable: a link to nowhere.npz" in result.stderr


def test_a_corpus_of_several_files_folders_and_patterns(cli, graph, corpus, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("a.npz", "b.npz", "folder/c.npz", "d.npz"):
        shutil.copy(corpus, tmp_path / name)
    given = (tmp_path / "a.npz", tmp_path / "folder", tmp_path / "[bd].npz")
    result = cli("score", graph, *given[:2], "--data", given[2], "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    read = json.loads((tmp_path / "out" / "totals.json").read_text())["data"]
    assert [Path(each["path"]).name for each in read] == ["a.npz", "c.npz", "b.npz", "d.npz"]


def test_a_folder_that_cannot_be_is_an_exit_code(cli, graph, corpus):
    result = cli("score", graph, "--data", corpus, "--out", corpus)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: out: got {corpus}, where there can be no folder")


def test_two_runs_into_one_folder_are_refused(cli, graph, corpus, tmp_path):
    from exportable_losses.runtime.corpus.results import Results

    with Results(tmp_path / "scores", {}):
        result = cli("score", graph, "--data", corpus, "--out", tmp_path / "scores")
    assert result.exit_code == 1
    assert "to which process" in result.stderr


def test_data_that_change_while_they_are_scored_are_an_error(graph, corpus, tmp_path):
    def change(*_):
        content = bytearray(corpus.read_bytes())
        content[100] ^= 1
        corpus.write_bytes(content)

    with pytest.raises(ValueError, match=r"^data: .*dev.npz changed while it was scored"):
        score_corpus(Scorer(graph), [corpus], tmp_path / "scores", progress=change)
    with pytest.raises(ValueError, match="which holds an unfinished run of other data: resume it"):
        score_corpus(Scorer(graph), [corpus], tmp_path / "scores")


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
        ((), "expected DATA or --inputs"),
        (("--data", "CORPUS", "--inputs", "CORPUS"), "DATA, --inputs: got both, expected one"),
        (("--data", "CORPUS"), "--out: got none, expected the folder to write to"),
        (
            ("--inputs", "CORPUS", "--strict", "--workers", "2"),
            "--workers, --strict: got --inputs, expected DATA",
        ),
        (("--inputs", "CORPUS", "--ray", "local"), "--ray: got --inputs, expected DATA"),
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
    assert done.stderr == f"pyarrow is not installed. Try: {install('corpus')}\n"


def test_a_page_with_the_lattices_of_the_worst(cli, graph, corpus, tmp_path):
    (tmp_path / "classes.txt").write_text("-\na\nb\nc\n")
    page = tmp_path / "pages" / "scores.html"
    words = (
        "--data",
        corpus,
        "--out",
        tmp_path / "out",
        "--report",
        page,
        "--tokens",
        tmp_path / "classes.txt",
    )
    result = cli("score", graph, *words)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"Wrote {page}.\n")
    source = page.read_text(encoding="utf-8")
    assert source.count('<img src="data:image/png;base64,') == 2
    assert source.index("utt1") < source.index("utt0", source.index("<h2>Worst items"))  # the higher cost


def test_a_page_of_a_row_without_lattices(cli, exported, tmp_path):
    example = catalog.get("PitWrapper").example_inputs()
    np.savez(tmp_path / "dev.npz", **{f"u.{name}": array[0].numpy() for name, array in example.items()})
    loss = exported / "PitWrapper" / "PitWrapper.onnx"
    words = ("--data", tmp_path / "dev.npz", "--out", tmp_path / "out", "--report", tmp_path / "page.html")
    result = cli("score", loss, *words)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"Wrote {tmp_path / 'page.html'}.\n")
    assert "<img" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_lattices_need_the_exporter_or_files(graph, corpus, tmp_path):
    unwanted = ("torch", "onnx", "onnxscript")
    page = tmp_path / "page.html"
    words = ("score", graph, "--data", corpus, "--out", tmp_path / "out", "--report", page)
    done = _without(unwanted, *words)
    assert done.returncode == 0, done.stderr
    assert f"Wrote {page}, without lattices: torch is not installed" in done.stdout
    assert page.exists()


def test_an_attached_loss_has_lattices_from_an_attached_posterior(cli, graph, tmp_path):
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]> m (float[B, T, 4] x) => (float[B, T, 4] log_probs) {
            log_probs = LogSoftmax<axis = -1>(x)
        }"""
    )
    joints = {}
    onnx.save(model, tmp_path / "model.onnx")
    for row, loss in (("ctc_loss", graph), ("CTCPosterior", CTCPosterior())):
        joints[row] = tmp_path / f"{row}.onnx"
        scores = {"inputs": {"log_probs": "log_probs"}, "scores": "log_probs"}
        attach(tmp_path / "model.onnx", loss, joints[row], **scores)
    arrays = {"u.x": np.zeros((3, 4), np.float32), "u.targets": np.array([1, 2])}
    np.savez(tmp_path / "dev.npz", **arrays)
    words = ("--data", tmp_path / "dev.npz", "--report", tmp_path / "page.html")
    result = cli("score", joints["ctc_loss"], *words, "--out", tmp_path / "a")
    assert result.exit_code == 0, result.output
    assert "without lattices: the loss is attached to a model" in result.stdout
    result = cli(
        "score", joints["ctc_loss"], *words, "--out", tmp_path / "b", "--lattice", joints["CTCPosterior"]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<img") == 1


@pytest.mark.parametrize(
    ("row", "words", "message"),
    [
        ("ctc_loss", ("--tokens", "CORPUS"), "--lattice, --tokens: got no --report"),
        ("ctc_loss", ("--report", "PAGE", "--lattice", "CORPUS"), "--report: not a graph"),
        ("PitWrapper", ("--report", "PAGE", "--tokens", "CORPUS"), "PitWrapper has no lattice"),
        ("PitWrapper", ("--report", "PAGE", "--lattice", "GRAPH"), "got a graph that takes log_probs"),
    ],
)
def test_a_page_that_cannot_be(cli, graph, exported, corpus, tmp_path, row, words, message):
    places = {"CORPUS": corpus, "PAGE": tmp_path / "page.html", "GRAPH": graph}
    given = [places.get(word, word) for word in words]
    loss = exported / row / f"{row}.onnx"
    result = cli("score", loss, "--data", corpus, "--out", tmp_path / "out", *given)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()  # said before the work


@pytest.mark.parametrize("missing", ["ray", "pandas"])
def test_a_cluster_needs_ray(graph, corpus, tmp_path, missing):
    words = ("score", graph, "--data", corpus, "--out", tmp_path / "out", "--ray", "local")
    done = _without([missing], *words)
    assert done.returncode == 1
    assert done.stderr == f"{missing} is not installed. Try: {install('ray')}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--model", "GRAPH"),
        ("--feed", "log_probs=x"),
        ("--batch-bytes", "100"),
        ("--workers", "2"),
        ("--ray", "local"),
        ("--strict",),
        ("--report", "PAGE"),
        ("--lattice", "GRAPH"),
        ("--tokens", "BATCH"),
    ],
)
def test_a_batch_takes_no_option_of_a_corpus(cli, graph, save, tmp_path, words):
    places = {"GRAPH": graph, "PAGE": tmp_path / "page.html", "BATCH": save("batch.npz", **UNIFORM)}
    given = [places.get(word, word) for word in words]
    result = cli("score", graph, "--inputs", places["BATCH"], *given)
    assert (result.exit_code, result.stderr) == (2, f"Error: {words[0]}: got --inputs, expected DATA.\n")


def test_lattices_have_the_blank_of_the_loss(graph, tmp_path, monkeypatch):
    model = onnx.load(graph)
    (about,) = [entry for entry in model.metadata_props if '"blank_index"' in entry.value]
    about.value = about.value.replace('"blank_index": 0', '"blank_index": 3')
    onnx.save(model, tmp_path / "other.onnx")
    exported = []
    monkeypatch.setattr(lattices, "_exported", lambda rows, settings: exported.append((rows, settings)))
    monkeypatch.setattr(lattices, "Lattices", lambda *_: None)
    lattices.lattices(Scorer(tmp_path / "other.onnx"), [], [], None)
    ((rows, settings),) = exported
    assert (rows, settings["blank_index"]) == (("CTCPosterior", "CTCAlign"), 3)


def test_lists_of_python_are_scored_and_the_rounding_is_noted_once(cli, graph, tmp_path):
    scores = np.log(np.full((3, 4), 0.25)).tolist()
    items = [{"id": f"utt{i}", "log_probs": scores, "targets": [1, 2]} for i in range(5)]
    pq.write_table(pa.Table.from_pylist(items), tmp_path / "dev.parquet")
    result = cli("score", graph, tmp_path / "dev.parquet", "--out", tmp_path / "out")
    assert "5 items scored, none set aside" in result.stdout
    notes = [line for line in result.stdout.splitlines() if line.startswith("Note: ")]
    note = "Note: log_probs is float64 in the data and was rounded to float32, as the graph takes it."
    assert notes == [note]
