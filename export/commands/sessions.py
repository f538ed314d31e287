"""Run exported losses on arrays from ``.npz`` files, or on a corpus."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from exportable_losses.runtime import LossSession
from exportable_losses.runtime.files import whole_file
from exportable_losses.runtime.npy import arrays_in

if TYPE_CHECKING:
    from exportable_losses.runtime import Scorer

AnyScorer = TypeVar("AnyScorer", bound="Scorer")


def load(path: Path) -> LossSession:
    """A session of the graph in `path`.

    Raises:
        ValueError: it is not an ONNX graph that runs here.
    """
    try:
        return LossSession(path)
    except ValueError:  # what it says of itself
        raise
    except Exception as error:  # onnxruntime has a type of its own for each way to be broken
        raise ValueError(f"not a graph that ONNX Runtime takes: {error}") from error


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays in `path` by name.

    Raises:
        ValueError: it is no ``.npz`` file of plain arrays.
    """
    try:
        return arrays_in(path)
    except (MemoryError, ValueError) as error:
        raise ValueError(f"not an .npz file of plain arrays: {error}") from error


def score(session: LossSession, path: Path) -> dict[str, np.ndarray]:
    """The outputs of `session` for the arrays in `path`, whose names are the inputs'.

    Raises:
        ValueError: `path` is no ``.npz`` file, or its arrays are not what the graph takes; the
            message says what came and what was expected.
    """
    return together([session], read(path))


def together(sessions: Sequence[LossSession], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of all `sessions`, each of which is given those of `arrays` that it takes.

    Raises:
        ValueError: an array is missing, does not fit, or is of no graph.
    """
    known = list(dict.fromkeys(name for session in sessions for name in session.inputs))
    unknown = [name for name in arrays if name not in known]
    if unknown:
        raise ValueError(f"inputs: got {', '.join(unknown)}, expected {', '.join(known)}")
    outputs: dict[str, np.ndarray] = {}
    for session in sessions:
        try:
            outputs |= session(**{name: arrays[name] for name in session.inputs if name in arrays})
        except TypeError as error:
            raise ValueError(str(error)) from error
    return outputs


def write_results(results: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Write outputs by name, or as ``file/name`` where there are several files."""
    several = len(results) > 1
    named: dict[str, Any] = {
        f"{Path(source).with_suffix('').as_posix()}/{name}" if several else name: array
        for source, outputs in results.items()
        for name, array in outputs.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:  # np.savez adds a suffix to a name without one
        np.savez(file, **named)


def summary(array: np.ndarray) -> str:
    """A number as it is, an array as its mean, least and largest."""
    if array.size == 1:
        return f"{array.item():.7g}"
    if array.size == 0:
        return f"empty, shape {list(array.shape)}"
    return f"mean {array.mean():.7g}, from {array.min():.7g} to {array.max():.7g}, shape {list(array.shape)}"


def scorer(
    make: Callable[..., AnyScorer],
    graph: Path,
    model: Path | None,
    inputs: Mapping[str, str] | None,
    batch_bytes: int | None,
) -> AnyScorer:
    """What scores a corpus, or aligns it, made by `make`.

    Raises:
        ValueError: a file is not an ONNX graph that runs here, or they do not fit.
    """
    settings: dict[str, Any] = {} if batch_bytes is None else {"batch_bytes": batch_bytes}
    try:
        return make(graph, model=model, inputs=inputs, **settings)
    except (OSError, RuntimeError, TypeError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"not graphs that ONNX Runtime takes: {error}") from error
