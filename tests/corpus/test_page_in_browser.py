"""The pages in a real browser, where there is one."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import mean_run

from exportable_losses.runtime.corpus.compare import compare_runs
from exportable_losses.runtime.corpus.report import write_comparison, write_report
from exportable_losses.runtime.corpus.runs import read_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="40"><rect width="90" height="40"/></svg>'
# what a reader cannot: text out of its place, by the boxes that the browser has made
LAYOUT = """
<script>
const problems = [];
if (document.documentElement.scrollWidth > innerWidth) problems.push("wider than the window");
for (const svg of document.querySelectorAll("svg")) {
  const within = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")];
  const boxes = texts.map(text => [text.textContent, text.getBoundingClientRect()]);
  for (const [words, box] of boxes) {
    if (box.left < within.left - 1 || box.right > within.right + 1) problems.push(`${words} is cut off`);
    for (const [others, other] of boxes)
      if (box !== other && box.left + 1 < other.right && other.left + 1 < box.right
          && box.top + 3 < other.bottom && other.top + 3 < box.bottom) problems.push(`${words} on ${others}`);
  }
}
for (const image of document.images) if (!image.naturalWidth) problems.push("a picture that is none");
document.title += ` | ${problems.join("; ") || "nothing amiss"}`;
</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path")
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about a run, few items and many, and one about two runs."""
    folder = tmp_path_factory.mktemp("pages")
    random = np.random.default_rng(0)
    for name, count in (("few", 300), ("many", 20_000)):
        sizes = random.integers(50, 401, count)
        values = sizes * random.gamma(4, 0.05, count)
        aside = {"<img src=x>": "targets: got 70 at [3], expected an index in [0, 63]"}
        a = read_run(mean_run(folder / name / "a", values, sizes=sizes, set_aside=aside))
        moved = values + random.normal(0.02, 0.1, count) + 0.05 * random.standard_t(2, count)
        b = read_run(mean_run(folder / name / "b", moved, sizes=sizes))
        write_report(a, folder / f"{name}.html", picture=lambda item: SQUARE)
        found = compare_runs(a, b, tolerance=0.1, resamples=200)
        write_comparison(found, folder / f"{name}-two.html", picture=lambda item: SQUARE)
    return folder


def run(browser: str, *words: str) -> str:
    flags = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
    )
    done = subprocess.run([browser, *flags, *words], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.parametrize("width", [1280, 600])
@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("few", "ctc_loss: 300 items scored"),
        ("many", "ctc_loss: 20,000 items scored"),
        ("few-two", "ctc_loss: "),
        ("many-two", "ctc_loss: "),
    ],
)
def test_a_page_is_laid_out_well(browser: str, pages: Path, page: str, title: str, width: int) -> None:
    source = (pages / f"{page}.html").read_text(encoding="utf-8")
    assert source.count("</body>") == 1
    (pages / "measured.html").write_text(source.replace("</body>", f"{LAYOUT}</body>"), encoding="utf-8")
    dom = run(browser, f"--window-size={width},2000", "--dump-dom", (pages / "measured.html").as_uri())
    (shown,) = re.findall(r"<title>(.*?)</title>", dom)
    assert shown.startswith(title)
    assert shown.endswith("| nothing amiss")
    assert len(re.findall(r"<svg ", dom)) == 2
    assert len(re.findall(r"<img ", dom)) == 20


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("page", ["few", "many-two"])
def test_a_page_is_seen_by_day_and_by_night(
    browser: str, pages: Path, page: str, dark: bool, tmp_path: Path
) -> None:
    picture = tmp_path / "page.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    address = (pages / f"{page}.html").as_uri()
    run(browser, scheme, "--window-size=1280,1400", f"--screenshot={picture}", address)
    shown = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert shown.shape == (1400, 1280, 3)
    page_colour = shown[2, 2]
    assert (page_colour.max() < 64) if dark else (page_colour.min() > 240)
    there = np.abs(shown - page_colour).max(-1) > 100
    assert 0.01 < there.mean() < 0.3  # something, and room about it
    blue = (shown[..., 2] > shown[..., 0] + 50).mean()
    assert blue > 0.003  # the plots
    assert there[:, :30].sum() == there[:, -30:].sum() == 0  # nothing at the edges
