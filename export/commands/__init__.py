"""The commands of `exportable-losses`. Each loads what it needs only when it runs."""

from . import losses, web, scoring, machine  # noqa: I001 - the order in which --help lists them
from .program import app

__all__ = ["app", "losses", "machine", "scoring", "web"]
