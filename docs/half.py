"""Graphs of 16 bits in onnxruntime beside the same rows in float64: how far each output is off.

    .venv/bin/python docs/half.py            # the table of docs/half-precision.md
    .venv/bin/python docs/half.py ctc_loss   # its lines of some rows

Both sides get the same numbers, rounded to 16 bits before. A figure is the largest over all elements and
batches, `0.50 (4.9e-04)`: in units in the last place of the 16-bit type, then relative to the exact value. A
result that is rounded once, and right before, is off by half a unit at most. What is smaller than float16's
smallest normal number, 2^-14, is measured as if it were that.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn

from exportable_losses import catalog
from exportable_losses.contract import FLOATING
from exportable_losses.export import to_onnx
from exportable_losses.export.formats.half import TYPES, Half, in_half, kept
from exportable_losses.runtime import LossSession

NUMPY = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
USUAL = {"B": 8, "T": 100, "N": 100, "C": 20, "V": 20, "S": 12, "U": 12, "K": 40, "P": 200, "Q": 300}
LARGE = {"B": 4, "T": 3, "S": 2, "U": 2}  # three frames, whose costs float16 still holds
DTYPES: tuple[Half, ...] = ("float16", "bfloat16")
SMALL = 2.0**-14
HEADER = (
    "| row | output | float16 | bfloat16 | float16, ±1e4 | bfloat16, ±1e4 |",
    "|---|---|---|---|---|---|",
)


@dataclass
class Error:
    """The largest differences of an output, in units in the last place and relative."""

    ulp: float = 0.0
    relative: float = 0.0

    def __str__(self) -> str:
        if np.isinf(self.relative):
            return "infinite"
        return f"{self.ulp:.2f} ({self.relative:.1e})" if self.relative else "0"


def takes_scores(entry: catalog.Entry) -> bool:
    """Whether the first input is logits or log-probabilities, of any size."""
    first = entry.inputs[0]
    return first.legal == "log_probability" or first.name == "logits" or entry.name == "bce_loss"


def drawn(entry: catalog.Entry, seed: int, sizes: dict[str, int]) -> dict[str, Tensor]:
    """The catalog's example, at those sizes that the row has."""
    terms = " ".join(value.dims for value in entry.inputs).replace("?", "").split()
    letters = {term.partition("+")[0] for term in terms}
    return entry.example_inputs(seed, **{k: v for k, v in sizes.items() if k in letters})


def batches(entry: catalog.Entry, large: bool) -> Iterator[dict[str, Tensor]]:
    """Batches of usual numbers, or those whose scores are -1e4 and 1e4, of log-probabilities -1e4 and 0."""
    for seed in range(4):
        inputs = drawn(entry, seed, LARGE if large else USUAL)
        if large:
            scores = entry.inputs[0]
            high = 0.0 if scores.legal == "log_probability" else 1e4
            coin = torch.rand(inputs[scores.name].shape, generator=torch.Generator().manual_seed(seed))
            inputs[scores.name] = torch.where(coin < 0.5, -1e4, high)
        yield inputs


def in_float64(entry: catalog.Entry, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """What the row gives for the same numbers in float64; lengths stay what they are, frames hang on them."""
    floating = {value.name for value in entry.inputs if value.legal in FLOATING}
    scores = {name for name in floating if "len" not in name}
    floating = scores or floating  # of tokens alone the lengths say in what a rate is computed
    exact = {
        name: x.double() if name in floating and x.is_floating_point() else x for name, x in inputs.items()
    }
    return {name: x.numpy() for name, x in outputs(entry, entry.module().double(), exact).items()}


def outputs(entry: catalog.Entry, module: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a module of the row gives, by name."""
    returned = module(**inputs)
    values = returned if isinstance(returned, tuple) else (returned,)
    return dict(zip(entry.outputs, values, strict=True))


def has_sixteen_bits(entry: catalog.Entry) -> bool:
    """Whether anything in a 16-bit graph of the row has 16 bits: not where all are integers and lengths."""
    module, inputs = entry.module(), entry.example_inputs()
    tensors, keep = {**inputs, **outputs(entry, module, inputs)}, kept(module)
    return any(x.dtype == torch.float32 and name not in keep for name, x in tensors.items())


def as_array(tensor: Tensor) -> np.ndarray:
    """The same in numpy, which has its bfloat16 from ml_dtypes."""
    if tensor.dtype == torch.bfloat16:
        return tensor.float().numpy().astype(ml_dtypes.bfloat16)
    return tensor.numpy()


def difference(got: np.ndarray, exact: np.ndarray, kind: np.dtype) -> Error:
    """How far `got` is off. What the type holds as infinite must be so, and integers must be equal."""
    if got.dtype != kind:
        return Error() if np.array_equal(got, exact) else Error(np.inf, np.inf)
    rounded = exact.astype(kind)
    number = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~number], rounded[~number])
    if not number.any():
        return Error(np.inf, np.inf)
    exact = exact[number]
    gap = np.abs(got[number].astype(np.float64) - exact)
    size = np.maximum(np.abs(exact), SMALL)
    unit = np.spacing(size.astype(kind)).astype(np.float64)
    return Error(float((gap / unit).max()), float((gap / size).max()))


def errors(row: str, dtype: Half) -> tuple[dict[str, Error], dict[str, Error]]:
    """Of usual inputs, and of large scores where the row takes scores: by output, those with 16 bits.

    Where only inputs have 16 bits it is all outputs, and none where not even these do.
    """
    entry = catalog.get(row)
    with tempfile.TemporaryDirectory() as folder:
        to_onnx(entry.module(), Path(folder) / "half.onnx", dtype=dtype)
        session = LossSession(Path(folder) / "half.onnx")
    usual: dict[str, Error] = {}
    large: dict[str, Error] = {}
    for inputs in batches(entry, large=False):
        widen(usual, differences(entry, session, inputs, dtype))
    for inputs in batches(entry, large=True) if takes_scores(entry) else ():
        widen(large, differences(entry, session, inputs, dtype))
    return usual, large


def differences(
    entry: catalog.Entry, session: LossSession, inputs: dict[str, Tensor], dtype: Half
) -> dict[str, Error]:
    """Of one batch, rounded first."""
    kind = NUMPY[dtype]
    given = in_half(entry.module(), inputs, dtype)
    got = session(**{name: as_array(tensor) for name, tensor in given.items()})
    some = any(tensor.dtype == TYPES[dtype][0] for tensor in given.values())
    shown = [name for name in got if got[name].dtype == kind] or (list(got) if some else [])
    exact = in_float64(entry, given)
    return {name: difference(got[name], exact[name], kind) for name in shown}


def widen(worst: dict[str, Error], here: dict[str, Error]) -> None:
    """Make each of `worst` at least as large as what was found `here`."""
    for name, error in here.items():
        most = worst.get(name, error)
        worst[name] = Error(max(most.ulp, error.ulp), max(most.relative, error.relative))


def lines(row: str) -> list[str]:
    """Those of the table, one an output; none where nothing has 16 bits."""
    if not has_sixteen_bits(catalog.get(row)):
        return []
    usual, large = zip(*(errors(row, dtype) for dtype in DTYPES), strict=True)
    return [
        " | ".join([f"| `{row}`", f"`{output}`", *(str(found.get(output, "")) for found in (*usual, *large))])
        + " |"
        for output in usual[0]
    ]


def main() -> None:
    """Print the table."""
    print(*HEADER, sep="\n")
    for row in sys.argv[1:] or catalog.names():
        for line in lines(row):
            print(line, flush=True)


if __name__ == "__main__":
    main()
