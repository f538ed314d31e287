"""Our operators as ONNX nodes: what torch becomes, and the bodies in standard operators."""
