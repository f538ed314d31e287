"""Models and batches for ONNX Runtime's door, and sessions that run them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from exportable_losses.export.nodes.functions import function_protos

Arrays = dict[str, np.ndarray]
REAL = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE}
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}
SCORES = {"CTCLoss": "log_probs", "TransducerLoss": "logits"}
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
both_losses = pytest.mark.parametrize("loss", ["CTCLoss", "TransducerLoss"])


# Models: one operator with absolute lengths, or a file of the exporter


def one_operator(
    op: str, dtype: Any = np.float32, blank: int | None = 0, functions: Any = (), grad_dtype: Any = None
) -> bytes:
    """A model of one node of our domain; its inputs have no shapes, so that any shape gets to the node."""
    loss = op.removesuffix("Grad")
    inputs = {SCORES[loss]: REAL[dtype], **dict.fromkeys(LENGTHS, TensorProto.INT64)}
    outputs = ["costs"]
    if op.endswith("Grad"):
        inputs["grad_costs"] = REAL[grad_dtype or dtype]
        outputs.append("grad")
    attributes = {} if blank is None else {"blank_index": blank}
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), outputs, domain="exportable_losses", **attributes)],
        "one",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, REAL[dtype], None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("exportable_losses", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)
    return model.SerializeToString()


def with_body(loss: str, dtype: Any, blank: int = 0) -> bytes:
    return one_operator(loss, dtype, blank, function_protos(loss, REAL[dtype]))


def session(model: bytes | str, library: str | None, threads: int = 2, **options: Any) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = threads
    for name, value in options.items():
        setattr(settings, name, value)
    if library is not None:
        settings.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def computed_by(model: bytes | str, library: str | None, feed: Arrays, folder: Path) -> set[str]:
    """The names of the operators that ONNX Runtime says it ran."""
    profiled = session(model, library, enable_profiling=True, profile_file_prefix=str(folder / "profile"))
    profiled.run(None, feed)
    events = json.loads(Path(profiled.end_profiling()).read_text())
    return {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}


# Batches

LENGTHS = ("targets", "input_lengths", "target_lengths")


def batch(
    loss: str,
    dtype: Any = np.float32,
    sizes: tuple[int, int, int, int] = (3, 7, 4, 5),
    seed: int = 0,
    blank: int = 0,
    scale: float = 1.0,
) -> Arrays:
    """Scores, targets and absolute lengths of sizes (B, T, labels, classes); one label often repeats."""
    items, frames, labels, classes = sizes
    rng = np.random.default_rng(seed)
    shape = (items, frames, classes) if loss == "CTCLoss" else (items, frames, labels + 1, classes)
    scores = scale * rng.normal(size=shape)
    if loss == "CTCLoss":
        scores = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    targets = rng.integers(0, max(classes - 1, 1), (items, labels))
    targets += targets >= blank
    return {
        SCORES[loss]: scores.astype(dtype),
        "targets": targets,
        "input_lengths": rng.integers(1, frames + 1, items),
        "target_lengths": rng.integers(0, labels + 1, items),
    }


def empty_targets(feed: Arrays) -> None:
    feed["target_lengths"][:] = 0


def no_room_for_labels(feed: Arrays) -> None:
    scores = next(iter(feed))
    feed["targets"] = feed["targets"][:, :0]
    feed["target_lengths"][:] = 0
    if scores == "logits":
        feed[scores] = feed[scores][:, :, :1]


def one_frame(feed: Arrays) -> None:
    scores = next(iter(feed))
    feed[scores] = np.ascontiguousarray(feed[scores][:, :1])
    feed["input_lengths"][:] = 1


def repeated_labels(feed: Arrays) -> None:
    feed["targets"][:] = 1
    feed["target_lengths"][:] = feed["targets"].shape[1]
    feed["input_lengths"][:] = feed[next(iter(feed))].shape[1]


def impossible(feed: Arrays) -> None:
    """More labels than frames (CTC), or a label that never is (the transducer)."""
    repeated_labels(feed)
    scores = next(iter(feed))
    if scores == "log_probs":
        feed["input_lengths"][:] = 2
    else:
        feed[scores][..., 1] = -np.inf


def some_never(feed: Arrays) -> None:
    scores = feed[next(iter(feed))]
    scores[np.random.default_rng(5).random(scores.shape) < 0.2] = -np.inf
    scores[..., 0] = -1.0  # the blank stays possible, so that no row is empty


def huge(feed: Arrays) -> None:
    scores = feed[next(iter(feed))]
    scores[...] = np.where(np.random.default_rng(6).random(scores.shape) < 0.5, -1e4, 1e4)


def garbage_behind(feed: Arrays) -> None:
    """What lies behind an item's frames and labels is not read."""
    scores = feed[next(iter(feed))]
    for b, (frames, labels) in enumerate(zip(feed["input_lengths"], feed["target_lengths"], strict=True)):
        scores[b, frames:] = np.nan
        if scores.ndim == 4:
            scores[b, :, labels + 1 :] = np.nan
        feed["targets"][b, labels:] = [-7, 99, 2**60, -(2**60)][: feed["targets"].shape[1] - labels]


HARD: list[Callable[[Arrays], None]] = [
    empty_targets,
    no_room_for_labels,
    one_frame,
    repeated_labels,
    impossible,
    some_never,
    huge,
    garbage_behind,
]


def assert_close(got: np.ndarray, expected: np.ndarray, dtype: Any, times: float = 1.0) -> None:
    assert got.dtype == dtype
    tolerance = times * TOLERANCE[dtype]
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def relative(row: str, dtype: Any, sizes: Any, seed: int, blank: int) -> Arrays:
    """The inputs of a row of the catalog, lengths relative."""
    loss = "TransducerLoss" if row.lower().startswith("transducer") else "CTCLoss"
    feed = batch(loss, dtype, sizes, seed, blank)
    scores = feed[SCORES[loss]]
    input_lens = (feed["input_lengths"] / scores.shape[1]).astype(dtype)
    if row == "ctc_loss_kd":
        teacher = np.random.default_rng(seed + 99).random(scores.shape).astype(dtype)
        return {"log_probs": scores, "targets": teacher, "input_lens": input_lens}
    target_lens = (feed["target_lengths"] / max(feed["targets"].shape[1], 1)).astype(dtype)
    return {
        SCORES[loss]: scores,
        "targets": feed["targets"],
        "input_lens": input_lens,
        "target_lens": target_lens,
    }
