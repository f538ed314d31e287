"""No command writes over a file that it reads."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from run_folders import write_run


@pytest.fixture
def files(exported, tmp_path):
    """What commands read, each under its name."""
    graph = shutil.copy(exported / "ctc_loss" / "ctc_loss.onnx", tmp_path / "loss.onnx")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "t", 4]) for name in ("x", "y")]
    model = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "model", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(model, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx")
    whole = np.ones(1, np.float32)
    batch = {"log_probs": np.full((1, 3, 4), np.log(0.25), np.float32), "targets": np.array([[1, 2]])}
    np.savez(tmp_path / "batch.npz", **batch, input_lens=whole, target_lens=whole)
    np.savez(tmp_path / "dev.npz", **{f"utt.{name}": array[0] for name, array in batch.items()})
    (tmp_path / "tokens.svg").write_text("a\nb\nc\nd")
    for name in ("a", "b"):
        total = {"loss": {"kind": "sum", "by": "", "value": 2.0}}
        write_run(tmp_path / name, {"loss": [1.0, 1.0]}, total)
    (tmp_path / "link").symlink_to(tmp_path)
    return tmp_path, graph


@pytest.mark.parametrize("spelled", ["", "a/..", "link"])
@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("attach model.onnx loss.onnx --input log_probs=y --out @model.onnx", "--out"),
        ("attach model.onnx loss.onnx --input log_probs=y --out @loss.onnx", "--out"),
        ("attach model.onnx loss.onnx --input log_probs=y --example batch.npz --out @batch.npz", "--out"),
        ("score loss.onnx --inputs batch.npz --out @batch.npz", "--out"),
        ("score loss.onnx --inputs batch.npz --out @loss.onnx", "--out"),
        ("score loss.onnx dev.npz --out scores --report @dev.npz", "--report"),
        ("score loss.onnx dev.npz --out scores --report @loss.onnx", "--report"),
        ("compare a b --json @b/totals.json", "--json"),
        ("compare a b --report @a/items.parquet", "--report"),
        ("report a --out @a/totals.json", "--out"),
        ("plot loss.onnx --inputs batch.npz --tokens tokens.svg --out @tokens.svg", "--out"),
        ("validate loss.onnx --json @loss.onnx", "--json"),
        ("validate . --junit @model.onnx", "--junit"),
    ],
)
def test_what_is_read_is_not_written(cli, files, monkeypatch, words, option, spelled):
    folder, _ = files
    monkeypatch.chdir(folder)
    given = [str(folder / spelled / word[1:]) if word.startswith("@") else word for word in words.split()]
    before = {path: path.read_bytes() for path in folder.glob("**/*") if path.is_file()}
    result = cli(*given)
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {option}: got {given[-1]}, which is an input too, expected another file\n",
    )
    assert {path: path.read_bytes() for path in folder.glob("**/*") if path.is_file()} == before


def test_results_do_not_go_to_the_data(cli, files, tmp_path):
    (tmp_path / "data").mkdir()
    shutil.copy(tmp_path / "dev.npz", tmp_path / "data")
    result = cli("score", files[1], tmp_path / "data", "--out", tmp_path / "data" / "scores")
    assert (result.exit_code, "where the data" in result.stderr) == (1, True)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["dev.npz"]


def test_files_of_validate_are_not_compared_as_runs_are(cli, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"format": 1, "runtimes": {name: "1"}, "rows": {}}))
    words = ("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert cli(*words).exit_code == 0
    result = cli(*words, "--tolerance", "1", "--json", tmp_path / "a.json")
    assert (result.exit_code, "--tolerance, --json: got files of `validate" in result.stderr) == (2, True)


def test_a_column_that_is_not_used_is_noted(cli, files, tmp_path):
    arrays = {f"utt.{name}": array[0] for name, array in np.load(tmp_path / "batch.npz").items()}
    arrays["utt.input_len"] = arrays.pop("utt.input_lens")
    np.savez(tmp_path / "misspelled.npz", **arrays)
    result = cli("score", files[1], tmp_path / "misspelled.npz", "--out", tmp_path / "scores")
    assert result.exit_code == 0, result.output
    assert "Note: columns not used: input_len (close to input_lens).\n" in result.stdout
