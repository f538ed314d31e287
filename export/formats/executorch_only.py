"""Lower and run programs where ExecuTorch is: this text is handed to the Python of that environment.

``run JOBS RESULTS`` runs ``.pte`` files: a file of jobs (paths and inputs in order) in; a list of tensors
each, or the message of what went wrong, out. ``lower JOBS RESULTS ARCHIVE FILE`` makes one of an archive of
`torch.export` before that.
``version`` prints that of ExecuTorch.
"""

import sys
from importlib import metadata
from pathlib import Path

import torch


def lower(archive: str, path: str) -> None:
    """The program with ExecuTorch's portable kernels.

    Raises:
        NotImplementedError: it has none for an operator. ExecuTorch itself says so when a file is loaded.
    """
    from executorch.exir import EdgeCompileConfig, to_edge
    from executorch.runtime import Runtime

    config = EdgeCompileConfig(_check_ir_validity=False)  # the check does not know torch.sym_min
    program = to_edge(torch.export.load(archive), compile_config=config).to_executorch()
    [plan] = program.executorch_program.execution_plan
    called = {f"{each.name}.{each.overload}".removesuffix(".") for each in plan.operators}
    missing = called - Runtime.get().operator_registry.operator_names
    if missing:
        raise NotImplementedError(f"ExecuTorch has no kernel of {', '.join(sorted(missing))}")
    Path(path).write_bytes(program.buffer)


def run(path: str, inputs: list[torch.Tensor]) -> list[torch.Tensor] | str:
    """The outputs of one file, or why there are none."""
    from executorch.runtime import Runtime

    try:
        method = Runtime.get().load_program(path).load_method("forward")
        return [output.clone() for output in method.execute(inputs)]
    except Exception as error:
        return str(error)


if __name__ == "__main__":
    command, *files = sys.argv[1:]
    if command == "version":
        print(metadata.version("executorch"))
    else:
        jobs, results, *program = files
        if command == "lower":
            lower(*program)
        torch.save([run(path, inputs) for path, inputs in torch.load(jobs)], results)
