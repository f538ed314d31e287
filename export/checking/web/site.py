"""A folder of static files that runs exported graphs in a browser, and a server for it."""

import json
import shutil
from collections.abc import Iterable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from exportable_losses import runtime

from .npm import LIBRARY, WASM

PAGE = Path(__file__).parent / "page"
STYLE = Path(runtime.__file__).parent / "corpus" / "pages" / "style.css"  # that of the other pages


class Graph(NamedTuple):
    """A graph and one set of its test data.

    Args:
        row: what it is called.
        path: the file.
        data: the folder of the test data.
    """

    row: str
    path: Path
    data: Path


def write_site(graphs: Iterable[Graph], library: Path, folder: Path) -> None:
    """Write the page, what it runs and what runs it to `folder`, over what has the same names there.

    Args:
        graphs: what it runs.
        library: the folder ``dist`` of the npm package onnxruntime-web.
        folder: may be copied to any web server.

    Raises:
        OSError: something is not there, or cannot be written.
    """
    for path in (*PAGE.iterdir(), STYLE):
        _copy(path, folder / path.name)
    # servers that do not know .mjs send it as no script
    _copy(library / LIBRARY, folder / "onnxruntime-web" / Path(LIBRARY).with_suffix(".js"))
    _copy(library / WASM, folder / "onnxruntime-web" / WASM)
    cases = [_case(graph, folder) for graph in graphs]
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")


def _case(graph: Graph, folder: Path) -> dict[str, str | list[str]]:
    """Its files' addresses, once they are copied."""
    place = Path("graphs") / graph.row
    files = {"graph": [graph.path], "inputs": files_of(graph.data, "input")}
    files["outputs"] = files_of(graph.data, "output")
    addresses = {}
    for kind, paths in files.items():
        names = [place / ("" if kind == "graph" else graph.data.name) / path.name for path in paths]
        for path, name in zip(paths, names, strict=True):
            _copy(path, folder / name)
        addresses[kind] = [quote(name.as_posix()) for name in names]
    return {"row": graph.row, **addresses, "graph": addresses["graph"][0]}


def files_of(data: Path, kind: str) -> list[Path]:
    """``input_0.pb`` … or ``output_0.pb`` …, in order."""
    return [data / f"{kind}_{i}.pb" for i in range(len(list(data.glob(f"{kind}_*.pb"))))]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


class _Handler(SimpleHTTPRequestHandler):
    # as a browser insists; a machine's own tables may say otherwise
    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".css": "text/css",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        """Files may have been exported anew: a browser asks whether they have."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def server(folder: Path, port: int, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """What serves a folder once its ``serve_forever`` is called.

    Raises:
        OSError: the port is taken.
    """
    return ThreadingHTTPServer((host, port), partial(_Handler, directory=str(folder)))
