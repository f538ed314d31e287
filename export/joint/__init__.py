"""A model and a loss in one ONNX graph."""
