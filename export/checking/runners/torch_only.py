"""Run and compile files of torch where nothing but torch is known.

`torch_alone` hands this text to a fresh ``python -c``, with what to do, a file of jobs and a file to write
the results to. To run a file there is a way to load it: a job is its path and inputs, the result a list of
tensors. To compile one, a job is its path and where the package goes, the result nothing. Either result may
be the message of what went wrong.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

Loader = Callable[[str], Callable[..., Any]]


def package(path: str) -> Callable[..., Any]:
    """What AOTInductor has compiled."""
    import torch._inductor

    return torch._inductor.aoti_load_package(path)


LOADERS: dict[str, Loader] = {
    "torchscript": torch.jit.load,
    "pt2": lambda path: torch.export.load(path).module(),
    "package": package,
}


def run(load: Loader, path: str, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor] | str:
    """The outputs of one file, or why there are none."""
    try:
        outputs = load(path)(**inputs)
        if isinstance(outputs, dict):
            outputs = list(outputs.values())
        several = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return [output.detach() for output in several]  # a model with weights gives a gradient too
    except Exception as error:
        return str(error)


def to_package(path: str, package: str) -> str | None:
    """Let AOTInductor make a package of a program of `torch.export`; why it cannot, where it cannot."""
    import torch._inductor

    try:
        torch._inductor.aoti_compile_and_package(torch.export.load(path), package_path=package)
    except Exception as error:
        return str(error)
    return None


if __name__ == "__main__":
    what, jobs, results = sys.argv[1:]
    do = to_package if what == "compile" else functools.partial(run, functools.cache(LOADERS[what]))
    torch.save([do(*job) for job in torch.load(jobs)], results)
    assert "exportable_losses" not in sys.modules
