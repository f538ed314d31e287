"""Run every row on every runtime: writes docs/runtimes.json, and the table in docs/runtimes.md.

All runtimes have to be here, since a column would be lost: `exportable-losses validate DIR --on all` says
what to install for each.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import rows

from exportable_losses.export.checking import runtimes
from exportable_losses.export.checking.runners import RUNNERS
from exportable_losses.export.checking.validate import validate

ROOT = Path(__file__).parent.parent
FILES = ROOT / "build" / "record"
FORMATS = "onnx,torchscript,pt2,executorch"


def main() -> None:
    """Export all, run all, write both."""
    shutil.rmtree(FILES, ignore_errors=True)  # nothing that is not exported now has run
    cli = [sys.executable, "-m", "exportable_losses.export.cli"]
    subprocess.run([*cli, "export", "--all", "--format", FORMATS, "--out", str(FILES)], check=False)
    found = validate(FILES, list(RUNNERS))
    if found.absent:
        sys.exit("\n".join(f"{name} is not here: {why}" for name, why in found.absent.items()))
    runtimes.write_json(found, FILES, rows.RECORD)
    rows.main()


if __name__ == "__main__":
    main()
