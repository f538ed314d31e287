"""ONNX's reference evaluator: the standard in numpy, written to be read and not to be fast."""

from collections.abc import Iterator, Sequence

import numpy as np

from ...formats.errors import one_line
from .face import Case, Outputs, Runner, installed, named


def _run(cases: Sequence[Case]) -> Iterator[Outputs]:
    from onnx.reference import ReferenceEvaluator

    for case in cases:
        try:
            with np.errstate(all="ignore"):  # logarithms of zero are the lattices' own
                outputs = list(ReferenceEvaluator(str(case.path)).run(None, case.inputs))
            yield named(case, outputs)
        except Exception as error:
            yield one_line(error)


RUNNER = Runner("onnx-reference", ".onnx", "onnx.reference", lambda: installed("onnx", "export"), _run)
