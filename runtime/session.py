"""A session that runs one exported graph and checks what the graph cannot."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from .metadata import described
from .native import register

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64,
    "tensor(uint32)": np.uint32,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_REFUSAL = re.compile(r"Status Message: (\w+: got .*)")  # what our operators say, in ONNX Runtime's words
_BFLOAT16 = 16  # ONNX's number for it


class LossSession:
    """An exported loss in ONNX Runtime, alone or attached to a model.

    Args:
        path: the ``.onnx`` file.
        native: whether this package's operator library computes the lattices: ``True`` requires it, ``False``
            does without it, ``"auto"`` uses it if it is installed. The attribute `library` has its path.
        providers: ONNX Runtime's execution providers in order of preference; by default the CPU.
        threads: the number of threads for one operator; by default ONNX Runtime's choice.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: `native` is true, but no library is installed or it does not load.
        ValueError: `native` is something else, or this version cannot read the metadata of the file.

    Examples:
        A file from ``exportable-losses export l1_loss --out losses``::

            session = LossSession("losses/l1_loss/l1_loss.onnx")
            session(predictions=a, targets=b, length=lengths)["loss"]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        native: Literal["auto"] | bool = "auto",
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {"native": native, "providers": providers, "threads": threads}
        self._path = os.path.abspath(path)  # a pickle may be read elsewhere
        options = session_options(threads)
        self.library = register(options, native)
        self._session = open_session(path, options, providers)
        self.outputs = [value.name for value in self._session.get_outputs()]
        values = (*self._session.get_inputs(), *self._session.get_outputs())
        self.dims: dict[str, list[str | int | None]] = {value.name: value.shape for value in values}
        self._values = {value.name: value for value in self._session.get_inputs()}
        self.properties: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.metadata, self.losses = described(self.properties, self.inputs, self.outputs)
        self._kinds = {value.name: value.type for value in values}
        self._numpy_knows = "tensor(bfloat16)" not in self._kinds.values()
        self._ours = {called for loss in self.losses for called in loss.names.values()}
        entries = [(loss, entry) for loss in self.losses for entry in loss.contract.inputs]
        self._lengths = {loss.names.get(entry.name, "") for loss, entry in entries if entry.is_length}

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(LossSession, self._path, **self._settings), ()

    @property
    def inputs(self) -> list[str]:
        """The names of the inputs that the graph has."""
        return list(self._values)

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph.

        Args:
            arrays: one for each input, by name. They are cast to the dtypes of the graph where no value can
                change. Lengths may be relative (floating point) or absolute (integers), whichever the graph
                takes.

        Returns:
            The outputs by name.

        Raises:
            TypeError: an input is unknown or missing, or its dtype does not fit.
            ValueError: a shape or a value does not fit; the message names the input, what it got and what
                it expected.
        """
        return self.run(self.checked(arrays))

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on the result of `checked`.

        Raises:
            ValueError: the loss does not take what the model returns, or an operator its inputs.
        """
        try:
            outputs = self._outputs(feed)
        except (Fail, InvalidArgument, RuntimeException) as error:  # the operator library checks lengths too
            self._check_behind_model(feed)
            said = _REFUSAL.search(str(error))
            if said is None:
                raise
            raise ValueError(said[1]) from error
        for loss in self.losses:
            if loss.computed:  # now that the model has run, the whole of it can be checked
                loss.check(feed, outputs)
        return outputs

    def _outputs(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        run = self._session.run if self._numpy_knows else self._run_bfloat16
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4  # an error is raised, and not printed as well
        return dict(zip(self.outputs, run(self.outputs, feed, options), strict=True))

    def _check_behind_model(self, feed: Mapping[str, np.ndarray]) -> None:
        """Hold the inputs of losses that did not run behind a model to what it gives.

        Raises:
            ValueError: an input is not what the loss takes.
        """
        behind = [loss for loss in self.losses if loss.computed]
        harmless = {name: array for loss in behind for name, array in loss.harmless(feed).items()}
        try:
            outputs = self._outputs({**feed, **harmless}) if harmless else {}
        except (Fail, InvalidArgument, RuntimeException):  # the model is what does not run, say
            return
        for loss in behind if outputs else ():
            loss.check(feed, outputs)

    def _run_bfloat16(
        self, names: Sequence[str], feed: Mapping[str, np.ndarray], options: onnxruntime.RunOptions
    ) -> list[np.ndarray]:
        """`run` for a graph with numbers that numpy does not know by itself."""
        # an OrtValue of theirs knows no strides
        dense = {name: np.require(array, requirements="C") for name, array in feed.items()}
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
            if array.dtype == dtype_of("tensor(bfloat16)")
            else onnxruntime.OrtValue.ortvalue_from_numpy(array)
            for name, array in dense.items()
        }
        found = self._session.run_with_ort_values(names, values, options)
        return [_as_array(value) for value in found]

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of the input or output `name`."""
        return dtype_of(self._kinds[name])

    def cast(self, name: str, array: ArrayLike) -> np.ndarray:
        """`array` in the dtype that the input `name` takes.

        Raises:
            TypeError: a value would change.
        """
        return cast(name, np.asarray(array), self.dtype(name))

    def checked(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`arrays` checked and cast to the dtypes of the graph."""
        unknown = sorted(set(arrays) - set(self._values))
        missing = [name for name in self._values if name not in arrays]
        if unknown or missing:
            got = f"got {', '.join(unknown)}" if unknown else f"{', '.join(missing)} missing"
            raise TypeError(f"inputs: {got}, expected {', '.join(self._values)}")
        given = {name: np.asarray(arrays[name]) for name in self._values}
        lengths = {name: array for name, array in given.items() if name in self._lengths}
        feed = {name: self.cast(name, array) for name, array in given.items() if name not in lengths}
        kinds = {name: self.dtype(name) for name in lengths}
        for loss in self.losses:
            loss.check_types({name: array.dtype for name, array in given.items()})
            feed = loss.with_lengths(feed, lengths, kinds)
        feed = {name: self.cast(name, feed[name]) for name in self._values}
        for name, array in feed.items():
            rank = len(self._values[name].shape)
            if array.ndim != rank and (rank or name in self._ours):  # a model's rank may be unknown
                raise ValueError(f"{name}: got shape {list(array.shape)}, expected {rank} dimensions")
        for loss in self.losses:
            loss.check(feed)
        for name, array in feed.items():
            for axis, size in enumerate(self._values[name].shape):  # a number where a weight fixes it
                if isinstance(size, int) and array.shape[axis] != size:
                    fixed_by = "the file's settings fix" if name in self._ours else "the model fixes"
                    raise ValueError(
                        f"{name}: got size {array.shape[axis]} along dimension {axis}, expected {size}, "
                        f"which {fixed_by}"
                    )
        return feed


def session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """The options of every session here."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(
    path: str | os.PathLike[str], options: onnxruntime.SessionOptions, providers: Sequence[str] | None
) -> onnxruntime.InferenceSession:
    """A session of the graph in `path`, on the CPU if not said otherwise.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"path: got {os.fspath(path)}, expected an .onnx file")
    return onnxruntime.InferenceSession(
        os.fspath(path), options, providers=list(providers or ["CPUExecutionProvider"])
    )


def cast(name: str, array: np.ndarray, wanted: np.dtype[Any]) -> np.ndarray:
    """`array` in the dtype `wanted`, where that changes no value."""
    if array.dtype == wanted or wanted == np.object_:  # a model's own, strings say: ONNX Runtime knows
        return array
    rounds = array.dtype.kind in "iu" and wanted.kind == "f"  # numpy calls int64 to float64 safe
    if rounds or not np.can_cast(array.dtype, wanted, "safe"):
        _refuse_loss(name, array, wanted)
    return array.astype(wanted)


def dtype_of(kind: str) -> np.dtype[Any]:
    """The dtype of what ONNX Runtime calls `kind`; `object` where it is no number."""
    return bfloat16() if kind == "tensor(bfloat16)" else np.dtype(_DTYPES.get(kind, np.object_))


def bfloat16() -> np.dtype[Any]:
    """The dtype, which numpy does not know by itself.

    Raises:
        ModuleNotFoundError: ml_dtypes, which does, is not installed.
    """
    try:
        import ml_dtypes
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ml_dtypes is not installed, bfloat16 needs it: pip install ml-dtypes"
        ) from error
    return np.dtype(ml_dtypes.bfloat16)


def _as_array(value: onnxruntime.OrtValue) -> np.ndarray:
    """A tensor of ONNX Runtime's as an array of its own memory."""
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    shape = value.shape()
    content = ctypes.string_at(value.data_ptr(), 2 * math.prod(shape)) if math.prod(shape) else b""
    return np.frombuffer(content, dtype_of("tensor(bfloat16)")).reshape(shape).copy()


def _refuse_loss(name: str, array: np.ndarray, wanted: np.dtype[Any]) -> None:
    """Refuse all but integers that are numbers of the dtype `wanted`, every one of them."""
    expected = f"expected {wanted} (or what casts to it without loss"
    if array.dtype.kind not in "iu" or wanted.kind not in "iuf":
        raise TypeError(f"{name}: got {array.dtype}, {expected})")
    if wanted.kind == "f":  # beyond, there are gaps between its integers
        most = 2 ** (np.finfo(wanted).nmant + 1)
        least = -most
    else:
        least, most = int(np.iinfo(wanted).min), int(np.iinfo(wanted).max)
    if array.size and not least <= int(array.min()) <= int(array.max()) <= most:
        first = array.argmin() if int(array.min()) < least else array.argmax()
        at = [int(i) for i in np.unravel_index(first, array.shape)]
        raise TypeError(f"{name}: got {array.dtype}, {expected}, which {array.flat[first]} at {at} does not)")
