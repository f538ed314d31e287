"""What the tests of JavaScript need: Node, Chromium, onnxruntime-web, and graphs. Each may be absent."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import exports
import pytest
from web_cases import ROWS, listed

from exportable_losses import catalog
from exportable_losses.export.checking.web import devtools, npm
from exportable_losses.export.checking.web.site import server, write_site


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not on the path")
    return found


@pytest.fixture(scope="session")
def library() -> Path:
    """The folder of onnxruntime-web."""
    found = npm.find("onnxruntime-web")
    if found is None:
        pytest.skip("onnxruntime-web is not here: `exportable-losses serve` gets it, or npm install")
    return found / "dist"


@pytest.fixture(scope="session")
def browser() -> str:
    found = devtools.browser()
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(devtools.BROWSERS)} is on the path")
    return found


@pytest.fixture(scope="session")
def exported_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the graphs of `ROWS`; only to be read."""
    folder = tmp_path_factory.mktemp("graphs")
    for row in ROWS:
        shutil.copytree(exports.onnx(catalog.get(row).module()).parent, folder / row)
        (folder / row / "model.onnx").rename(folder / row / f"{row}.onnx")
    return folder


@pytest.fixture
def graphs(exported_graphs: Path, tmp_path: Path) -> Path:
    """The same, to be broken."""
    return shutil.copytree(exported_graphs, tmp_path / "losses")


@pytest.fixture
def address(graphs: Path, library: Path, tmp_path: Path) -> Iterator[str]:
    """Where the page about `graphs` is served; what is in ``tmp_path / "site"`` may be changed."""
    write_site(listed(graphs), library, tmp_path / "site")
    with server(tmp_path / "site", 0) as serving:
        threading.Thread(target=serving.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/"
        serving.shutdown()
