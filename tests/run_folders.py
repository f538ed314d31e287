"""Folders of scored corpora, made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_run(
    folder: Path,
    columns: dict[str, Any],
    totals: dict[str, dict[str, Any]],
    *,
    ids: list[str] | None = None,
    sizes: Any = None,
    set_aside: dict[str, str] | None = None,
    row: str = "ctc_loss",
    settings: dict[str, Any] | None = None,
    size: str = "frames",
) -> Path:
    """A run with these columns and totals; an item's size is 100 frames, and its id its number."""
    count = len(next(iter(columns.values())))
    ids = [f"utterance-{i:04d}" for i in range(count)] if ids is None else ids
    sizes = np.full(count, 100) if sizes is None else np.asarray(sizes, np.int64)
    aside = set_aside or {}
    folder.mkdir(parents=True)
    items = {"id": pa.array(ids, pa.string()), "size": sizes, **{k: pa.array(v) for k, v in columns.items()}}
    pq.write_table(pa.table(items), folder / "items.parquet")
    table = {"id": list(aside), "source": ["dev.parquet"] * len(aside), "reason": list(aside.values())}
    schema = pa.schema([(name, pa.string()) for name in table])
    pq.write_table(pa.table(table, schema), folder / "set_aside.parquet")
    about = {
        "format": 1,
        "graph": {
            "file": f"{row}.onnx",
            "sha256": "5f" * 32,
            "row": row,
            "settings": {"blank_index": 0, "reduction": "none"} if settings is None else settings,
            "version": "0.1.0",
        },
        "model": None,
        "data": [{"path": "dev.parquet", "rows": count + len(aside)}],
        "items": count,
        "set_aside": len(aside),
        "size": size,
        "totals": totals,
        "environment": {
            "exportable_losses": "0.1.0",
            "onnxruntime": "1.32.0",
            "numpy": "2.4.6",
            "native library": "avx2",
            "machine": "x86_64",
        },
    }
    (folder / "totals.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
    return folder


def mean_run(folder: Path, values: Any, weights: Any = 1.0, **more: Any) -> Path:
    """A run whose one output `loss` is a mean with weights."""
    values = np.asarray(values, np.float64)
    weights = np.broadcast_to(np.asarray(weights, np.float64), values.shape)
    with np.errstate(invalid="ignore"):
        numerator, denominator = float((values * weights).sum()), float(weights.sum())
    total = {"value": numerator / denominator, "numerator": numerator, "denominator": denominator}
    totals = {"loss": {"kind": "mean", "by": "", **total}}
    return write_run(folder, {"loss": values, "loss_weight": weights}, totals, **more)
