"""Mutated files: no bytes end a run, lose an item in silence, or kill the process.

``python tests/fuzz/files.py --number 100000`` mutates as many; ``main(number)`` does the same. Each file is
judged in a process that has judged many, so that one that dies is known, with the file that it died of.
"""

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from align_files import ALIGN_KINDS, AlignJudge
from mutations import forged, in_a_page, mutated

from exportable_losses.runtime import LossSession, Scorer, score_corpus
from exportable_losses.runtime.corpus.batches import Batches
from exportable_losses.runtime.corpus.reading import windows
from exportable_losses.runtime.metadata import KEY, described

sys.path[:0] = [str(Path(__file__).parents[1] / "corpus"), str(Path(__file__).parents[1])]

KINDS = ("npz", "zlib", "tar", "parquet", "plain", "checked", "file", "lz4", "stream")
CHECKSUMS = ("npz", "zlib", "checked")
IDS = ["utt0", "sp0.9-utt1", "utt2", "dev/utt3", "utt4"]
BATCH = 2000  # files that a process judges
STARTING, PATIENCE = 120.0, 60.0  # seconds for a process to begin, or to end, and for a file

# --- judges: each gives what is wrong, or nothing


class Judge:
    """Whole files, what they come to, and what mutated ones may.

    Args:
        graph: an exported `ctc_loss`, costs one by one.
        aligning: an exported `CTCAlign`.
        folder: to work in.
    """

    def __init__(self, graph: str, aligning: str, folder: Path) -> None:
        self.folder, self.graph = folder, graph
        self.scorer = Scorer(graph, threads=1)
        chance = np.random.default_rng(0)
        self.items = []
        for _ in IDS:
            scores = chance.standard_normal((int(chance.integers(3, 6)), 4)).astype(np.float32)
            item: dict[str, Any] = {
                "log_probs": scores - np.log(np.exp(scores).sum(1, keepdims=True)),
                "targets": chance.integers(1, 4, 2),
                "input_lens": np.float32(1),
                "target_lens": np.float32(1),
            }
            self.items.append(item)
        self.whole: dict[str, tuple[str, bytes]] = {}
        (folder / "whole").mkdir(exist_ok=True)
        for kind in KINDS:
            path = self._write(kind)
            self.whole[kind] = path.suffix, path.read_bytes()
        self.values = self._scored(self._write("npz"), 1 << 20)[0]
        assert [name for name, _ in self.values] == IDS
        self.state = self._unfinished()
        self.session = LossSession(graph, threads=1)
        self.of_align = AlignJudge(aligning, folder, change)

    def _write(self, kind: str) -> Path:
        import corpora  # of the tests beside these

        path = self.folder / "whole" / "dev"
        if kind == "zlib":
            members = {
                f"{i}.{n}": a for i, item in zip(IDS, self.items, strict=True) for n, a in item.items()
            }
            np.savez_compressed(path.with_suffix(".npz"), **members)
            return path.with_suffix(".npz")
        if kind in ("plain", "checked"):
            import pyarrow.parquet as pq
            from corpora import columns

            table = columns(self.items, IDS)
            pq.write_table(
                table,
                path.with_suffix(".parquet"),
                row_group_size=2,
                use_dictionary=False,
                compression="none",
                write_page_checksum=kind == "checked",
            )
            return path.with_suffix(".parquet")
        return corpora.write(kind, path, self.items, IDS, group=2)

    def _scored(self, path: Path, window_bytes: int) -> tuple[list[tuple[str, float]], list[str], bool]:
        """Each item with its value, the ids of others, whether the shard is said to be damaged."""
        values, aside, damaged = [], [], False
        planned = list(windows([str(path)], self.scorer.columns, window_bytes))
        for window, table in self.scorer.score(planned):
            damaged |= bool(window.lost)
            for row in table.to_pylist():
                if row["reason"] is None:
                    values.append((row["id"], row["loss"]))
                else:
                    aside.append(row["id"])
        return values, aside, damaged

    def judge(self, what: str, chance: random.Random) -> str:
        if what in self.whole:
            return self._shard(what, chance)
        if what in ALIGN_KINDS:
            return self.of_align.judge(what, chance)
        return self._state(chance) if what == "state" else self._metadata(chance)

    def _shard(self, kind: str, chance: random.Random) -> str:
        suffix, content = self.whole[kind]
        path = self.folder / f"dev{suffix}"
        content = (in_a_page if kind == "checked" else mutated)(content, chance)
        forge = kind == "tar" and chance.random() < 0.5
        path.write_bytes(forged(content) if forge else content)
        values, aside, damaged = self._scored(path, chance.choice((1, 400, 1 << 20)))
        if damaged or forge:
            return ""
        found = [*(name for name, _ in values), *aside]
        known = set(IDS) & set(found)
        if len(found) < len(IDS):  # else what is missing goes by another name, an id's bytes being mutated
            return f"lost in silence: {sorted(set(IDS) - known)} of {kind}; {values} {aside}"
        if kind in CHECKSUMS:
            off = sorted(set(values) - set(self.values))
            if off:
                return f"another number in silence: {off} of {kind}"
        return ""

    def _unfinished(self) -> Path:
        """A run that was broken off, and what it comes to."""
        self.data = self._write("file")
        out = self.folder / "unfinished"

        def stop(items: int, *_: Any) -> None:
            if items >= 4:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            score_corpus(self.scorer, [self.data], out, window_bytes=1, progress=stop)
        score_corpus(self.scorer, [self.data], self.folder / "finished", window_bytes=1)
        return out

    def _state(self, chance: random.Random) -> str:
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.state, out)
        path = chance.choice(sorted((out / "state").iterdir()))
        path.write_bytes(mutated(path.read_bytes(), chance))
        try:
            score_corpus(self.scorer, [self.data], out, window_bytes=1)
        except ValueError as error:
            return (
                ""
                if path.name == "run.json" and str(error).startswith("out: got ")
                else f"{path.name}: {error}"
            )
        for name in ("items.parquet", "set_aside.parquet", "totals.json"):
            if (out / name).read_bytes() != (self.folder / "finished" / name).read_bytes():
                return f"another {name} of a mutated {path.name}"
        return ""

    def _metadata(self, chance: random.Random) -> str:
        text = self.session.properties[KEY]
        if chance.random() < 0.3:
            text = mutated(text.encode(), chance).decode("utf-8", "replace")
        else:
            about = json.loads(text)
            for _ in range(chance.choice((1, 1, 2, 3))):
                change(about, chance)
            text = json.dumps(about)
        session = self.session
        try:
            session.metadata, session.losses = described({KEY: text}, session.inputs, session.outputs)
            if session.losses:
                batches = Batches(session)
                assert batches.columns
        except ValueError as error:
            return "" if ": " in str(error) else f"{error} of {text}"
        return ""


def change(about: Any, chance: random.Random) -> None:
    """Another value, name or place somewhere in JSON."""
    holder, key = about, None
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        if not keys:
            return
        key = chance.choice(list(keys))
        if not isinstance(holder[key], (dict, list)) or chance.random() < 0.15:
            break
        holder = holder[key]
    odd = (
        None,
        True,
        -1,
        0,
        1e300,
        math.inf,
        "",
        "B T C",
        "loss",
        "mean",
        "relative_length",
        [],
        {},
        [[]],
        {"a": 1},
        "é\0",
    )
    how = chance.randrange(4)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[chance.choice((*map(str, keys), "newer"))] = holder[key]
    elif how == 2 and isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[key] = chance.choice(odd)


# --- many of them

FAIL = "FUZZ_FILES_FAIL"  # "loses,,dies": what the files from the first on do wrong, to see that it is found


def failed(index: int) -> str:
    """Fail as a file could make us, where we are told to."""
    how = dict(enumerate(os.environ.get(FAIL, "").split(","))).get(index, "")
    if how == "dies":
        os.kill(os.getpid(), signal.SIGBUS)
    if how == "hangs":
        time.sleep(PATIENCE)
    if how == "ends":
        raise RuntimeError("told to")
    return how


def plan(seed: int, index: int) -> tuple[str, random.Random]:
    chance = random.Random(f"{seed} {index}")
    weights = {**dict.fromkeys(KINDS, 10), "state": 3, "metadata": 10, **dict.fromkeys(ALIGN_KINDS, 5)}
    what = chance.choices(list(weights), list(weights.values()))[0]
    return what, chance


def child(graph: str, aligning: str, folder: Path, seed: int, first: int, last: int) -> None:
    """Judge some; the file `at` says which one it is now, and each line of output what is wrong with one."""
    judge = Judge(graph, aligning, folder)
    at = os.open(folder / "at", os.O_RDWR | os.O_CREAT)
    for index in range(first, last):
        what, chance = plan(seed, index)
        os.pwrite(at, b"%12d" % index, 0)
        try:
            wrong = judge.judge(what, chance)
            wrong = failed(index) or wrong
        except Exception as error:
            wrong = f"ended: {type(error).__name__}: {error}"
        if wrong:
            print(json.dumps([index, what, wrong]), flush=True)
    os.pwrite(at, b"%12d" % last, 0)


def main(number: int, seed: int = 0) -> list[str]:
    """What is wrong with some of `number` mutated files; nothing, it is hoped."""
    graphs = exported()
    found: list[str] = []
    begun, first = time.monotonic(), 0
    kinds = Counter(plan(seed, index)[0] for index in range(number))
    while first < number:
        last = min(number, first + BATCH)
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
            words = [sys.executable, __file__, "--child", *graphs, folder, seed, first, last]
            output = Path(folder) / "output"
            with output.open("wb") as file:
                run = subprocess.Popen(list(map(str, words)), stdout=file, stderr=subprocess.STDOUT)
                at = watched(run, Path(folder) / "at", last)
            for line in output.read_text(errors="replace").splitlines():
                if line.startswith("["):
                    found.append("{} ({}): {}".format(*json.loads(line)))
                elif run.returncode:
                    found.append(line)
            if run.returncode:
                how = (
                    signal.Signals(-run.returncode).name
                    if run.returncode < 0
                    else f"exit code {run.returncode}"
                )
                found.append(f"{at}: the process ended with {how}")
                last = max(first, at) + 1
        first = last
        for line in found[len(found) - 5 :]:
            print(line, flush=True)
    took = time.monotonic() - begun
    print(
        f"{number} mutated files in {took:.0f} s, {len(found)} wrong: {dict(sorted(kinds.items()))}",
        flush=True,
    )
    return found


def watched(run: "subprocess.Popen[bytes]", at: Path, last: int) -> int:
    """The file that a process is at when it ends; it is killed where it is at one for too long."""
    since, before = time.monotonic(), -1
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(timeout=0.5)
        now = int(at.read_bytes() or b"-1") if at.exists() else -1
        if run.returncode is not None:
            return now
        if now != before:
            since, before = time.monotonic(), now
        elif time.monotonic() - since > (PATIENCE if 0 <= now < last else STARTING):
            run.kill()


def exported() -> tuple[Path, Path]:
    """The graph that scores, and the one that aligns."""
    import exports

    from exportable_losses import catalog

    aligning = catalog.get("CTCAlign").module(wildcard="mean")
    return exports.onnx(catalog.get("ctc_loss").module(reduction="none")), exports.onnx(aligning)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:4], Path(sys.argv[4]), *map(int, sys.argv[5:]))
    else:
        words = argparse.ArgumentParser(description=__doc__)
        words.add_argument("--number", type=int, default=1000)
        words.add_argument("--seed", type=int, default=0)
        sys.exit(bool(main(**vars(words.parse_args()))))
