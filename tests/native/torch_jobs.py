"""Runs our operators where the package is not known: ``python torch_jobs.py LIBRARY JOBS RESULTS``.

A job has an operator or a TorchScript file, its arguments, and weights where a gradient is wanted; a
result is the outputs and that gradient, or the message of what went wrong.
"""

import sys
from typing import Any

import torch


def run(callee: str, arguments: list[Any], weights: torch.Tensor | None, threads: int) -> Any:
    torch.set_num_threads(threads)
    try:
        function = (
            torch.jit.load(callee) if callee.endswith(".pt") else getattr(torch.ops.exportable_losses, callee)
        )
        if weights is None:
            return function(*arguments)
        scores = arguments[0].detach().requires_grad_()
        outputs = function(scores, *arguments[1:])
        if isinstance(outputs, tuple):  # a gradient, of which another is asked
            outputs[1].sum().backward()
        (outputs * weights).sum().backward()
        return outputs.detach(), scores.grad
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    library, jobs, results = sys.argv[1:]
    if library:
        torch.ops.load_library(library)
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("exportable_losses::")]
    operators = [getattr(torch.ops.exportable_losses, name.partition("::")[2]).default for name in names]
    schemas = sorted(str(operator._schema) for operator in operators)
    torch.save((schemas, {name: run(*job) for name, job in torch.load(jobs).items()}), results)
    assert "exportable_losses" not in sys.modules
