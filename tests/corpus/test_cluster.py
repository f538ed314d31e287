"""On Ray, a run gives the bytes that it gives without, whatever dies in the middle of it."""

import functools
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from corpora import items_of, write
from ray.cluster_utils import Cluster
from test_runs import IDS, SMALL, files
from typer.testing import CliRunner

from exportable_losses.export.commands import app
from exportable_losses.runtime import Scorer, score_corpus
from exportable_losses.runtime.corpus import cluster as on_ray
from exportable_losses.runtime.corpus.reading import windows

NO_PROC = not os.path.exists("/proc/self/stat")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one machine, with room for two workers and, as it says, a GPU."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quick = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 2,
    }
    args = {
        "num_cpus": 2,
        "num_gpus": 1,
        "include_dashboard": False,
        "_system_config": quick,
    }
    cluster = Cluster(initialize_head=True, head_node_args=args)
    yield cluster
    cluster.shutdown()


@pytest.fixture(autouse=True)
def _disconnected() -> Iterator[None]:
    """Every run makes its own connection."""
    yield
    assert not ray.is_initialized()


def pids(cluster: Any) -> list[int]:
    """The processes of the actors."""
    raylets = {each.process.pid for node in cluster.list_all_nodes() for each in node.all_processes["raylet"]}
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            actor = b"ray::MapWorker" in (stat.parent / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if actor and parent in raylets:
            found.append(int(stat.parent.name))
    return found


def kill(found: Iterable[int]) -> None:
    for pid in found:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def corpus(
    graphs: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Scorer, list[Path], dict[str, bytes]]:
    """A scorer, 40 items, one a window, and what they give."""
    folder, chance = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    items = [
        {name: chance.integers(1, 9, chance.integers(40, 60)) for name in ("predictions", "targets")}
        for _ in IDS
    ]
    data = [
        write("parquet", folder / "a", items[:25], IDS[:25], group=25),  # one run of windows
        write("npz", folder / "b", items[25:], IDS[25:]),
    ]
    scorer = Scorer(graphs["TokenErrorRate"], native=False)
    score_corpus(scorer, data, folder / "out", window_bytes=1)
    return scorer, data, files(folder / "out")


@pytest.fixture
def sent() -> Iterator[None]:
    """What is of this file goes to the workers as it is: they do not find the file."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class Held:
    """An actor that stops after five windows, until its gate is open."""

    gate: Path

    def __init__(self, **settings: Any) -> None:
        self._actor, self._given = on_ray._Actor(**settings), 0  # where it is, that is not this class

    def __call__(self, batch: Any) -> Iterator[Any]:
        for result in self._actor(batch):
            yield result
            self._given += 1
            patience = time.monotonic() + 120
            while self._given >= 5 and not self.gate.exists():
                assert time.monotonic() < patience, "nobody opened the gate"
                time.sleep(0.02)


@pytest.fixture
def gate(sent: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workers are held until this file is there."""
    monkeypatch.setattr(Held, "gate", tmp_path / "open", raising=False)
    monkeypatch.setattr(on_ray, "_Actor", Held)
    return Held.gate


def test_every_format_gives_the_bytes_of_a_run_without(
    cluster: Any, graphs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a path that is relative is one for the workers too
    items, data = items_of("ctc_loss", 40), []
    items[7]["targets"][0] = 99
    for place, kind in enumerate(("parquet", "file", "stream", "npz", "tar")):
        some = slice(8 * place, 8 * place + 8)
        data.append(write(kind, Path(kind), items[some], IDS[some]))
    whole = data[0].read_bytes()
    (tmp_path / "broken.parquet").write_bytes(whole[: len(whole) // 2])
    data.append(Path("broken.parquet"))
    scorer = Scorer(graphs["ctc_loss"])
    score_corpus(scorer, data, "without", window_bytes=SMALL)
    told: list[tuple[Any, ...]] = []
    score_corpus(
        scorer,
        data,
        "with",
        window_bytes=SMALL,
        workers=2,
        ray=cluster.address,
        progress=lambda *now: told.append(now),
    )
    assert files(Path("with")) == files(Path("without"))
    assert [told[-1][0], told[-1][1]] == [41, 2]
    assert len(told) > 10


def test_windows_in_any_order_and_a_graph_of_the_whole(cluster: Any, graphs: Any, tmp_path: Path) -> None:
    path = write("file", tmp_path / "dev", items_of("EqualErrorRate", 40), IDS)
    scorer = Scorer(graphs["EqualErrorRate"])
    planned = list(windows([str(path)], scorer.columns, 500))
    assert len(planned) > 5
    mixed = random.Random(0).sample(planned, len(planned))
    found = dict(on_ray.score(scorer, mixed, workers=2, address=cluster.address))
    assert found.keys() == set(planned)
    assert all(found[window].equals(table) for window, table in scorer.score(planned))
    assert list(on_ray.score(scorer, [], workers=2, address="nobody needs it")) == []


def test_a_window_is_here_when_it_is_done(cluster: Any, corpus: Any, gate: Path, tmp_path: Path) -> None:
    """And not with the others of its run, in the midst of which the worker is held."""
    scorer, data, _ = corpus
    score_corpus(scorer, data[:1], tmp_path / "without", window_bytes=1)
    told = []

    def open_gate(items: int, *_: Any) -> None:
        told.append(items)
        if items == 3:  # of the five: what Ray has on its way is not counted
            gate.touch()

    score_corpus(scorer, data[:1], tmp_path / "out", window_bytes=1, ray=cluster.address, progress=open_gate)
    assert told == list(range(1, 26))
    assert files(tmp_path / "out") == files(tmp_path / "without")


@pytest.mark.skipif(NO_PROC, reason="no /proc here, by which workers are found")
def test_workers_that_are_killed_change_nothing(
    cluster: Any, corpus: Any, gate: Path, tmp_path: Path
) -> None:
    scorer, data, unbroken = corpus
    killed: set[int] = set()

    def kill_three(items: int, *_: Any) -> None:
        if items != 6:  # in the midst of what each of the two has
            return
        first = pids(cluster)[0]
        kill([first])
        patience = time.monotonic() + 120
        while len(found := {*pids(cluster)} - {first}) < 2 and time.monotonic() < patience:
            time.sleep(0.05)  # until a new one is there
        kill(found)
        killed.update(found, [first])
        gate.touch()

    score_corpus(
        scorer, data, tmp_path / "out", window_bytes=1, workers=2, ray=cluster.address, progress=kill_three
    )
    assert len(killed) >= 3  # new ones came
    assert files(tmp_path / "out") == unbroken


@pytest.mark.thorough  # killed workers, above, are the smaller case
def test_a_machine_that_is_lost_changes_nothing(
    cluster: Any, corpus: Any, gate: Path, tmp_path: Path
) -> None:
    scorer, data, unbroken = corpus
    machine = cluster.add_node(num_cpus=1)
    lost = []

    def lose(items: int, *_: Any) -> None:
        if items == 9:
            lost.append(len(ray.nodes()))
            cluster.remove_node(machine, allow_graceful=False)
            gate.touch()

    score_corpus(
        scorer, data, tmp_path / "out", window_bytes=1, workers=3, ray=cluster.address, progress=lose
    )
    assert lost == [2]
    assert files(tmp_path / "out") == unbroken


@pytest.mark.skipif(NO_PROC, reason="no /proc here, by which workers are found")
def test_the_command_line_prints_results_alone(cluster: Any, corpus: Any, tmp_path: Path) -> None:
    scorer, data, _ = corpus
    words = ["score", scorer.settings["graph"], *(word for path in data for word in ("--data", str(path)))]
    run = functools.partial(CliRunner(env={"COLUMNS": "200"}).invoke, app)
    without = run([*words, "--out", str(tmp_path / "without")])

    def kill_first() -> None:
        """Kill the first worker before it has begun."""
        while not (found := pids(cluster)):
            time.sleep(0.02)
        kill(found)

    thread = threading.Thread(target=kill_first)
    thread.start()
    result = run([*words, "--out", str(tmp_path / "out"), "--ray", cluster.address])
    thread.join()
    assert result.exit_code == 0, result.output
    assert result.stdout == without.stdout.replace(str(tmp_path / "without"), str(tmp_path / "out"))
    assert files(tmp_path / "out") == files(tmp_path / "without")


@pytest.mark.thorough  # the next test starts one too, from Python
def test_a_cluster_of_ones_own(graphs: Any, tmp_path: Path) -> None:
    path = write("npz", tmp_path / "dev", items_of("ctc_loss", 8), IDS[:8])
    words = [graphs["ctc_loss"], "--data", path, "--ray", "local", "--workers", 3, "--out", tmp_path / "out"]
    command = "from exportable_losses.export.cli import main; main()"
    # a process of its own: Ray does not go back from one cluster to another
    subprocess.run([sys.executable, "-c", command, "score", *map(str, words)], check=True)
    score_corpus(Scorer(graphs["ctc_loss"]), [path], tmp_path / "without")
    assert files(tmp_path / "out") == files(tmp_path / "without")


SCRIPT = """
import sys
import time
from exportable_losses.runtime import Scorer, score_corpus

graph, out, *data = sys.argv[1:]
score_corpus(
    Scorer(graph, native=False), data, out, window_bytes=1, workers=2, ray="local",
    progress=lambda items, *_: print(items, flush=True) or items < 5 or time.sleep(60),
)
"""


@pytest.mark.thorough  # a cluster of its own again; a run goes on after an error in the next test
def test_a_run_goes_on_with_ray_and_without(cluster: Any, corpus: Any, tmp_path: Path) -> None:
    scorer, data, unbroken = corpus
    out, counts = tmp_path / "out", []
    words = [scorer.settings["graph"], out, *data]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        for _ in range(5):
            run.stdout.readline()
        run.kill()
    counts.append(len(list((out / "state").glob("part-*.table"))))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_corpus(scorer, data, out, window_bytes=1, progress=lambda n, *_: n > counts[0] + 3 and stop())
    counts.append(len(list((out / "state").glob("part-*.table"))))
    told: list[int] = []
    score_corpus(
        scorer,
        data,
        out,
        window_bytes=1,
        workers=2,
        ray=cluster.address,
        progress=lambda n, *_: told.append(n),
    )
    assert 4 <= counts[0] < counts[1] < 40
    assert sorted(told)[counts[1] - 1 :] == list(range(counts[1], 41))  # the rest, each once
    assert files(out) == unbroken


def test_what_stops_a_run_here_stops_it_there(cluster: Any, graphs: Any, tmp_path: Path) -> None:
    items = items_of("ctc_loss", 40)
    items[7]["targets"][0] = 99
    path = write("parquet", tmp_path / "dev", items, IDS)
    scorer, out = Scorer(graphs["ctc_loss"]), tmp_path / "out"
    planned = list(windows([str(path)], scorer.columns, SMALL))
    path.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=r"dev\.parquet"):
        list(on_ray.score(scorer, planned, workers=1, address=cluster.address))
    (tmp_path / "away").rename(path)
    ray.init(cluster.address, log_to_driver=False)
    try:
        with pytest.raises(ValueError, match=r"utt07: targets: got 99 at \[0, 0\], expected an index"):
            score_corpus(scorer, [path], out, window_bytes=SMALL, strict=True, workers=2, ray=cluster.address)
        # the workers of that are gone, or these had no room; the connection is not
        score_corpus(scorer, [path], out, window_bytes=SMALL, workers=2, ray=cluster.address)
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    score_corpus(scorer, [path], tmp_path / "without", window_bytes=SMALL)
    assert files(out) == files(tmp_path / "without")


class Equipped:
    """An actor that says what it has."""

    def __init__(self, **settings: Any) -> None:
        self._gpus = ray.get_runtime_context().get_accelerator_ids()["GPU"]

    def __call__(self, batch: Any) -> Iterator[Any]:
        yield {"result": [pickle.dumps(ValueError(f"GPUs: {self._gpus}"))]}


@pytest.mark.usefixtures("sent")
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_worker_takes_a_gpu_where_the_providers_are_for_one(
    cluster: Any, corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, data = corpus[0].settings["graph"], corpus[1]
    on_gpu = Scorer(graph, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(on_ray, "_Actor", Equipped)
    for scorer, gpus in (Scorer(graph), r"\[\]"), (on_gpu, r"\['0'\]"):
        with pytest.raises(ValueError, match=f"GPUs: {gpus}"):
            score_corpus(scorer, data, tmp_path / "out", ray=cluster.address)


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_cluster_of_ones_own_without_a_gpu(
    corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    monkeypatch.setattr(ray, "init", lambda *_, **how: started.append((os.environ.copy(), how)))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 12.0})
    scorer = Scorer(corpus[0].settings["graph"], providers=["CUDAExecutionProvider"], threads=4)
    with pytest.raises(RuntimeError, match="ray: got local, where no GPU is"):
        score_corpus(scorer, corpus[1], tmp_path / "out", ray="local", workers=3)
    ((environment, how),) = started
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert how["num_cpus"] == 12


def test_workers_without_the_package(
    cluster: Any, corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, data, _ = corpus
    monkeypatch.setattr(on_ray, "_Actor", Equipped)  # of this file
    with pytest.raises(
        RuntimeError, match=f"ray: ModuleNotFoundError: No module named '{__name__}'; the same"
    ):
        score_corpus(scorer, data, tmp_path / "out", ray=cluster.address)


@pytest.mark.parametrize(
    ("address", "why"),
    [("127.0.0.1:1", "refused"), ("garbage", "address"), ("ray://127.0.0.1:1", "client")],
)
def test_an_address_where_nobody_answers(address: str, why: str, corpus: Any, tmp_path: Path) -> None:
    scorer, data, _ = corpus
    with pytest.raises(ConnectionError, match=f"ray: got {address}, expected local or .*{why}"):
        score_corpus(scorer, data, tmp_path / "out", ray=address)
