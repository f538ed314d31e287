"""What a runtime cannot do, by its makers' own account: where a file falls short for no fault of its own.

The smallest case of each is in ``tests/export/checking/test_upstream.py``, which fails where one works at
last.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """What a runtime cannot do.

    Args:
        runtime: as `RUNNERS` names it.
        version: the newest one in which it was seen.
        what: it cannot do.
        here: what comes of it for an exported file.
        link: its makers' thread about it.
    """

    runtime: str
    version: str
    what: str
    here: str
    link: str


UPSTREAM: dict[str, Limit] = {
    "carried size": Limit(
        "executorch",
        "1.5.1",
        "a loop copies what it carries into room of one size",
        "of a lattice the batch and the longest target are fixed: pad to them",
        "https://github.com/pytorch/executorch/pull/16028",
    ),
    "sort": Limit(
        "executorch",
        "1.5.1",
        "the portable kernels have no `sort`",
        "a file has `topk` of all in its place, and all rows agree",
        "https://github.com/pytorch/executorch/issues/11320",
    ),
    "integer power": Limit(
        "aotinductor",
        "2.13.0",
        "`2**x` of a tensor of integers is one of floats, for numbers become doubles",
        "a file has a tensor in the number's place, and all rows agree",
        "https://github.com/pytorch/pytorch/pull/194262",
    ),
    "float64": Limit(
        "openvino",
        "2026.4.1",
        "its CPU computes float64 in float32",
        "the `gaps` of `ExpectedCalibrationError`, float64, are as exact as float32",
        "https://github.com/openvinotoolkit/openvino/issues/35822",
    ),
    "elements": Limit(
        "onnx-reference",
        "1.23.2",
        "`GatherElements` takes fewer than 64 elements along its axis",
        "CTC's labels, say, of a vocabulary of 64 or more end with an error",
        "https://github.com/onnx/onnx/pull/8444",
    ),
    "log of softmax": Limit(
        "onnx-reference",
        "1.23.2",
        "`LogSoftmax` is the logarithm of a softmax, which underflows",
        "a logit that is 104 below another has a probability of nothing",
        "https://github.com/onnx/onnx/pull/8423",
    ),
}


def markdown() -> str:
    """A table of it, as the documentation has it."""
    lines = ["| runtime | cannot | so that | upstream |", "|---|---|---|---|"]
    for each in UPSTREAM.values():
        place = "/".join(each.link.split("/")[3:5]) + "#" + each.link.rsplit("/", 1)[1]
        lines.append(
            f"| {each.runtime} {each.version} | {each.what} | {each.here} | [{place}]({each.link}) |"
        )
    return "\n".join(lines)
