"""Label priors from `score` to `align`."""

from collections.abc import Callable
from pathlib import Path

import exports
import numpy as np
import pytest
from click.testing import Result
from speech import LETTERS, TEXTS, scores, write

from exportable_losses import CTCLoss


def test_from_score_to_align(
    cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blank that is everywhere leaves each letter its clearest frame; less the prior it has all three."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for number, text in enumerate(TEXTS):
        logits = scores(text, frames=3)
        sides = np.flatnonzero((logits.argmax(1) > 0) & (np.arange(len(logits)) % 4 != 1))
        logits[sides, 0] = logits[sides].max(1) + 1.0  # of three frames the blank wins those at the sides
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        rows.append({"id": f"utt{number}", "log_probs": logits, "targets": [1], "text": text})
    write(tmp_path / "dev.parquet", rows)
    Path("tokens.txt").write_text("\n".join(LETTERS))
    Path("loss.onnx").write_bytes(exports.onnx(CTCLoss(0)).read_bytes())
    result = cli("score", "loss.onnx", "dev.parquet", "--out", "scored", "--priors", "made/priors.npy")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(
        f"Wrote made/priors.npy, of {sum(len(r['log_probs']) for r in rows)} frames.\n"
    )
    priors = np.load("made/priors.npy")
    assert (priors.argmax(), priors.shape) == (0, (len(LETTERS),))
    words = ("align", "dev.parquet", "--tokens", "tokens.txt", "--hop", 1, "--format", "ctm")
    assert cli(*words, "--out", "without").exit_code == 0
    assert cli(*words, "--out", "with", "--priors", "made/priors.npy").exit_code == 0
    first = [Path(name, "words.ctm").read_text().splitlines()[1].split() for name in ("without", "with")]
    assert [line[2:5] for line in first] == [["13.000", "17.000", "rains"], ["12.000", "19.000", "rains"]]
    again = cli(*words, "--out", "more", "--priors", "made/priors.npy", "--graph", "loss.onnx")
    assert (again.exit_code, "--graph: got log_priors as well" in again.stderr) == (2, True)
    np.save("few.npy", np.log([0.5, 0.5]))
    result = cli(*words, "--out", "more", "--priors", "few.npy")
    assert result.exit_code == 1
    assert "got those of 2 classes, expected as many as log_probs has, 28" in result.stderr
    assert cli("score", "loss.onnx", "dev.parquet", "--out", "x", "--priors", "loss.onnx").exit_code == 2
    result = cli("score", "loss.onnx", "--inputs", "few.npy", "--priors", "x.npy")
    assert "--priors: got --inputs, expected DATA." in result.stderr


def test_logits_have_none(cli: Callable[..., Result], tmp_path: Path) -> None:
    rows = [{"id": "a", "log_probs": scores("no") - 1, "targets": [1]}]
    graph, data = exports.onnx(CTCLoss(0)), write(tmp_path / "dev.parquet", rows)
    result = cli("score", graph, data, "--out", tmp_path / "out", "--priors", tmp_path / "p.npy")
    assert result.exit_code == 1
    assert "--priors: exp of log_probs does not add up to 1 in 1 items" in result.stderr
    assert (tmp_path / "out" / "totals.json").exists()
    assert not (tmp_path / "p.npy").exists()
