"""What ONNX Runtime saves of a graph that it has optimised, our operators inlined, loads."""

from pathlib import Path

import exports
import numpy as np
import onnxruntime
import pytest
from export_cases import BY_NAME, Case
from onnx_runs import Arrays, as_arrays

from exportable_losses.library import library_path

LEVELS = onnxruntime.GraphOptimizationLevel.__members__
# a case of every operator, with gradients where there are any
NAMES = (
    "ctc_loss-mean",
    "ctc_loss-float64",
    "ctc_loss_kd",
    "transducer_loss-mean",
    "CTCPosterior",
    "CTCForwardChunk",
    "CTCAlign",
    "TransducerPosterior",
    "TransducerAlign",
    "PitWrapper",
    "EditDistance",
)


def session(
    path: Path, library: str | None, level: str = "ORT_ENABLE_ALL", saved: Path | None = None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS[level]
    if library:
        options.register_custom_ops_library(library)
    if saved:
        options.optimized_model_filepath = str(saved)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(loaded: onnxruntime.InferenceSession, case: Case) -> Arrays:
    names = [value.name for value in loaded.get_outputs()]
    return dict(zip(names, loaded.run(names, as_arrays(case.inputs("large", seed=3))), strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("native", [False, True])
def test_a_saved_model_loads_at_every_level(name: str, native: bool, tmp_path: Path) -> None:
    library = library_path() if native else None
    if native and library is None:
        pytest.skip("the native library is not installed")
    case = BY_NAME[name]
    graph = exports.onnx(case.module(), case.inputs(), "all" if case.entry.differentiable else ())
    expected = run(session(graph, library), case)
    for level in LEVELS:
        saved = tmp_path / f"{level}.onnx"
        session(graph, library, level, saved)
        for output, array in run(session(saved, library), case).items():
            np.testing.assert_allclose(
                array, expected[output], rtol=1e-5, atol=1e-5, err_msg=f"{level}: {output}"
            )
