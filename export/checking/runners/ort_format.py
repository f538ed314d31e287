"""ONNX Runtime's own format, `.ort`, which its builds for phones read; its own converter makes it."""

import contextlib
import io
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from exportable_losses.runtime.graphs import external_data

from ...formats.errors import one_line
from . import onnxruntime
from .face import Case, Outputs, Runner, installed, named


def convert(graph: Path, folder: Path) -> Path:
    """The `.ort` file of a graph, in `folder`; beside it the operators that a reduced build must have.

    Raises:
        RuntimeError: the converter does not take the graph.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    shutil.copy(graph, folder)
    for name, data in external_data(graph).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data, folder / name)
    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            convert_onnx_models_to_ort(folder, optimization_styles=[OptimizationStyle.Fixed])
        except SystemExit as error:
            raise RuntimeError(said.getvalue()) from error
    return folder / graph.with_suffix(".ort").name


def _version() -> str:
    installed("onnx", "export")  # the converter wants it
    return onnxruntime.RUNNER.version()


def _run(cases: Sequence[Case]) -> Iterator[Outputs]:
    from onnxruntime import InferenceSession

    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            try:
                session = InferenceSession(convert(case.path, Path(folder)))
                yield named(case, session.run(None, case.inputs))
            except Exception as error:
                yield one_line(error)


RUNNER = Runner(
    "onnxruntime-ort",
    ".onnx",
    "ONNX Runtime's format for phones",
    _version,
    _run,
)
