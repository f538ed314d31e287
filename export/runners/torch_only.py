"""Run TorchScript files where nothing but torch is known.

`validate` hands this text to a fresh ``python -c``, with a file of jobs (paths and inputs) and a
file to write the results to: a list of tensors each, or the message of what went wrong.
"""

import sys

import torch


def run(path: str, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor] | str:
    """The outputs of one file, or why there are none."""
    try:
        outputs = torch.jit.load(path)(**inputs)
    except Exception as error:
        return str(error)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


if __name__ == "__main__":
    torch.save([run(path, inputs) for path, inputs in torch.load(sys.argv[1])], sys.argv[2])
    assert "exportable_losses" not in sys.modules
