"""The page in a real browser: opened, run, read, saved."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from web_cases import ROWS

from exportable_losses.export.checking.runtimes import beside, to_json, write_json
from exportable_losses.export.checking.validate import validate
from exportable_losses.export.checking.web import devtools

FINISHED = """new Promise((resolve) => {
  const watch = setInterval(() => {
    if (document.getElementById("run").ariaDisabled || !document.querySelector("#table tbody")) return;
    clearInterval(watch);
    resolve(document.getElementById("status").textContent);
  }, 20);
})"""
# rows, each a list of the texts of its cells, those that span several lines in each of them
TABLE = """[...document.querySelectorAll("#table tbody")].flatMap((body) => {
  const [first, ...others] = [...body.rows].map((row) => [...row.cells].map((cell) => cell.textContent));
  return [first, ...others.map((cells) => [...first.slice(0, 2), ...cells])];
})"""
# of each visible text: how much lighter it is than what is behind it
CONTRASTS = """[...document.querySelectorAll("body *")].filter((element) => element.checkVisibility()
    && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())).map((element) => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  let behind = element;
  while (parts(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const light = (colour) => parts(colour).slice(0, 3).reduce((sum, part, i) => {
    const value = part / 255;
    const linear = value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    return sum + [0.2126, 0.7152, 0.0722][i] * linear;
  }, 0);
  const style = getComputedStyle(element);
  const [a, b] = [light(style.color), light(getComputedStyle(behind).backgroundColor)];
  return [element.textContent.trim().slice(0, 30), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
})"""


@pytest.fixture(scope="module")
def page(browser: str) -> Iterator[devtools.Page]:
    with devtools.page(browser, seconds=60) as opened:
        yield opened


def go(page: devtools.Page, address: str) -> None:
    """Open the page, and wait until it can be used."""
    page.go(address)
    for _ in range(600):
        if not page.run("document.getElementById('run').disabled"):
            return
        time.sleep(0.05)
    raise AssertionError("the page is not ready")


def key(page: devtools.Page, name: str, **more: object) -> None:
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, **more)


def click(page: devtools.Page, button: str) -> None:
    x, y = page.run(
        f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])"
        f"(document.getElementById('{button}').getBoundingClientRect())"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def saved(page: devtools.Page, folder: Path) -> Path:
    """The file that the button saves."""
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    click(page, "save")
    for _ in range(200):
        if (folder / "browser.json").exists():
            return folder / "browser.json"
        time.sleep(0.05)
    raise AssertionError(f"nothing was saved in {list(folder.iterdir())}")


def test_open_run_read_save(page: devtools.Page, address: str, graphs: Path, tmp_path: Path) -> None:
    go(page, address)
    assert page.run("document.getElementById('status').textContent") == "4 graphs, not run yet."
    assert page.run("document.getElementById('save').disabled")
    assert not page.run("document.getElementById('results').checkVisibility()")
    click(page, "run")
    assert page.run(FINISHED) == "All 6 outputs of 4 graphs agree."

    rows = page.run(TABLE)
    here = to_json(validate(graphs, ["onnxruntime"]))["rows"]
    assert [row for row, *_ in rows] == [row for row in sorted(ROWS) for _ in range(1 + (row in ROWS[1::2]))]
    for row, ms, output, differs, ulp, verdict in rows:
        assert (0 < float(ms) < 10_000, verdict) == (True, "ok")
        assert output in ("loss", "rec_loss", "permutations", "mask")
        assert abs(float(ulp) - here[row]["onnxruntime"]["ulp"]) <= 4
        assert 0 <= float(differs) < 2e-5

    path = saved(page, tmp_path)
    write_json(validate(graphs, ["onnxruntime"]), graphs, tmp_path / "here.json")
    together = beside([tmp_path / "here.json", path])
    assert list(together["runtimes"]) == ["onnxruntime", "browser"]
    version = page.run("navigator.userAgent")
    assert together["runtimes"]["browser"] == f"onnxruntime-web {page.run(LIBRARY_VERSION)} in {version}"
    assert {row: set(cells) for row, cells in together["rows"].items()} == {
        row: {"onnxruntime", "browser"} for row in ROWS
    }
    for row, ms, *_ in rows:
        # three digits are shown; of a tie, as 0.8125 is, a browser shows the upper and Python the even one
        assert float(ms) == pytest.approx(together["rows"][row]["browser"]["milliseconds"], rel=0.005, abs=0)

    addresses = page.run("performance.getEntriesByType('resource').map(({ name }) => name)")
    assert len(addresses) > 20
    assert [name for name in addresses if not name.startswith((address, f"blob:{address}"))] == []


LIBRARY_VERSION = "import('./onnxruntime-web/ort.wasm.bundle.min.js').then((ort) => ort.env.versions.web)"


def test_what_is_off_is_shown_and_saved(page: devtools.Page, address: str, tmp_path: Path) -> None:
    """The page is as it was; of what it loads some is broken."""
    folder = tmp_path / "site" / "graphs"
    output = folder / "PitWrapper" / "test_data_set_0" / "output_0.pb"
    loss = numpy_helper.to_array(onnx.load_tensor(output))
    onnx.save_tensor(numpy_helper.from_array(loss + np.float32([0, 0.25, 0]), "loss"), output)
    (folder / "ctc_loss" / "ctc_loss.onnx").write_bytes(b"no graph")
    shutil.rmtree(folder / "AutoencoderLoss" / "test_data_set_0")
    go(page, address)
    click(page, "run")
    assert page.run(FINISHED) == "3 of 5 outputs of 4 graphs are off."
    assert "outside" in page.run("document.getElementById('verdict').className")
    verdicts = {(row, output): verdict for row, _, output, _, _, verdict in page.run(TABLE)}
    assert verdicts["PitWrapper", "loss"] == "off by 0.25"
    assert verdicts["PitWrapper", "permutations"] == verdicts["compute_length_mask", "mask"] == "ok"
    assert verdicts["AutoencoderLoss", "-"].endswith(": 404 File not found")
    assert verdicts["ctc_loss", "-"] not in ("", "ok")
    cells = {row: cells["browser"] for row, cells in beside([saved(page, tmp_path)])["rows"].items()}
    assert cells["PitWrapper"]["problem"] == "loss: off by 0.25"
    assert cells["PitWrapper"]["absolute"] == pytest.approx(0.25)
    assert cells["ctc_loss"]["problem"] == verdicts["ctc_loss", "-"]
    assert "problem" not in cells["compute_length_mask"]


def test_outputs_that_are_not_expected_are_a_problem(
    page: devtools.Page, address: str, tmp_path: Path
) -> None:
    path = tmp_path / "site" / "cases.json"
    cases = json.loads(path.read_text())
    for case in cases:
        case["outputs"] = case["outputs"][:1]
    path.write_text(json.dumps(cases))
    go(page, address)
    click(page, "run")
    assert page.run(FINISHED) == "2 of 4 outputs of 4 graphs are off."
    verdicts = {row: verdict for row, *_, verdict in page.run(TABLE)}
    assert verdicts["PitWrapper"] == "gave loss, permutations, expected loss"
    assert verdicts["ctc_loss"] == "ok"


def test_infinities_are_saved_as_python_reads_them(page: devtools.Page, address: str, tmp_path: Path) -> None:
    output = tmp_path / "site" / "graphs" / "ctc_loss" / "test_data_set_0" / "output_0.pb"
    onnx.save_tensor(numpy_helper.from_array(np.float32(np.inf), "loss"), output)
    go(page, address)
    click(page, "run")
    assert page.run(FINISHED) == "1 of 6 outputs of 4 graphs is off."
    path = saved(page, tmp_path)
    assert json.loads(path.read_text())["rows"]["ctc_loss"]["browser"]["absolute"] == "inf"
    assert beside([path])["rows"]["ctc_loss"]["browser"]["ulp"] == np.inf


def test_by_keyboard_alone_and_again(page: devtools.Page, address: str) -> None:
    go(page, address)
    key(page, "Tab", windowsVirtualKeyCode=9)
    assert page.run("document.activeElement.id") == "run"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    key(page, "Enter", windowsVirtualKeyCode=13, text="\r")
    key(page, "Enter", windowsVirtualKeyCode=13, text="\r")  # while it runs: nothing comes of it
    assert page.run(FINISHED) == "All 6 outputs of 4 graphs agree."
    assert page.run("document.activeElement.id") == "run"
    assert len(page.run(TABLE)) == 6
    key(page, "Enter", windowsVirtualKeyCode=13, text="\r")
    assert page.run(FINISHED) == "All 6 outputs of 4 graphs agree."
    assert len(page.run(TABLE)) == 6


def test_who_does_not_see_it_hears_it(page: devtools.Page, address: str) -> None:
    """Roles and names as the browser gives them to a screen reader."""
    go(page, address)
    click(page, "run")
    page.run(FINISHED)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    assert ("button", "Run all") in named
    assert ("button", "Save as JSON") in named
    assert ("status", "") in named or ("status", "All 6 outputs of 4 graphs agree.") in named
    assert ("region", "Row by row") in named
    for heading in ("row", "ms", "output", "differs", "ulp", "verdict"):
        assert ("columnheader", heading) in named
    for row in ROWS:
        assert ("rowheader", row) in named
    assert page.run("document.documentElement.lang") == "en"
    live = page.run("document.getElementById('status').closest('[role=status]') !== null")
    assert live


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_is_laid_out_and_read_well(page: devtools.Page, address: str, scheme: str, width: int) -> None:
    page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
    )
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    go(page, address)
    click(page, "run")
    page.run(FINISHED)
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")
    too_wide = (
        "[...document.querySelectorAll('html, .wide')].filter((e) => e.scrollWidth > e.clientWidth).length"
    )
    assert page.run(too_wide) == 0
    contrasts = page.run(CONTRASTS)
    assert len(contrasts) > 40
    assert [(text, ratio) for text, ratio in contrasts if ratio < 4.5] == []  # as WCAG 2.2 asks, AA
    assert page.run("Math.min(...[...document.querySelectorAll('button')].map((b) => b.offsetHeight))") >= 44
