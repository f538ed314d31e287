"""`exportable_losses.speechbrain`, beside the others."""

from ..speechbrain import *  # noqa: F403
from ..speechbrain import __all__  # noqa: F401
