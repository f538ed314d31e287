import os
import shutil
from pathlib import Path

import exports
import pytest
from corpora import ROWS

from exportable_losses import catalog

os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # as `cluster` has it, before a test loads Ray


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A graph of each of `ROWS`."""
    folder = tmp_path_factory.mktemp("graphs")
    for row, settings in ROWS.items():
        shutil.copy(exports.onnx(catalog.get(row).module(**settings)), folder / f"{row}.onnx")
    return {row: folder / f"{row}.onnx" for row in ROWS}
