"""At 80 columns a name that one has to type is not cut."""

import numpy as np
import pytest
from click.testing import Result
from rich.console import Console
from run_folders import write_run
from typer.testing import CliRunner

from exportable_losses.export.checking import runtimes
from exportable_losses.export.commands import app, comparison
from exportable_losses.export.commands.listing import written
from exportable_losses.runtime.corpus.compare import compare_runs
from exportable_losses.runtime.corpus.runs import read_run


def narrow(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(word) for word in words])


def test_rows_modules_and_inputs_are_whole():
    shown = narrow("list").stdout
    assert "…" not in shown
    for row in written():
        for name in (row["row"], row["module"], *(each["name"] for each in row["inputs"])):
            assert name in shown


def test_runtimes_are_whole(capsys):
    names = ["onnxruntime", "onnxruntime-cpp", "onnxruntime-arm64", "onnxruntime-web", "aotinductor-cpp"]
    rows = {"get_si_snr_with_pitwrapper": {name: {"ulp": 0.123, "absolute": 0.0} for name in names}}
    tables = runtimes.tables({"runtimes": dict.fromkeys(names, "1"), "rows": rows}, 80)
    Console(width=80).print(*tables, sep="\n")
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert len(tables) == 2
    assert all(name in shown.split() for name in (*names, *rows))
    assert len(runtimes.tables({"runtimes": dict.fromkeys(names, "1"), "rows": rows}, 200)) == 1


def test_files_of_batches_are_whole(exported, tmp_path):
    batch = tmp_path / f"{'a-long-name-' * 8}.npz"
    whole = np.ones(1, np.float32)
    scores = np.full((1, 3, 4), np.log(0.25), np.float32)
    np.savez(batch, log_probs=scores, targets=np.array([[1, 2]]), input_lens=whole, target_lens=whole)
    shown = narrow("score", exported / "ctc_loss" / "ctc_loss.onnx", "--inputs", batch).stdout
    assert "…" not in shown
    assert batch.name in "".join(line.split("│")[1].strip() for line in shown.splitlines() if "│" in line)


@pytest.fixture
def runs(tmp_path):
    total = {"loss": {"kind": "mean", "by": "", "value": 1.0, "numerator": 80.0, "denominator": 80.0}}
    values = np.random.default_rng(0).normal(1234567.0, 1000.0, (2, 80))
    for name, losses in zip("ab", values, strict=True):
        write_run(tmp_path / name, {"loss": losses, "loss_weight": np.ones(80)}, total)
    return tmp_path / "a", tmp_path / "b"


def test_numbers_of_a_comparison_are_whole(runs):
    shown = narrow("compare", *runs, "--worst", "1", "--tolerance", "0.5").stdout
    assert "…" not in shown
    found = compare_runs(*map(read_run, runs)).outputs[0]
    for number in (f"{found.a:.7g}", f"{found.interval[0]:+.4g}", f"{found.interval[1]:+.4g}"):
        assert number in shown
    assert "loss moved most  frames" in shown


def test_what_fails_is_said_last(runs, capsys):
    found = compare_runs(*map(read_run, runs), tolerance=0.5)
    comparison.show(found, 0)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Fails: loss: the total moved by ")


def test_an_interval_without_ends_is_too_few_items(tmp_path):
    total = {"loss": {"kind": "sum", "by": "", "value": 2.0}}
    for name in ("a", "b"):
        write_run(tmp_path / name, {"loss": [1.0, 1.0]}, total)
    result = narrow("compare", tmp_path / "a", tmp_path / "b", "--report", tmp_path / "page.html")
    assert "too few items" in result.stdout
    assert "inf" not in result.stdout
    page = (tmp_path / "page.html").read_text()
    assert '<td class="n">too few items</td>' in page
