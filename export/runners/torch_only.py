"""Run files of torch where nothing but torch is known.

`torch_alone` hands this text to a fresh ``python -c``, with how to load a file, a file of jobs (paths and
inputs) and a file to write the results to: a list of tensors each, or the message of what went wrong.
"""

import functools
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch


def compiled(path: str) -> Callable[..., Any]:
    """A program of `torch.export`, compiled ahead of time by AOTInductor."""
    import torch._inductor

    with tempfile.NamedTemporaryFile(suffix=".pt2") as package:
        program = torch.export.load(path)
        torch._inductor.aoti_compile_and_package(program, package_path=package.name)
        return torch._inductor.aoti_load_package(package.name)


LOADERS: dict[str, Callable[[str], Callable[..., Any]]] = {
    "torchscript": torch.jit.load,
    "pt2": lambda path: torch.export.load(path).module(),
    "aotinductor": compiled,
}


def run(
    load: Callable[[str], Callable[..., Any]], path: str, inputs: dict[str, torch.Tensor]
) -> list[torch.Tensor] | str:
    """The outputs of one file, or why there are none."""
    try:
        outputs = load(path)(**inputs)
    except Exception as error:
        return str(error)
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


if __name__ == "__main__":
    load = functools.cache(LOADERS[sys.argv[1]])
    torch.save([run(load, path, inputs) for path, inputs in torch.load(sys.argv[2])], sys.argv[3])
    assert "exportable_losses" not in sys.modules
