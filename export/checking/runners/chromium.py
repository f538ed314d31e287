"""onnxruntime-web in Chromium without a window: the page that `serve` gives."""

import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from ...formats.errors import Absent, one_line
from ..web import devtools, npm
from ..web.site import Graph, server, write_site
from .face import Case, Outputs, Runner
from .node import decoded, installed

_RUN = """
Promise.all([import("./page.js"), import("./tensors.js")]).then(async ([page, { encoded }]) => {
  await page.runAll();
  const outputs = (of) => Object.fromEntries(Object.entries(of).map(([name, each]) => [name, encoded(each)]));
  const found = page.found.map((each) => each.problem ?? outputs(each.outputs));
  return [found, document.getElementById("status").textContent];
})
"""


def _version() -> str:
    package, browser = installed("onnxruntime-web"), devtools.browser()
    if browser is None:
        raise Absent(f"none of {', '.join(devtools.BROWSERS)} is on the path")
    said = subprocess.run([browser, "--version"], capture_output=True, text=True).stdout
    number = next((word for word in said.split() if word[0].isdigit()), "of a version that it does not say")
    return f"{number}, onnxruntime-web {npm.version(package)}"


def _run(cases: Sequence[Case]) -> list[Outputs]:
    if not cases:
        return []
    graphs = [Graph(case.row, case.path, case.data) for case in cases]
    browser = devtools.browser()
    assert browser is not None  # it has a version
    with tempfile.TemporaryDirectory() as folder:
        write_site(graphs, installed("onnxruntime-web") / "dist", Path(folder))
        with server(Path(folder), 0) as serving:
            threading.Thread(target=serving.serve_forever, daemon=True).start()
            try:
                with devtools.page(browser) as page:
                    page.go(f"http://127.0.0.1:{serving.server_port}")
                    found, status = page.run(_RUN)
            except (OSError, RuntimeError) as error:
                found, status = [], one_line(error)
            finally:
                serving.shutdown()
    return [decoded(each) for each in found] + [status] * (len(cases) - len(found))


RUNNER = Runner("chromium", ".onnx", "onnxruntime-web in Chromium", _version, _run)
