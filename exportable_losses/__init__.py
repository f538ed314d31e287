"""Losses and metrics for speech models that compute the same number everywhere.

Importing this package is cheap: torch loads when a module is first touched.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
