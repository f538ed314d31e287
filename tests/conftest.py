"""Settings of all tests."""

import torch

torch.set_num_threads(1)  # the workers of pytest-xdist share the cores
