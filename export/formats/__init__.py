"""From a module to a file: TorchScript, ONNX, `torch.export`, ExecuTorch, and the test data beside it."""
