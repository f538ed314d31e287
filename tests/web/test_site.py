"""The folder of static files, its server, and where onnxruntime-web comes from. No JavaScript runs."""

import contextlib
import http.client
import io
import json
import os
import re
import socket
import struct
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from web_cases import ROWS, listed

from exportable_losses.export.checking.web import npm
from exportable_losses.export.checking.web import site as site_
from exportable_losses.export.checking.web.site import PAGE, files_of, server, write_site


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """In place of onnxruntime-web: nothing runs it here."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in (npm.LIBRARY, npm.WASM):
        (folder / name).write_text(f"in place of {name}")
    return folder


@pytest.fixture
def site(graphs: Path, library: Path, tmp_path: Path) -> Path:
    write_site(listed(graphs), library, tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def get(site: Path) -> Iterator[Callable[..., tuple[bytes, dict[str, str]]]]:
    """What the server gives for a path: the bytes and the headers."""
    with server(site, 0) as serving:
        threading.Thread(target=serving.serve_forever, args=[0.01], daemon=True).start()

        def call(path: str, **headers: str) -> tuple[bytes, dict[str, str]]:
            request = urllib.request.Request(
                f"http://127.0.0.1:{serving.server_port}/{path}", headers=headers
            )
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.read(), dict(answer.headers)

        yield call
        serving.shutdown()


def test_each_graph_is_there_with_its_test_data_in_order(site: Path, graphs: Path) -> None:
    cases = json.loads((site / "cases.json").read_text())
    assert sorted(case["row"] for case in cases) == sorted(ROWS)
    for case in cases:
        source = graphs / case["row"]
        assert (site / case["graph"]).read_bytes() == (source / f"{case['row']}.onnx").read_bytes()
        for kind, files in (("input", case["inputs"]), ("output", case["outputs"])):
            there = len(list(source.glob(f"test_data_set_0/{kind}_*.pb")))
            assert [Path(name).name for name in files] == [f"{kind}_{i}.pb" for i in range(there)]
            for name in files:
                assert (site / name).read_bytes() == (
                    source / "test_data_set_0" / Path(name).name
                ).read_bytes()


def test_a_name_may_be_anything(graphs: Path, library: Path, tmp_path: Path) -> None:
    (graphs / "ctc_loss").rename(graphs / "a loss, #1 ü")
    write_site(listed(graphs), library, tmp_path / "site")
    cases = {case["row"]: case for case in json.loads((tmp_path / "site" / "cases.json").read_text())}
    address = cases["a loss, #1 ü/ctc_loss"]["graph"]
    assert re.fullmatch(r"[\w/.%,]+", address, re.ASCII)
    assert (tmp_path / "site" / unquote(address)).is_file()


def test_every_set_of_test_data_is_a_case(graphs: Path, library: Path, tmp_path: Path) -> None:
    (graphs / "PitWrapper" / "test_data_set_0").rename(graphs / "PitWrapper" / "test_data_set_7")
    (graphs / "ctc_loss" / "test_data_set_0").rename(graphs / "PitWrapper" / "test_data_set_9")
    write_site(listed(graphs), library, tmp_path / "site")
    cases = json.loads((tmp_path / "site" / "cases.json").read_text())
    several = [case for case in cases if case["row"] == "PitWrapper"]
    assert ["set_7" in several[0]["inputs"][0], "set_9" in several[1]["inputs"][0]] == [True, True]
    assert "ctc_loss" not in [case["row"] for case in cases]


def test_the_page_names_no_other_server() -> None:
    for path in PAGE.iterdir():
        assert "://" not in path.read_text(encoding="utf-8"), path
    assert "default-src 'self'" in (PAGE / "index.html").read_text(encoding="utf-8")


def test_what_the_page_loads_is_there(site: Path) -> None:
    for path in [*site.glob("*.js"), site / "index.html"]:
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"""(?:src|href)="([\w./-]+)"|(?:from |import\()"([^"]+)\"""", text)
        for name in (a or b for a, b in loaded):
            assert (site / name).is_file(), (path.name, name)


def test_the_page_is_quick_to_load(site: Path) -> None:
    """All but the library, which is loaded by the first run."""
    assert sum(path.stat().st_size for path in site.iterdir() if path.is_file()) < 40_000


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("", "text/html"),
        ("page.js", "text/javascript"),
        ("style.css", "text/css"),
        ("cases.json", "application/json"),
        (f"onnxruntime-web/{npm.WASM}", "application/wasm"),
        ("onnxruntime-web/ort.wasm.bundle.min.js", "text/javascript"),
        ("graphs/ctc_loss/ctc_loss.onnx", ""),
    ],
)
def test_the_server_gives_files_as_browsers_want_them(get, site: Path, path: str, kind: str) -> None:
    body, headers = get(path)
    assert body == (site / (path or "index.html")).read_bytes()
    assert headers["Content-type"].startswith(kind)
    assert headers["Cache-Control"] == "no-cache"  # a browser asks again, and is told that nothing changed
    with pytest.raises(urllib.error.HTTPError, match="304"):
        get(path, **{"If-Modified-Since": headers["Last-Modified"]})


@pytest.mark.parametrize("path", ["nowhere", "../dist/" + npm.LIBRARY, "%2e%2e/dist/" + npm.LIBRARY])
def test_the_server_gives_nothing_else(get, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(path)


def test_the_server_is_for_this_machine_unless_told_otherwise(site: Path) -> None:
    with server(site, 0) as serving:
        assert serving.server_address[0] == "127.0.0.1"
        with pytest.raises(OSError, match="in use"):
            server(site, serving.server_port)


@pytest.fixture
def serving(site: Path) -> Iterator[ThreadingHTTPServer]:
    with server(site, 0) as serving:
        threading.Thread(target=serving.serve_forever, args=[0.01], daemon=True).start()
        yield serving
        serving.shutdown()


def ask(serving: ThreadingHTTPServer, path: str, host: str | None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", serving.server_port, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    return connection.getresponse()


def test_a_browser_takes_a_file_for_what_it_is_said_to_be(serving: ThreadingHTTPServer) -> None:
    (policy,) = re.findall(r'Policy" content="([^"]+)"', (PAGE / "index.html").read_text(encoding="utf-8"))
    for path in ("/", "/page.js", "/nowhere"):
        headers = ask(serving, path, "localhost").headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"] == f"{policy}; frame-ancestors 'none'"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("192.168.1.7", 200),
        ("[::1]:8000", 200),
        ("localhost:8000", 200),
        (f"{socket.gethostname()}:8000", 200),
        (None, 200),
        ("rebound.example:8000", 421),
        ("127.0.0.1.rebound.example", 421),
        ("", 421),
        ("[", 421),
    ],
)
def test_a_name_of_another_site_gets_nothing(
    host: str | None, status: int, serving: ThreadingHTTPServer
) -> None:
    """Which a name server may have turned to this address while its page was open."""
    assert ask(serving, "/cases.json", host).status == status


@pytest.mark.parametrize("path", ["/%00", "/graphs/%00.onnx", "/" + "a" * 5000, "/%ff%fe", "/?%00"])
def test_a_path_that_no_file_can_have_is_not_found(
    path: str, serving: ThreadingHTTPServer, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ask(serving, path, None).status == (200 if path == "/?%00" else 404)
    assert capfd.readouterr().err == ""


def test_slow_clients_hold_no_threads(
    serving: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor do those that send a byte now and then; whoever else asks is answered meanwhile."""
    monkeypatch.setattr(site_, "_SECONDS", 1.0)
    before, address = threading.active_count(), ("127.0.0.1", serving.server_port)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(60)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\n")
        assert ask(serving, "/page.js", None).status == 200
        end = time.monotonic() + 10
        while threading.active_count() > before + 1 and time.monotonic() < end:
            time.sleep(0.2)
            for client in clients[:20]:
                with contextlib.suppress(OSError):
                    client.sendall(b"X")
        assert time.monotonic() < end
    assert capfd.readouterr().err == ""


def test_clients_that_leave_are_no_errors(
    serving: ThreadingHTTPServer, site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (site / "large").write_bytes(bytes(30 << 20))
    for _ in range(3):
        client = socket.create_connection(("127.0.0.1", serving.server_port))
        client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        client.recv(100)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # at once, what is under way thrown away
    assert ask(serving, "/page.js", None).status == 200
    time.sleep(0.5)
    assert capfd.readouterr().err == ""


def test_many_may_ask_at_once(site: Path) -> None:
    with server(site, 0) as busy, contextlib.ExitStack() as stack:  # which accepts nobody yet
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", busy.server_port), timeout=0.9))


def test_the_eleventh_input_is_behind_the_tenth(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"input_{i}.pb").touch()
    assert [path.name for path in files_of(tmp_path, "input")] == [f"input_{i}.pb" for i in range(12)]
    assert files_of(tmp_path, "output") == []


# --- packages of npm


def package(folder: Path, version: str = "1.2.3") -> Path:
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"version": version}))
    return folder


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with no package and nothing in the cache."""
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    monkeypatch.delenv("NODE_PATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_a_package_is_found_where_node_would(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert npm.find("onnxruntime-web") is None
    fetched = package(nowhere / "cache" / "exportable-losses" / f"npm-{npm.VERSION}" / "onnxruntime-web")
    assert npm.find("onnxruntime-web") == fetched
    above = package(nowhere / "here" / "node_modules" / "onnxruntime-web", "1.2.4")
    assert npm.find("onnxruntime-web") == above
    named = package(nowhere / "named" / "onnxruntime-web", "1.2.5")
    monkeypatch.setenv("NODE_PATH", os.pathsep.join([str(nowhere / "empty"), str(named.parent)]))
    assert npm.find("onnxruntime-web") == named
    assert npm.version(named) == "1.2.5"


def npm_that(folder: Path, does: str) -> None:
    """A program called npm; the last word that it is given is a folder."""
    folder.mkdir()
    script = folder / "npm"
    script.write_text(f"#!/bin/sh\nfor last; do :; done\n{does}\n")
    script.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="the npm that stands in is a shell script")
def test_what_is_fetched_is_what_is_needed(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = nowhere / "there.tgz"
    needed = ["package.json", f"dist/{npm.LIBRARY}", f"dist/{npm.WASM}", "dist/ort-wasm-simd-threaded.mjs"]
    with tarfile.open(archive, "w:gz") as tar:
        for name in [*needed, "dist/much.more.js", "../outside"]:
            body = json.dumps({"version": "1.2.3", "name": name}).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    npm_that(nowhere / "bin", f'echo "$@" > {nowhere}/said; cp {archive} "$last/"')
    monkeypatch.setenv("PATH", f"{nowhere / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for _ in range(2):  # the second replaces the first
        assert npm.fetch() == npm.find("onnxruntime-web")
    got = npm.fetch()
    assert (nowhere / "said").read_text().startswith(f"pack onnxruntime-web@{npm.VERSION} ")
    files = [path for path in got.parent.rglob("*") if path.is_file()]
    assert sorted(path.relative_to(got).as_posix() for path in files) == sorted(needed)
    assert json.loads((got / "dist" / npm.WASM).read_text())["name"] == f"dist/{npm.WASM}"


@pytest.mark.skipif(os.name == "nt", reason="the npm that stands in is a shell script")
def test_where_npm_cannot_the_cache_is_as_before(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = package(nowhere / "cache" / "exportable-losses" / f"npm-{npm.VERSION}" / "onnxruntime-web")
    npm_that(nowhere / "bin", 'echo "npm warn old" >&2; echo "npm error code ENOTFOUND" >&2; exit 3')
    monkeypatch.setenv("PATH", f"{nowhere / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(OSError, match="npm pack ended with 3: npm error code ENOTFOUND"):
        npm.fetch()
    assert npm.find("onnxruntime-web") == before
    assert os.listdir(before.parent) == ["onnxruntime-web"]
    monkeypatch.setenv("PATH", str(nowhere / "empty"))
    with pytest.raises(OSError, match="npm is not here"):
        npm.fetch()
