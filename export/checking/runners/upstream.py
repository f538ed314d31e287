"""Limitations of runtimes, as their makers acknowledge them; the exported files are not at fault.

The smallest case of each is in ``tests/export/checking/test_upstream.py``, which fails as soon as one works.
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
        "a loop cannot change the size of what it carries",
        "for a lattice the batch and the longest target are fixed: pad to them",
        "https://github.com/pytorch/executorch/pull/16028",
    ),
    "sort": Limit(
        "executorch",
        "1.5.1",
        "there is no `sort` in the portable kernels",
        "files use `topk` of all elements instead, and all rows agree",
        "https://github.com/pytorch/executorch/issues/11320",
    ),
    "integer power": Limit(
        "aotinductor",
        "2.13.0",
        "`2**x` of an integer tensor becomes floating point",
        "files use a tensor instead of the number 2, and all rows agree",
        "https://github.com/pytorch/pytorch/pull/194262",
    ),
    "float64": Limit(
        "openvino",
        "2026.4.1",
        "the CPU computes float64 in float32",
        "the `gaps` of `ExpectedCalibrationError`, which are float64, are only as exact as float32",
        "https://github.com/openvinotoolkit/openvino/issues/35822",
    ),
    "elements": Limit(
        "onnx-reference",
        "1.23.2",
        "`GatherElements` takes fewer than 64 elements along its axis",
        "CTC, for example, fails with a vocabulary of 64 or more",
        "https://github.com/onnx/onnx/pull/8444",
    ),
    "log of softmax": Limit(
        "onnx-reference",
        "1.23.2",
        "`LogSoftmax` is the logarithm of a softmax that underflows",
        "a logit that is 104 below another has a probability of zero",
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
