"""Windows scored by actors of Ray, on this machine or many: Ray Data places them and starts anew what dies.

An actor reads its windows itself: a path must be the same file on all machines, on a disk that they share
say, or a URL. The graph and the model are sent along; what a model keeps in files beside it is not.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import socket
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from exportable_losses.missing import install

from .about import environment
from .formats import is_url
from .reading import Window, by_run
from .scorer import Scorer, first_line

# Where a run ends early, threads of Ray Data go on for a while: they may not start a cluster of their own.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
try:
    import ray
    import ray.data
except ModuleNotFoundError as error:
    needed = f"ray: {error.name} is not installed, expected {install('ray')}"
    raise ModuleNotFoundError(needed, name=error.name) from error

LOCAL = "local"
_ON_GPU = {"CUDAExecutionProvider", "TensorrtExecutionProvider"}
_PATIENCE = 10  # seconds that a cluster may take to answer


def score(
    scorer: Scorer, windows: Iterable[Window], workers: int, address: str
) -> Generator[tuple[Window, pa.Table], None, None]:
    """What `Scorer.score` gives, in any order, from actors of Ray; the windows with absolute paths.

    All windows are found before the first is scored. Where an actor or its machine dies, Ray has its windows
    scored again; it gives up when for half an hour none was done.

    Args:
        scorer: each actor makes one like it. It takes as many processors as that has threads, one without;
            or a GPU, where the providers are for one.
        windows: of the corpus.
        workers: how many actors there are, as far as the cluster has room.
        address: of a cluster, which stays as it is; ``"local"`` starts one on this machine, and stops it.
            A cluster that this process is connected to already is used whatever the address; Ray does not
            go back from one to another in a process.

    Raises:
        ConnectionError: no cluster answers.
        OSError: as of `Scorer.score`.
        RuntimeError: a worker has other versions than are here, or Ray gave up.
    """
    # an actor has a working directory of its own
    runs = [[replace(window, path=_absolute(window.path)) for window in run] for run in by_run(windows)]
    if not runs:
        return
    threads = scorer.settings["threads"] or 1
    on_gpu = not _ON_GPU.isdisjoint(scorer.settings["providers"] or ())
    with _connected(address, workers * threads, on_gpu):
        tasks = ray.data.from_items(
            [{"run": pickle.dumps(run)} for run in runs], override_num_blocks=len(runs)
        )
        results = tasks.map_batches(
            _Actor,
            fn_constructor_kwargs=_sent(scorer, threads),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(runs))),
            num_cpus=None if on_gpu else threads,
            num_gpus=1 if on_gpu else None,
        )
        for result in _results(results):
            if isinstance(result, Exception):
                raise result
            yield result


def _sent(scorer: Scorer, threads: int) -> dict[str, Any]:
    """What an actor makes its scorer from."""
    paths = {name: scorer.settings[name] for name in ("graph", "model") if scorer.settings[name]}
    return {
        "kind": type(scorer),
        "settings": {**scorer.settings, "threads": threads},
        "files": {name: (_absolute(path), Path(path).read_bytes()) for name, path in paths.items()},
        "expected": environment(scorer),
    }


def _results(results: Any) -> Iterator[Any]:
    """What the actors give, as it comes."""
    results.context.enable_progress_bars = False
    results.context.target_max_block_size = 1  # a window is here when it is done, and not with all of its run
    try:
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from (pickle.loads(result.as_buffer()) for result in batch["result"])
    except Exception as error:  # of several lines, the last of which says what it comes from
        why = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise RuntimeError(f"ray: {why}; the same call goes on") from error


@contextlib.contextmanager
def _connected(address: str, processors: int, on_gpu: bool) -> Iterator[None]:
    """A connection to a cluster for as long as the block lasts."""
    if ray.is_initialized():
        yield
        return
    own: dict[str, Any] = {"num_cpus": processors, "include_dashboard": False} if address == LOCAL else {}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it raises says it too
    try:
        if address != LOCAL:
            _check_answers(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        expected = "local or the address of a Ray cluster"
        raise ConnectionError(f"ray: got {address}, expected {expected}: {first_line(error)}") from error
    try:
        if own and on_gpu and not ray.cluster_resources().get("GPU"):
            raise RuntimeError("ray: got local, where no GPU is, expected one for the scorer's providers")
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Whether somebody is there: Ray itself takes minutes to find out."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()


def _absolute(path: str) -> str:
    return path if is_url(path) else os.path.abspath(path)


class _Actor:
    """Scores runs of windows for as long as there are any, with one scorer.

    Args:
        settings: of the scorer.
        files: path and content of those that the settings name.
        expected: the environment in which the run was started.
        kind: the class of the scorer.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        files: Mapping[str, tuple[str, bytes]],
        expected: Mapping[str, Any],
        kind: type[Scorer] = Scorer,
    ) -> None:
        self._settings, self._files, self._expected, self._kind = settings, files, expected, kind

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        try:
            for run in batch["run"]:
                for result in self._scorer.score(pickle.loads(run)):
                    yield {"result": [pickle.dumps(result)]}
        except Exception as error:  # so that it is raised as it is where the run was started
            yield {"result": [pickle.dumps(error)]}

    @functools.cached_property
    def _scorer(self) -> Scorer:
        self._folder = tempfile.TemporaryDirectory()
        files = {name: self._here(name, *file) for name, file in self._files.items()}
        try:
            scorer = self._kind(**{**self._settings, **files})
        except Exception as error:  # ONNX Runtime has a type of its own for each way to be broken
            reason = f"workers: {socket.gethostname()} cannot run the graph: {first_line(error)}"
            raise RuntimeError(reason) from error
        for name, found in environment(scorer).items():
            if found != self._expected[name]:
                raise RuntimeError(
                    f"workers: got {name} {found} on {socket.gethostname()}, expected "
                    f"{self._expected[name]}, with which the run was started"
                )
        return scorer

    def _here(self, name: str, path: str, content: bytes) -> str:
        """A file with this content: the one at `path` if it is here too, with what may be beside it."""
        with contextlib.suppress(OSError):
            if Path(path).read_bytes() == content:
                return path
        copy = Path(self._folder.name, name, Path(path).name)
        copy.parent.mkdir()
        copy.write_bytes(content)
        return str(copy)
