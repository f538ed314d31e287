"""Mutated files of what `align` takes: tokens, transcripts, priors, and a corpus with its transcripts."""

import base64
import functools
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mutations import mutated

from exportable_losses.runtime import Aligner, align_corpus, read_tokens
from exportable_losses.runtime.alignment.tokens import WILDCARD, of_names
from exportable_losses.runtime.alignment.transcripts import read_transcripts
from exportable_losses.runtime.alignment.writing import FORMATS
from exportable_losses.runtime.corpus.priors import read_priors

ALIGN_KINDS = ("tokens", "transcripts", "priors", "align")
SAID = "It rains, 42 räin * again\u0301 <unk> so-so 你好!"
BEHIND = 999  # the blank of a tokenizer that has none among its pieces
_RECORDED = Path(__file__).parents[1] / "data" / "tokenizers.json"


def token_files() -> list[tuple[str, bytes]]:
    """A file of each kind of vocabulary, by its suffix."""
    letters = ["-", "|", *"abcdefghijklmnopqrstuvwxyz"]
    numbers = {name: number for number, name in enumerate(letters)}
    files = [(".txt", "\n".join(letters).encode()), (".json", json.dumps(numbers).encode())]
    files.append((".txt", "".join(f"{name} {number}\n" for name, number in numbers.items()).encode()))
    for case in json.loads(_RECORDED.read_text("utf-8")).values():
        if "json" in case:
            files.append((".json", json.dumps(case["json"]).encode()))
        elif "model" in case:
            files += [(".model", base64.b64decode(case["model"])), (".vocab", case["vocab"].encode())]
    return files


class AlignJudge:
    """Whole files, and what is wrong with how mutated ones are taken.

    Args:
        graph: an exported `CTCAlign` with wildcards.
        folder: to work in.
        change: gives JSON another value, name or place.
    """

    def __init__(self, graph: str, folder: Path, change: Callable[[Any, random.Random], None]) -> None:
        from speech import LETTERS, TEXTS, corpus, scores

        self.folder, self.change, self.tokens = folder, change, token_files()
        self.aligner = Aligner(graph, of_names(LETTERS), threads=1)
        whole = folder / "whole"
        arrays = {f"utt{i}.log_probs": scores(text) for i, text in enumerate(TEXTS)}
        texts = {f"utt{i}.text": np.array(text) for i, text in enumerate(TEXTS)}
        np.savez(whole / "spoken.npz", **dict(sorted({**arrays, **texts}.items())))
        corpus(whole / "spoken.parquet")
        self.spoken = {path.suffix: path.read_bytes() for path in whole.glob("spoken.*")}
        self.items = len(TEXTS)

    def judge(self, what: str, chance: random.Random) -> str:
        judge: Callable[[random.Random], str] = getattr(self, f"_{what}")
        return judge(chance)

    def _file(self, suffix: str, content: bytes) -> Path:
        path = self.folder / f"given{suffix}"
        path.write_bytes(content)
        return path

    def _tokens(self, chance: random.Random) -> str:
        suffix, content = chance.choice(self.tokens)
        if suffix == ".json" and chance.random() < 0.7:
            about = json.loads(content)
            for _ in range(chance.choice((1, 1, 2, 3))):
                self.change(about, chance)
            content = json.dumps(about).encode()
        else:
            content = mutated(content, chance)
        try:
            vocabulary = read_tokens(self._file(suffix, content), chance.choice((0, BEHIND)))
        except ValueError as error:
            return "" if str(error).startswith("tokens: got ") else f"{suffix}: {error}"
        spelling = vocabulary.spell(SAID)
        known = set(spelling.labels) - {WILDCARD} <= set(range(len(vocabulary.names)))
        spanned = all(0 <= a < b <= len(spelling.labels) for a, b in spelling.spans)
        return "" if known and spanned else f"{suffix}: {spelling}"

    def _transcripts(self, chance: random.Random) -> str:
        lines = [f"utt{number} {SAID}" for number in range(4)]
        suffix = chance.choice(("", ".jsonl"))
        if suffix:
            objects = [dict(zip(("id", "text"), line.split(maxsplit=1), strict=True)) for line in lines]
            self.change(chance.choice(objects), chance)
            lines = [json.dumps(each, ensure_ascii=False) for each in objects]
        content = "\n".join(lines).encode()
        try:
            found = read_transcripts(self._file(suffix, mutated(content, chance)))
        except ValueError as error:
            return "" if str(error).startswith("transcripts: got ") else str(error)
        texts = {type(each) for pair in found.texts.items() for each in pair}
        return "" if texts <= {str} else f"{texts} of {found.texts}"

    def _priors(self, chance: random.Random) -> str:
        file = io.BytesIO()
        np.save(file, np.log(np.full(28, 1 / 28)).astype(chance.choice(("f2", "f4", "f8"))))
        try:
            found = read_priors(self._file(".npy", mutated(file.getvalue(), chance)))
        except ValueError as error:
            return "" if str(error).startswith("priors: got ") else str(error)
        return "" if np.isclose(np.exp(found.astype(float)).sum(), 1, atol=2e-3) else f"{found}"

    def _align(self, chance: random.Random) -> str:
        suffix = chance.choice(sorted(self.spoken))
        path, out = self._file(suffix, mutated(self.spoken[suffix], chance)), self.folder / "aligned"
        shutil.rmtree(out, ignore_errors=True)
        formats, window_bytes = chance.sample(FORMATS, 2), chance.choice((1, 1 << 20))
        run = functools.partial(align_corpus, self.aligner, [path], out, hop=0.02, window_bytes=window_bytes)
        try:
            found = run(formats=formats, report=out / "page.html")
        except ValueError as error:
            return "" if str(error).startswith(("data: got no items", "data: none of")) else str(error)
        if "damaged" not in found["data"][0] and found["items"] + found["set_aside"] < self.items:
            return f"lost in silence: {found['items']} items and {found['set_aside']} set aside of {suffix}"
        again = run()
        lines = (out / "words.jsonl").read_text("utf-8").splitlines()
        same = again["words"] == found["words"] == sum(len(json.loads(line)["words"]) for line in lines)
        return "" if same and len(lines) == found["items"] else f"other words of a second call, of {suffix}"
