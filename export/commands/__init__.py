"""The commands of `exportable-losses`, a module each. Each loads what it needs only when it runs."""

# ruff: noqa: F401, I001 - a module brings its command; this is the order in which --help lists them
from . import list, export, attach, validate, serve, score, align, compare, report, plot, bench, doctor
from .program import app

__all__ = ["app"]
