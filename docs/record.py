"""Run every row on every runtime: writes docs/runtimes.json, and the table in docs/runtimes.md.

With the names of rows, only these are run, and what is recorded of others stays. All runtimes have to be
here, since a column would be lost: `exportable-losses validate DIR --on all` says what to install for each.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    chosen = sys.argv[1:]
    cli = [sys.executable, "-m", "exportable_losses.export.cli"]
    subprocess.run(
        [*cli, "export", *(chosen or ["--all"]), "--format", FORMATS, "--out", str(FILES)], check=False
    )
    found = validate(FILES, list(RUNNERS))
    if found.absent:
        sys.exit("\n".join(f"{name} is not here: {why}" for name, why in found.absent.items()))
    before = json.loads(rows.RECORD.read_text(encoding="utf-8"))
    runtimes.write_json(found, FILES, rows.RECORD)
    if chosen:
        _keep_others(before)
    rows.main()


def _keep_others(before: dict[str, Any]) -> None:
    """Put the rows that were recorded before beside those that have run now, on the same runtimes."""
    now = json.loads(rows.RECORD.read_text(encoding="utf-8"))
    if now["runtimes"] != before["runtimes"]:
        rows.RECORD.write_text(json.dumps(before, indent=1) + "\n", encoding="utf-8")
        sys.exit("runtimes: got other versions than those of the rows that would stay; record all")
    for part in ("rows", "graphs"):
        now[part] = dict(sorted((before[part] | now[part]).items()))
    rows.RECORD.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
