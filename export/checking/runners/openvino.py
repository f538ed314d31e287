"""OpenVINO on a CPU, from the graphs in standard operators alone: it knows no functions of a file."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...formats.errors import one_line
from .face import Case, Outputs, Runner, installed, named


def _version() -> str:
    installed("onnx", "openvino")
    return installed("openvino", "openvino")


def _run(cases: Sequence[Case]) -> Iterator[Outputs]:
    import onnx
    import openvino
    from onnx.inliner import inline_local_functions

    core = openvino.Core()
    # numbers of the graph's own width: by itself it may compute in bfloat16
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for case in cases:
        try:
            graph = inline_local_functions(onnx.load(case.path))
            model = core.compile_model(core.read_model(graph.SerializeToString()), "CPU")
            taken = {name for value in model.inputs for name in value.names}  # those that something reads
            results = model({name: array for name, array in case.inputs.items() if name in taken})
            yield named(case, [_typed(results[output], output) for output in model.outputs])
        except Exception as error:
            yield one_line(error)


def _typed(array: np.ndarray, output: Any) -> np.ndarray:
    """The array that it is: OpenVINO gives the bits of a bfloat16 as those of a float16."""
    from exportable_losses.runtime.session import bfloat16

    return array.view(bfloat16()) if output.element_type.to_string() == "bf16" else array


RUNNER = Runner("openvino", ".onnx", "OpenVINO, CPU", _version, _run)
