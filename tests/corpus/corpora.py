"""Items of some rows, and corpora of them in every format."""

import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from exportable_losses import catalog

Item = dict[str, np.ndarray]
ROWS: dict[str, dict[str, Any]] = {
    "ctc_loss": {"reduction": "none"},
    "l1_loss": {"reduction": "mean"},
    "TokenErrorRate": {},
    "EqualErrorRate": {},
}


def items_of(row: str, number: int = 12, seed: int = 0) -> list[Item]:
    """Items of several sizes, none of them padded."""
    random = np.random.default_rng(seed)
    return [_item(row, random) for _ in range(number)]


def _item(row: str, random: np.random.Generator) -> Item:
    frames, labels = int(random.integers(10, 40)), int(random.integers(1, 6))
    if row == "ctc_loss":
        scores = torch.from_numpy(random.standard_normal((frames, 9), np.float32))
        return {"log_probs": scores.log_softmax(-1).numpy(), "targets": random.integers(1, 9, labels)}
    if row == "l1_loss":
        pair = random.standard_normal((2, frames, 3), np.float32)
        return {"predictions": pair[0], "targets": pair[1]}
    if row == "TokenErrorRate":
        return {"predictions": random.integers(1, 5, frames), "targets": random.integers(1, 5, labels)}
    scores = random.standard_normal(labels + frames).astype(np.float32)
    return {"positive_scores": scores[:labels] + 1, "negative_scores": scores[labels:]}


def expected(row: str, items: Sequence[Item]) -> dict[str, float]:
    """What the row gives for all items as one batch, in float64."""
    if row == "EqualErrorRate":
        joined = {name: torch.from_numpy(np.concatenate([item[name] for item in items])) for name in items[0]}
        rate, threshold = catalog.get(row).module()(**joined)
        return {"eer": rate.item(), "threshold": threshold.item()}
    batch, lengths = {}, {}
    for name in items[0]:
        arrays = [torch.from_numpy(item[name]) for item in items]
        batch[name] = torch.nn.utils.rnn.pad_sequence(arrays, batch_first=True)
        lengths[name] = torch.tensor([len(a) / batch[name].shape[1] for a in arrays], dtype=torch.float64)
        if batch[name].is_floating_point():
            batch[name] = batch[name].double()
    of = {
        "ctc_loss": {"input_lens": "log_probs", "target_lens": "targets"},
        "l1_loss": {"length": "predictions"},
        "TokenErrorRate": {"prediction_lens": "predictions", "target_lens": "targets"},
    }
    outputs = catalog.get(row).module(**ROWS[row])(**batch, **{n: lengths[x] for n, x in of[row].items()})
    if row == "TokenErrorRate":
        return dict(zip(catalog.get(row).outputs, (x.double().item() for x in outputs), strict=True))
    return {"loss": outputs.mean().item()}


def columns(items: Sequence[Item], ids: Sequence[str] | None = None) -> pa.Table:
    """A table of items, an array a nested list."""
    found = {name: pa.array([_nested(item.get(name)) for item in items]) for name in items[0]}
    return pa.table({**({"id": list(ids)} if ids else {}), **found})


def _nested(array: np.ndarray | None) -> Any:
    if array is None or array.ndim < 2:
        return array
    return list(map(_nested, array))


def write(kind: str, path: Path, items: Sequence[Item], ids: Sequence[str], group: int = 5) -> Path:
    """A shard of a kind; `group` rows to a row group or a batch."""
    if kind in ("npz", "tar"):
        members = {
            f"{id_}.{name}": array
            for id_, item in zip(ids, items, strict=True)
            for name, array in item.items()
        }
        path = path.with_suffix(f".{kind}")
        if kind == "npz":
            np.savez(path, **members)
        else:
            write_tar(path, members)
        return path
    table = columns(items, ids)
    if kind == "parquet":
        pq.write_table(table, path.with_suffix(".parquet"), row_group_size=group)
        return path.with_suffix(".parquet")
    path = path.with_suffix(".arrow")
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(compression="lz4" if kind == "lz4" else None)
    with new(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=group)
    return path


def write_tar(path: Path, members: dict[str, np.ndarray]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, array in members.items():
            content = BytesIO()
            np.save(content, array)
            for suffix, data in ((".npy", content.getvalue()), (".json", b"{}")):
                about = tarfile.TarInfo(name + suffix)
                about.size = len(data)
                archive.addfile(about, BytesIO(data))


KINDS = ("parquet", "file", "lz4", "stream", "npz", "tar")
