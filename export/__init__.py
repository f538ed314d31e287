"""From a module to files: TorchScript, ONNX, and the test data that proves them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
