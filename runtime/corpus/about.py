"""What a run is of: the files, by what is in them, and where they are run."""

from __future__ import annotations

import hashlib
import os
import platform
from typing import Any

import numpy as np
import onnxruntime

import exportable_losses
from exportable_losses.library import about as about_library

from .scorer import Scorer


def about(scorer: Scorer) -> dict[str, Any]:
    """What is run, where."""
    graph, model = scorer.settings["graph"], scorer.settings["model"]
    described = {name: scorer.session.metadata.get(name) for name in ("row", "settings", "version")}
    return {
        "graph": {**_file(graph), **described},
        "model": None if model is None else {**_file(model), "inputs": scorer.settings["inputs"]},
        "size": scorer.batches.size,
        "environment": environment(scorer),
        **scorer.described,
    }


def environment(scorer: Scorer) -> dict[str, Any]:
    """What a number may depend on besides the files."""
    library = scorer.session.library
    return {
        "exportable_losses": exportable_losses.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "native library": False if library is None else about_library(library)["instruction set"],
        "machine": platform.machine(),
    }


def _file(path: str) -> dict[str, str]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while some := file.read(1 << 20):
            digest.update(some)
    return {"file": os.path.basename(path), "sha256": digest.hexdigest()}
