"""ONNX Runtime from Python, through this package's own session."""

from collections.abc import Iterator, Sequence

from ...formats.errors import one_line
from .face import Case, Outputs, Runner, installed


def _run(cases: Sequence[Case]) -> Iterator[Outputs]:
    from exportable_losses.runtime import LossSession

    for case in cases:
        try:
            yield LossSession(case.path)(**case.inputs)
        except Exception as error:  # whatever a broken file makes a runtime say
            yield one_line(error)


RUNNER = Runner(
    "onnxruntime", ".onnx", "ONNX Runtime, Python", lambda: installed("onnxruntime", "runtime"), _run
)
