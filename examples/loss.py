"""A loss in Python, with numpy and onnxruntime alone. From the repository, after `make demo`:

.venv/bin/python examples/loss.py losses/ctc_loss/ctc_loss.onnx
"""

import sys

import numpy as np

from exportable_losses.runtime import LossSession

if len(sys.argv) != 2:
    sys.exit(f"usage: python {sys.argv[0]} ctc_loss.onnx")
ctc_loss = LossSession(sys.argv[1])
log_probs = np.full((1, 3, 4), np.log(0.25), np.float32)  # one item, three frames, four classes
targets, whole = np.array([[1, 2]]), np.ones(1, np.float32)
print(ctc_loss(log_probs=log_probs, targets=targets, input_lens=whole, target_lens=whole)["loss"])
