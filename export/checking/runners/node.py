"""onnxruntime-web (WASM) and onnxruntime-node under Node, all files in one process."""

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exportable_losses.runtime.graphs import external_data

from ...formats.errors import Absent, one_line
from ..web import npm
from ..web.site import files_of
from .face import Case, Outputs, Runner

SCRIPT = Path(npm.__file__).with_name("node.js")


def installed(package: str, flags: str = "") -> Path:
    """The folder of a package of npm, or `Absent`."""
    found = npm.find(package)
    if found is None:
        raise Absent(f"npm install {flags}{package}@{npm.VERSION}, here or where NODE_PATH points")
    return found


def decoded(outputs: dict[str, dict[str, Any]] | str) -> Outputs:
    """Arrays out of what the scripts make of outputs."""
    if isinstance(outputs, str):
        return one_line(outputs)
    return {
        name: np.frombuffer(base64.b64decode(each["data"]), each["type"]).reshape(each["dims"])
        for name, each in outputs.items()
    }


def _runner(package: str, library: str, about: str, flags: str = "") -> Runner:
    def version() -> str:
        if shutil.which("node") is None:
            raise Absent("node is not on the path: https://nodejs.org")
        return npm.version(installed(package, flags))

    def run(cases: Sequence[Case]) -> list[Outputs]:
        return _run(installed(package) / "dist" / library, cases)

    return Runner(package, ".onnx", about, version, run)


def _run(library: Path, cases: Sequence[Case]) -> list[Outputs]:
    if not cases:
        return []
    with tempfile.TemporaryDirectory() as folder:
        jobs = Path(folder) / "cases.json"
        jobs.write_text(json.dumps([_files(case) for case in cases]), encoding="utf-8")
        command = ["node", str(SCRIPT), str(library), str(jobs)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8"
        )
    found = []
    for line in done.stdout.splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # a runtime's own words, or a line cut off
            found.append(decoded(json.loads(line)))
    problem = f"node ended with {done.returncode}: {one_line(done.stderr)}"
    return found + [problem] * (len(cases) - len(found))


def _files(case: Case) -> dict[str, Any]:
    inputs = [str(path.resolve()) for path in files_of(case.data, "input")]
    data = [{"path": name, "file": str(file.resolve())} for name, file in external_data(case.path).items()]
    return {"graph": str(case.path.resolve()), "data": data, "inputs": inputs}


WEB = _runner("onnxruntime-web", npm.LIBRARY, "onnxruntime-web, WASM under Node")
NODE = _runner(
    "onnxruntime-node", "index.js", "ONNX Runtime under Node", "--ignore-scripts "
)  # whose script gets CUDA
