"""A run gives the same bytes however it is divided, broken off and gone on with."""

import contextlib
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from corpora import expected, items_of, write
from onnx import TensorProto, helper

from exportable_losses.export import attach
from exportable_losses.runtime import Scorer, score_corpus
from exportable_losses.runtime.corpus.reading import windows

IDS = [f"utt{i:02}" for i in range(40)]
FILES = ("items.parquet", "set_aside.parquet", "totals.json")
SMALL = 6000  # bytes: some ten windows
OTHERS = [pytest.param(kind, marks=pytest.mark.thorough) for kind in ("file", "tar")]


def files(out: Path) -> dict[str, bytes]:
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two shards for `ctc_loss`; one item has a label that is none."""
    folder, items = tmp_path_factory.mktemp("corpus"), items_of("ctc_loss", 40)
    items[7]["targets"][0] = 99
    return [
        write("parquet", folder / "a", items[:25], IDS[:25]),
        write("file", folder / "b", items[25:], IDS[25:]),
    ]


@pytest.fixture(scope="module")
def unbroken(
    corpus: list[Path], graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What an unbroken run writes."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    score_corpus(Scorer(graphs["ctc_loss"]), corpus, out, window_bytes=SMALL)
    return files(out)


@pytest.mark.parametrize(
    ("row", "size"), [("ctc_loss", "frames"), ("l1_loss", "frames"), ("TokenErrorRate", "tokens")]
)
def test_what_the_size_of_an_item_counts(row: str, size: str, graphs: Any, tmp_path: Path) -> None:
    items = items_of(row)
    shard = write("parquet", tmp_path / "dev", items, [f"{i}" for i in range(len(items))])
    found = score_corpus(Scorer(graphs[row]), [shard], tmp_path / "out")
    assert found["size"] == size
    sizes = pq.read_table(tmp_path / "out" / "items.parquet")["size"].to_pylist()
    assert sizes == [len(next(iter(item.values()))) for item in items]


@pytest.mark.parametrize("row", ["ctc_loss", "l1_loss", "TokenErrorRate", "EqualErrorRate"])
def test_neither_batches_nor_windows_change_a_bit(row: str, graphs: Any, tmp_path: Path) -> None:
    path = write("file", tmp_path / "dev", items_of(row, 40), IDS)
    runs = {
        "as it is": ({}, {}),
        "one by one": ({"batch_bytes": 1}, {}),
        "some": ({"batch_bytes": 9000, "threads": 1}, {"window_bytes": 20_000}),
        "bit by bit": ({}, {"window_bytes": 1}),
    }
    found = {}
    for name, (settings, how) in runs.items():
        score_corpus(Scorer(graphs[row], **settings), [path], tmp_path / name, **how)
        found[name] = files(tmp_path / name)
    assert all(each == found["as it is"] for each in found.values())


@pytest.mark.parametrize("row", ["ctc_loss", "l1_loss", "TokenErrorRate", "EqualErrorRate"])
def test_the_order_of_the_items_does_not_change_a_bit(row: str, graphs: Any, tmp_path: Path) -> None:
    items = items_of(row, 40)
    results = []
    for seed in range(3):
        order = random.Random(seed).sample(range(40), 40) if seed else range(40)
        path = write("npz", tmp_path / "dev", [items[i] for i in order], [IDS[i] for i in order])
        found = score_corpus(Scorer(graphs[row]), [path], tmp_path / str(seed), window_bytes=SMALL)
        table = pq.read_table(tmp_path / str(seed) / "items.parquet")
        assert table["id"].to_pylist() == [IDS[i] for i in order]
        results.append((found["totals"], table.sort_by("id")))
    assert results[0] == results[1] == results[2]


def test_workers_do_not_change_a_bit(corpus: Any, unbroken: Any, graphs: Any, tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []
    scorer = Scorer(graphs["ctc_loss"])
    score_corpus(
        scorer,
        corpus,
        tmp_path / "out",
        workers=2,
        window_bytes=SMALL,
        progress=lambda *now: told.append(now),
    )
    assert files(tmp_path / "out") == unbroken
    assert [items for items, *_ in told] == sorted(items for items, *_ in told)
    items, aside, rate, means = told[-1]
    assert (items, aside, rate > 0) == (40, 1, True)
    assert means["loss"] == json.loads(unbroken["totals.json"])["totals"]["loss"]["value"]


def test_a_scorer_that_was_sent_gives_the_same_table(corpus: Any, graphs: Any) -> None:
    scorer = Scorer(graphs["ctc_loss"], native=False)
    sent = pickle.loads(pickle.dumps(scorer))
    first = next(windows([str(corpus[0])], scorer.columns, SMALL))
    table = sent.score_window(first)
    assert table.equals(scorer.score_window(first))
    assert table.schema == scorer.schema
    assert table["id"].to_pylist() == IDS[: first.rows]


SCRIPT = """
import os, signal, sys
from pathlib import Path
from exportable_losses.runtime import Scorer, score_corpus

graph, out, workers, window_bytes, left, *data = sys.argv[1:]
left = int(left)


def or_die(operation):
    def operate(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return operation(*args, **kwargs)

    return operate


if __name__ == "__main__":
    os.fsync, Path.replace, Path.unlink = or_die(os.fsync), or_die(Path.replace), or_die(Path.unlink)
    score_corpus(
        Scorer(graph), data, out, workers=int(workers), window_bytes=int(window_bytes),
        progress=lambda items, *_: print(items, flush=True),
    )
"""


@pytest.fixture
def start(corpus: Any, graphs: Any, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a run in a process of its own, that kills itself before its `left`-th change of the folder."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)

    def start(out: Path, workers: int = 1, left: int = 0) -> subprocess.Popen[str]:
        words = [graphs["ctc_loss"], out, workers, SMALL, left, *corpus]
        return subprocess.Popen(
            [sys.executable, script, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_a_run_that_is_killed_at_any_change_of_its_folder_goes_on(
    start: Any, unbroken: Any, tmp_path: Path
) -> None:
    chance, killed = random.Random(0), 0
    while True:
        run = start(tmp_path / "out", left=chance.randrange(2, 12 + 10 * killed))
        _, error = run.communicate(timeout=60)
        if run.returncode != -signal.SIGKILL:
            break
        killed += 1
        assert (
            not (tmp_path / "out" / "items.parquet").exists()
            or (tmp_path / "out" / "state" / "run.json").exists()
        )
    assert run.returncode == 0, error
    assert killed >= 3
    assert files(tmp_path / "out") == unbroken


def test_a_run_that_is_killed_at_any_time_goes_on(start: Any, unbroken: Any, tmp_path: Path) -> None:
    chance = random.Random(1)
    for workers in (2, 1):
        run = start(tmp_path / "out", workers)
        for _ in range(chance.randrange(1, 3)):
            run.stdout.readline()
        time.sleep(chance.random() * 0.02)
        run.kill()
        run.wait(timeout=60)
    run = start(tmp_path / "out", 2)
    _, error = run.communicate(timeout=60)
    assert run.returncode in (0, 1), error
    if run.returncode:  # the last one killed had finished
        assert "holds a finished run" in error
    assert files(tmp_path / "out") == unbroken


def test_a_worker_that_dies_is_an_error_and_the_run_goes_on(
    corpus: Any, unbroken: Any, graphs: Any, tmp_path: Path
) -> None:
    scorer = Scorer(graphs["ctc_loss"])

    def kill(*_: Any) -> None:
        for process in multiprocessing.active_children():
            process.kill()
            process.join()

    with pytest.raises(
        RuntimeError, match="workers: one died, for want of memory perhaps; the same call goes on"
    ):
        score_corpus(scorer, corpus, tmp_path / "out", workers=2, window_bytes=1, progress=kill)
    assert (tmp_path / "out" / "state" / "run.json").exists()
    with pytest.raises(ValueError, match="an unfinished run with another window_bytes: resume it"):
        score_corpus(scorer, corpus, tmp_path / "out", window_bytes=SMALL)
    score_corpus(scorer, corpus, tmp_path / "out", window_bytes=1)
    assert files(tmp_path / "out") == unbroken


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="no SIGBUS here")
def test_a_worker_that_data_kill_names_them(corpus: Any, graphs: Any, tmp_path: Path) -> None:
    """Want of memory is a guess where a worker was killed, and wrong where it was its own doing."""

    def kill(*_: Any) -> None:
        for process in multiprocessing.active_children():
            assert process.pid
            os.kill(process.pid, signal.SIGBUS)
            process.join()

    message = (
        r"^workers: one died of SIGBUS over .*[ab]\.(parquet|arrow), from row \d+; the same call goes on$"
    )
    with pytest.raises(RuntimeError, match=message):
        score_corpus(
            Scorer(graphs["ctc_loss"]), corpus, tmp_path / "out", workers=2, window_bytes=1, progress=kill
        )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("name", ["state/part-00000-00001.table", "items.parquet", "totals.json"])
def test_a_full_disk_is_an_error_and_the_run_goes_on(
    name: str, corpus: Any, unbroken: Any, graphs: Any, tmp_path: Path
) -> None:
    scorer, full = Scorer(graphs["ctc_loss"]), tmp_path / "out" / f"{name}.unfinished"
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")  # what is written there finds no space
    with pytest.raises(OSError, match="No space left on device"):
        score_corpus(scorer, corpus, tmp_path / "out", window_bytes=SMALL)
    score_corpus(scorer, corpus, tmp_path / "out", window_bytes=SMALL)
    assert files(tmp_path / "out") == unbroken


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shard_that_vanishes_is_an_error_and_the_run_goes_on(
    workers: int, graphs: Any, tmp_path: Path
) -> None:
    items, scorer = items_of("ctc_loss", 40), Scorer(graphs["ctc_loss"])
    first = write("npz", tmp_path / "a", items[:25], IDS[:25])
    second = write("parquet", tmp_path / "b", items[25:], IDS[25:])
    score_corpus(scorer, [first, second], tmp_path / "unbroken", window_bytes=SMALL)
    away = tmp_path / "away"

    def vanish(*_: Any) -> None:
        if second.exists():
            second.rename(away)

    with pytest.raises(FileNotFoundError, match=r"b\.parquet"):
        score_corpus(
            scorer, [first, second], tmp_path / "out", window_bytes=1, workers=workers, progress=vanish
        )
    assert list((tmp_path / "out" / "state").glob("part-00000-*"))
    away.rename(second)
    score_corpus(scorer, [first, second], tmp_path / "out", window_bytes=1, workers=workers)
    assert files(tmp_path / "out") == files(tmp_path / "unbroken")


class Counting(Scorer):
    """Notes how many windows it has scored."""

    scored = 0

    def score(self, windows: Any) -> Any:
        for each in super().score(windows):
            self.scored += 1
            yield each


def test_what_is_done_is_not_done_again(corpus: Any, unbroken: Any, graphs: Any, tmp_path: Path) -> None:
    counts = []
    for most in (3, 5, 100):
        scorer = Counting(graphs["ctc_loss"])

        def stop(*_: Any, scorer: Counting = scorer, most: int = most) -> None:
            if scorer.scored == most:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            score_corpus(scorer, corpus, tmp_path / "out", window_bytes=SMALL, progress=stop)
        counts.append(scorer.scored)
    assert files(tmp_path / "out") == unbroken
    # the window after which it is stopped is not kept
    number = len(list(windows([str(path) for path in corpus], scorer.columns, SMALL)))
    assert counts == [3, 5, number - 2 - 4]


def test_strict_stops_at_the_first(corpus: Any, unbroken: Any, graphs: Any, tmp_path: Path) -> None:
    scorer = Scorer(graphs["ctc_loss"])
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"utt07: targets: got 99 at \[0, 0\], expected an index in \[0, 8\]"
        ):
            score_corpus(scorer, corpus, tmp_path / "out", window_bytes=SMALL, strict=True)
    score_corpus(scorer, corpus, tmp_path / "out", window_bytes=SMALL)
    assert files(tmp_path / "out") == unbroken


PEAK = """
import sys
from exportable_losses.runtime import Scorer, score_corpus
found = score_corpus(Scorer(sys.argv[1]), [sys.argv[2]], sys.argv[3], window_bytes=4 << 20)
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(found["items"], peak)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")
@pytest.mark.parametrize("kind", ["parquet", *OTHERS])
def test_memory_does_not_grow_with_the_corpus(kind: str, graphs: Any, tmp_path: Path) -> None:
    scores = torch.randn(100, 256).log_softmax(-1).numpy()
    item = {"log_probs": scores, "targets": np.arange(1, 6)}
    size, peaks = scores.nbytes, []
    for number in (400, 1600):
        path = write(
            kind, tmp_path / str(number), [item] * number, [str(i) for i in range(number)], group=10_000
        )
        run = [sys.executable, "-c", PEAK, graphs["ctc_loss"], path, tmp_path / f"out{number}"]
        done = subprocess.run(run, capture_output=True, text=True, check=True)
        items, peak = map(int, done.stdout.split())
        assert items == number
        peaks.append(peak << 10)
    assert peaks[1] - peaks[0] < 0.4 * 1200 * size


def linear(path: Path, weights: np.ndarray) -> Path:
    """A model: log-probabilities of `features` `[B, T, F]`."""
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
        helper.make_node("LogSoftmax", ["logits"], ["scores"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", "T", weights.shape[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "T", weights.shape[1]])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def recogniser(tmp_path: Path) -> tuple[Path, Path, list[dict[str, np.ndarray]]]:
    """A model, items for it, and what it gives."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((5, 9), np.float32)
    model = linear(tmp_path / "model.onnx", weights)
    scored = items_of("ctc_loss", 12)
    items = []
    for item in scored:
        features = random.standard_normal((len(item["log_probs"]), 5), np.float32)
        items.append({"features": features, "targets": item["targets"]})
        item["log_probs"] = torch.from_numpy(features @ weights).log_softmax(-1).numpy()
    return model, write("npz", tmp_path / "dev", items, IDS[:12]), scored


def test_a_model_that_runs_first(recogniser: Any, graphs: Any, tmp_path: Path) -> None:
    model, path, scored = recogniser
    scorer = Scorer(graphs["ctc_loss"], model=model, inputs={"log_probs": "scores"})
    found = score_corpus(scorer, [path], tmp_path / "out", workers=2)
    assert found["totals"]["loss"]["value"] == pytest.approx(expected("ctc_loss", scored)["loss"], 1e-5)
    assert found["model"]["inputs"] == {"log_probs": "scores"}
    joint = tmp_path / "joint.onnx"
    attach(model, graphs["ctc_loss"], joint, inputs={"log_probs": "scores"}, scores="log_probs")
    together = score_corpus(Scorer(joint), [path], tmp_path / "joint")
    assert together["totals"]["loss"]["value"] == pytest.approx(found["totals"]["loss"]["value"], 1e-5)


def test_a_model_that_does_not_fit(recogniser: Any, graphs: Any, tmp_path: Path) -> None:
    model, path, _ = recogniser
    graph = graphs["ctc_loss"]
    with pytest.raises(
        ValueError, match=r"inputs: got none, expected which of log_probs, .* are the model's scores"
    ):
        Scorer(graph, model=model)
    with pytest.raises(ValueError, match="inputs: got logits, expected one of the model's: scores"):
        Scorer(graph, model=model, inputs={"log_probs": "logits"})
    with pytest.raises(ValueError, match="inputs: got probs, expected one of the loss's: log_probs"):
        Scorer(graph, model=model, inputs={"probs": "scores"})
    with pytest.raises(ValueError, match="inputs: got log_probs, expected none without a model"):
        Scorer(graph, inputs={"log_probs": "scores"})
    other = write("npz", tmp_path / "other", items_of("ctc_loss", 1), IDS[:1])
    behind = tmp_path / "behind.onnx"
    attach(model, graphs["l1_loss"], behind, inputs={"predictions": "scores"})
    with pytest.raises(ValueError, match=r"graph: got loss, whose items weigh what T \* is inside"):
        Scorer(behind)
    wide = write(
        "npz",
        tmp_path / "wide",
        [{"features": np.ones((3, 4), np.float32), "targets": np.ones(1, int)}],
        IDS[1:2],
    )
    found = score_corpus(
        Scorer(graph, model=model, inputs={"log_probs": "scores"}), [other, path, wide], tmp_path / "out"
    )
    aside = pq.read_table(tmp_path / "out" / "set_aside.parquet").to_pylist()
    assert (found["items"], found["set_aside"]) == (12, 2)
    assert aside[0]["reason"] == "inputs: features missing, found targets, expected features"
    assert "features" in aside[1]["reason"]
