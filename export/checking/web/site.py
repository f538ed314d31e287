"""A folder of static files that runs exported graphs in a browser, and a server for it."""

import contextlib
import io
import json
import shutil
import socket
import sys
import time
from collections.abc import Iterable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from exportable_losses import runtime
from exportable_losses.runtime.graphs import external_data

from .npm import LIBRARY, WASM

PAGE = Path(__file__).parent / "page"
STYLE = Path(runtime.__file__).parent / "pages" / "style.css"  # that of the other pages


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


def _case(graph: Graph, folder: Path) -> dict[str, Any]:
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
    data = []
    for beside, weights in external_data(graph.path).items():
        _copy(weights, folder / place / beside)
        data.append({"path": beside, "file": quote((place / beside).as_posix())})
    return {"row": graph.row, **addresses, "graph": addresses["graph"][0], "data": data}


def files_of(data: Path, kind: str) -> list[Path]:
    """``input_0.pb`` … or ``output_0.pb`` …, in order."""
    return [data / f"{kind}_{i}.pb" for i in range(len(list(data.glob(f"{kind}_*.pb"))))]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


_SECONDS = 10.0  # that a client may take to ask, and for each part of the answer
# that of the page itself, where a browser reads no page: no other site may frame it or be loaded by it
_POLICY = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src data:; frame-ancestors 'none'"


class _Request(io.RawIOBase):
    """What a client sends, as long as its time lasts: one byte now and then does not make it longer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._end = connection, time.monotonic() + _SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client took too long to ask")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(SimpleHTTPRequestHandler):
    timeout = _SECONDS
    server: "_Server"
    # as a browser insists; a machine's own tables may say otherwise
    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".css": "text/css",
        ".wasm": "application/wasm",
    }

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Request(self.connection))

    def send_head(self) -> Any:
        self.connection.settimeout(_SECONDS)
        if not self.server.knows(self.headers.get("Host")):
            # a name that another site has turned to this address, to read the page from there
            self.send_error(421, explain="This is not the host that the page is of.")
            return None
        try:
            return super().send_head()
        except ValueError:  # a path that no file can have
            self.send_error(404, "File not found")
            return None

    def end_headers(self) -> None:
        """Files may have been exported anew: a browser asks whether they have."""
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    name = ""  # that it was told to listen on
    request_queue_size = 128  # a page asks for many files at once, and so may several phones

    def knows(self, host: str | None) -> bool:
        """Whether a request is for this machine: by an address, which no name server decides, or its name."""
        if host is None:  # no browser
            return True
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        with contextlib.suppress(ValueError):
            return bool(ip_address(name))
        own = socket.gethostname().lower()
        return name in {
            "localhost",
            own,
            f"{own.partition('.')[0]}.local",
            socket.getfqdn().lower(),
            self.name,
        }

    def handle_error(self, *request: Any) -> None:
        """A client that leaves, or is too slow, is no error."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(*request)


def server(folder: Path, port: int, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """What serves a folder once its ``serve_forever`` is called.

    Raises:
        OSError: the port is taken.
    """
    serving = _Server((host, port), partial(_Handler, directory=str(folder)))
    serving.name = host.lower()
    return serving
