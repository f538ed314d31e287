"""Scores of letters that say a text, clearly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LETTERS = ["-", "|", *"abcdefghijklmnopqrstuvwxyz"]
TEXTS = ["it rains", "no", "hello world", "so it goes", "rain again"]


def scores(text: str, frames: int = 2) -> np.ndarray:
    """Log-probabilities `[T, C]`: each letter for so many frames, and a blank behind it."""
    path = [label for letter in text.replace(" ", "|") for label in (*[LETTERS.index(letter)] * frames, 0)]
    logits = 6 * np.eye(len(LETTERS), dtype=np.float32)[path]
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A Parquet file of items, of which `log_probs` are nested lists."""
    numbers = {"log_probs": pa.list_(pa.list_(pa.float32())), "features": pa.list_(pa.list_(pa.float32()))}
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        nested = [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
        columns[name] = pa.array(nested, numbers.get(name))
    pq.write_table(pa.table(columns), path)
    return path


def corpus(path: Path, texts: Sequence[str] = TEXTS) -> Path:
    """An item for each text, ``utt0`` and so on."""
    return write(
        path, [{"id": f"utt{i}", "log_probs": scores(text), "text": text} for i, text in enumerate(texts)]
    )
