"""ONNX's reference evaluator: the standard in numpy, written to be read and not to be fast."""

from collections.abc import Iterator, Sequence

import onnx
from onnx.reference import ReferenceEvaluator

from .face import Case, Outputs, Runner, named, one_line


def _run(cases: Sequence[Case]) -> Iterator[Outputs]:
    for case in cases:
        try:
            yield named(case, list(ReferenceEvaluator(str(case.path)).run(None, case.inputs)))
        except Exception as error:
            yield one_line(error)


RUNNER = Runner("onnx-reference", ".onnx", "onnx.reference", lambda: str(onnx.__version__), _run)
