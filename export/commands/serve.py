"""The command `serve`: a page that runs graphs in the browser."""

import contextlib
import socket
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from .program import app, example, fail, wrong_call


@app.command("serve", epilog=example("serve losses --host 0.0.0.0"))
def serve_command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="A folder of exported graphs.",
            show_default=False,
        ),
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on. 0 picks a free one.")
    ] = 8000,
    host: Annotated[
        str, typer.Option(help="The address to listen on. 0.0.0.0 lets a phone on the same network connect.")
    ] = "127.0.0.1",
    out: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Write the page to this folder, for any web server, instead of serving it."
        ),
    ] = None,
    library: Annotated[
        Path | None,
        typer.Option(
            "--onnxruntime-web",
            metavar="DIST",
            exists=True,
            file_okay=False,
            help="The dist folder of the npm package onnxruntime-web.",
        ),
    ] = None,
) -> None:
    """Serve a page that runs every graph in a folder in the browser, on the test data beside it.

    The page shows how far each output is off and how long a run takes. It saves the results in the format of
    `validate --json`, for `compare`. It loads nothing from elsewhere, and nothing leaves the browser.

    onnxruntime-web is taken from node_modules, here or where NODE_PATH points. If it is not there, npm
    fetches it once.
    """
    from exportable_losses.runtime.testdata import data_sets, exported

    from ..checking.web.site import Graph, server, write_site

    files = exported(folder, ".onnx")
    graphs = [Graph(row, path, data) for row, path in files for data in data_sets(path)]
    for row in sorted({row for row, _ in files} - {graph.row for graph in graphs}):
        typer.echo(f"{row} has no test data beside it and is left out.", err=True)
    if not graphs:
        fail(f"DIR: got {folder}, expected a folder of .onnx files with test data beside them.", code=1)
    number = len({graph.row for graph in graphs})
    count = f"{number} {'graph' if number == 1 else 'graphs'}"
    dist = library or _library()
    if out is not None:
        with wrong_call("--out"):
            write_site(graphs, dist, out)
        typer.echo(f"Wrote {out}: {count}.")
        return
    with tempfile.TemporaryDirectory() as site:
        with wrong_call("--onnxruntime-web"):
            write_site(graphs, dist, Path(site))
        with wrong_call(f"--host {host} --port {port}"):
            serving = server(Path(site), port, host)
        name = socket.gethostname() if host == "0.0.0.0" else host
        typer.echo(f"Serving {count} at http://{name}:{serving.server_port}. Press Ctrl-C to stop.")
        with serving, contextlib.suppress(KeyboardInterrupt):
            serving.serve_forever()


def _library() -> Path:
    """The folder of onnxruntime-web, fetched where it is not here."""
    from ..checking.web import npm

    found = npm.find("onnxruntime-web")
    if found is None:
        typer.echo(f"Fetching onnxruntime-web {npm.VERSION} with npm.", err=True)
        get = f"npm install onnxruntime-web@{npm.VERSION}, or give its dist folder as --onnxruntime-web"
        with wrong_call(get):
            found = npm.fetch()
    return found / "dist"
