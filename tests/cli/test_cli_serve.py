"""`serve` writes the page, or serves it; `compare` takes what it saves."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from exportable_losses.export.checking.web import npm


@pytest.fixture
def library(tmp_path):
    """In place of onnxruntime-web: nothing runs it here."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in (npm.LIBRARY, npm.WASM):
        (folder / name).write_text(f"in place of {name}")
    return folder


def test_out_is_a_folder_for_any_web_server(cli, graphs, library, tmp_path):
    result = cli("serve", graphs, "--out", tmp_path / "site", "--onnxruntime-web", library)
    assert (result.exit_code, result.stdout) == (0, f"Wrote {tmp_path / 'site'}: 2 graphs.\n")
    cases = json.loads((tmp_path / "site" / "cases.json").read_text())
    assert [case["row"] for case in cases] == ["PitWrapper", "ctc_loss"]
    assert (tmp_path / "site" / "index.html").is_file()
    assert cli("serve", graphs, "--out", tmp_path / "site", "--onnxruntime-web", library).exit_code == 0


def test_it_serves_until_it_is_interrupted(exported, library):
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # who started the tests may have it ignored
from exportable_losses.export.cli import main
main()
"""
    words = ["serve", exported, "--port", "0", "--onnxruntime-web", library]
    command = [sys.executable, "-u", "-c", code, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            (port,) = re.findall(
                r"^Serving 2 graphs at http://127\.0\.0\.1:(\d+)\. Press Ctrl-C to stop\.$", said
            )
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
            connection.request("GET", "/")
            assert b"<title>exportable-losses in this browser</title>" in connection.getresponse().read()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_a_graph_without_test_data_is_left_out_and_named(cli, graphs, library, tmp_path):
    shutil.rmtree(graphs / "ctc_loss" / "test_data_set_0")
    words = ("serve", graphs, "--out", tmp_path / "site", "--onnxruntime-web", library)
    result = cli(*words)
    assert "ctc_loss has no test data beside it and is left out." in result.stderr
    assert result.stdout == f"Wrote {tmp_path / 'site'}: 1 graph.\n"
    shutil.rmtree(graphs / "PitWrapper" / "test_data_set_0")
    result = cli(*words)
    assert (result.exit_code, "expected a folder of .onnx files with test data" in result.stderr) == (1, True)


def test_a_folder_that_is_not_onnxruntime_web(cli, graphs, tmp_path):
    (tmp_path / "empty").mkdir()
    for words in (["--out", tmp_path / "site"], ["--port", "0"]):
        result = cli("serve", graphs, "--onnxruntime-web", tmp_path / "empty", *words)
        assert result.exit_code == 2
        assert npm.LIBRARY in result.stderr


def test_without_onnxruntime_web_it_says_where_to_get_it(cli, graphs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODE_PATH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    result = cli("serve", graphs, "--out", tmp_path / "site")
    assert result.exit_code == 2
    wanted = f"npm install onnxruntime-web@{npm.VERSION}, or give its dist folder as --onnxruntime-web"
    assert f"{wanted}: npm is not here" in result.stderr


def test_a_port_that_is_taken(cli, graphs, library):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = cli("serve", graphs, "--port", port, "--onnxruntime-web", library)
    assert (result.exit_code, f"--host 127.0.0.1 --port {port}: " in result.stderr) == (2, True)


# --- what it saves, beside what `validate --json` writes


def recorded(path: Path, name: str, **rows: object) -> Path:
    cells = {row: {name: {"ulp": 1.5, "absolute": 1e-7} | cell} for row, cell in rows.items()}
    path.write_text(json.dumps({"format": 1, "runtimes": {name: "1.2"}, "absent": {}, "rows": cells}))
    return path


def test_compare_puts_runtimes_beside_each_other(cli, graphs, tmp_path):
    here = tmp_path / "here.json"
    assert cli("validate", graphs, "--on", "onnxruntime", "--json", here).exit_code == 0
    phone = recorded(
        tmp_path / "phone.json", "browser", ctc_loss={"milliseconds": 0.2}, PitWrapper={"ulp": "inf"}
    )
    result = cli("compare", here, phone)
    assert result.exit_code == 0, result.output
    assert re.search(r"^row +onnxruntime +browser", result.stdout, re.MULTILINE)
    assert re.search(r"^ctc_loss +[\d.]+ +1.5 *$", result.stdout, re.MULTILINE)
    assert re.search(r"^PitWrapper +[\d.]+ +inf *$", result.stdout, re.MULTILINE)
    assert "browser: 1.2\n" in result.stdout


def test_compare_names_what_is_off_and_what_is_not_there(cli, tmp_path):
    one = recorded(tmp_path / "one.json", "browser", ctc_loss={}, l1_loss={})
    two = recorded(tmp_path / "two.json", "browser", ctc_loss={"problem": "loss: off by 1"})
    result = cli("compare", one, two)
    assert result.exit_code == 1
    assert f"ctc_loss (browser ({two})) loss: off by 1\n" in result.stdout
    assert f"l1_loss (browser ({two})): missing\n" in result.stdout
    missing = cli("compare", one, recorded(two, "browser", ctc_loss={}))
    assert (missing.exit_code, cli("compare", one, two, "--allow-missing").exit_code) == (1, 0)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "runtimes": {}, "rows": 3}']
)
def test_compare_says_which_file_is_something_else(cli, tmp_path, text):
    good, bad = recorded(tmp_path / "good.json", "browser", ctc_loss={}), tmp_path / "bad.json"
    bad.write_text(text)
    result = cli("compare", good, bad)
    assert (result.exit_code, f"{bad}: this is not what `validate --json` writes" in result.stderr) == (
        2,
        True,
    )


def test_compare_takes_no_file_beside_a_folder(cli, tmp_path):
    good = recorded(tmp_path / "good.json", "browser", ctc_loss={})
    assert cli("compare", good, tmp_path).exit_code == 2


def test_a_server_for_the_network_names_this_machine(cli, graphs, library, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", interrupted)
    words = ("serve", graphs, "--port", "0", "--onnxruntime-web", library)
    for host, name in (("0.0.0.0", socket.gethostname()), ("127.0.0.1", "127.0.0.1")):
        result = cli(*words, "--host", host)
        assert re.match(rf"Serving 2 graphs at http://{re.escape(name)}:\d+\. ", result.stdout), result.output
