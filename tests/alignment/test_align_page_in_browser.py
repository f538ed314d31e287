"""The page of an alignment in a real browser, where there is one."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from recordings import EVIL, HEBREW, page_of_three, tone

from exportable_losses.export.checking.web import devtools
from exportable_losses.runtime.alignment.report import AlignedItem, write_report
from exportable_losses.runtime.alignment.words import Word

WATCH = """
window.heard = [];
for (const name of ["play", "pause"])
  document.addEventListener(name, event => heard.push([name, event.target.currentTime]), true);
"""
UNTIL = "new Promise(done => { const look = () => (%s) ? done(true) : setTimeout(look, 10); look(); })"


@pytest.fixture(scope="module")
def chromium() -> Iterator[devtools.Page]:
    found = devtools.browser()
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(devtools.BROWSERS)} is on the path")
    with devtools.page(found, seconds=30) as page:
        yield page


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of_three(tmp_path_factory.mktemp("page"))


@pytest.fixture
def page(chromium: devtools.Page, written: Path) -> devtools.Page:
    seen(chromium, 1280)
    chromium.go(written.as_uri())
    chromium.run(WATCH)
    return chromium


def seen(page: devtools.Page, width: int, scheme: str = "light") -> None:
    page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
    )
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


def click(page: devtools.Page, selector: str) -> None:
    """As a hand does it: a script alone may not play a sound."""
    box = f"document.querySelector({selector!r})"
    page.run(f"{box}.scrollIntoView({{block: 'center'}})")
    x, y = page.run(f"(r => [r.left + r.width / 2, r.top + r.height / 2])({box}.getBoundingClientRect())")
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def press(page: devtools.Page, key: str) -> None:
    text = {"text": "\r"} if key == "Enter" else {}
    code = {"Enter": 13}.get(key, 0)
    page.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
    page.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)


def wait(page: devtools.Page, condition: str) -> None:
    assert page.run(UNTIL % condition)


def test_each_word_is_where_it_is_spoken(page: devtools.Page) -> None:
    """By the axis that the page draws: a second is as long everywhere, and a line has its own beginning."""
    boxes = page.run("""
        [...document.querySelectorAll("#i1 button.word")].map(word => {
          const line = word.closest(".line"), left = line.getBoundingClientRect().left;
          const second = parseFloat(getComputedStyle(document.documentElement).fontSize) * 10.5;
          const box = word.getBoundingClientRect();
          return [word.textContent, +line.dataset.start, (box.left - left) / second, box.width / second];
        })""")
    lines = {"over": 5.8, "dog": 5.8}
    assert [name for name, *_ in boxes] == ["quick", "fox", "1984", HEBREW, "over", "dog"]
    starts = {"quick": 0.5, "fox": 1.4, "1984": 3, HEBREW: 5, "over": 5.8, "dog": 7.5}
    lengths = {"quick": 0.7, "fox": 0.6, "1984": 0.5, HEBREW: 0.4, "over": 0.8, "dog": 0.5}
    for name, line, left, width in boxes:
        assert line == lines.get(name, 0)
        assert line + left == pytest.approx(starts[name], abs=0.01)
        assert width == pytest.approx(lengths[name], abs=0.01)


def test_the_waveform_is_above_its_word(page: devtools.Page) -> None:
    """The tone sounds during "fox" alone, and is drawn there in the colour of its confidence."""
    page.run("document.querySelector('#i1').scrollIntoView()")
    wait(page, "document.querySelector('#i1 canvas').width > 300")
    page.run("new Promise(done => setTimeout(done, 50))")
    drawn = page.run("""(() => {
        const canvas = document.querySelector("#i1 canvas"), row = Math.round(canvas.height * 0.45);
        const dots = canvas.getContext("2d").getImageData(0, row, canvas.width, 1).data;
        const there = [...Array(canvas.width).keys()].filter(x => dots[4 * x] > dots[4 * x + 2] + 60);
        return [there[0], there.at(-1), there.length].map(x => x / 168);
    })()""")
    assert drawn == pytest.approx([1.4, 2.0, 0.6], abs=0.03)


def test_the_worst_words_come_first_and_lead_to_their_place(page: devtools.Page) -> None:
    rows = page.run("[...document.querySelectorAll('.tall tbody tr')].map(row => row.cells[0].textContent)")
    assert rows == ["0.05", "0.30", "0.50", "0.75", "0.88", "0.90", "0.95", "0.99"]  # no wildcard
    items = page.run("[...document.querySelectorAll('.item h3')].map(each => each.textContent)")
    assert items == [EVIL, "heard", "good"]
    click(page, ".tall tbody tr:nth-child(2) a")
    assert page.run("document.activeElement.id") == "w1-1"
    wait(page, "heard.length")
    assert page.run("heard[0]") == ["play", pytest.approx(1.4, abs=0.05)]


def test_a_click_plays_from_start_to_end(page: devtools.Page) -> None:
    click(page, "#w1-1")
    wait(page, "heard.length === 2")
    (began, start), (ended, end) = page.run("heard")
    assert (began, ended) == ("play", "pause")
    assert start == pytest.approx(1.4, abs=0.05)
    assert end == pytest.approx(2.0, abs=0.001)
    assert (
        page.run("document.querySelector('.now').textContent") == "fox · 0:01.40 to 0:02.00, confidence 0.30"
    )
    assert page.run("document.querySelector('.playhead')") is None


def test_it_all_goes_by_keyboard(page: devtools.Page) -> None:
    page.run("document.querySelector('#w1-0').focus()")
    press(page, "ArrowRight")
    press(page, "ArrowRight")
    press(page, "ArrowLeft")
    assert page.run("document.activeElement.id") == "w1-1"
    assert page.run("document.querySelectorAll('#i1 [tabindex=\"0\"]').length") == 1  # the only one by Tab
    press(page, "Enter")
    wait(page, "heard.length")
    press(page, "Escape")
    wait(page, "heard.length === 2")
    assert page.run("heard[1][1]") < 1.95
    press(page, "End")
    assert page.run("document.activeElement.textContent") == "dog"


def test_one_recording_plays_at_a_time_and_marks_its_words(page: devtools.Page) -> None:
    click(page, "#w1-1")
    wait(page, "heard.length")
    page.run("a = document.querySelector('audio'); a.pause()")
    wait(page, "heard.length === 2 && !document.querySelector('.playhead')")
    page.call(
        "Runtime.evaluate",
        expression="a.currentTime = 0.6; a.play()",
        userGesture=True,
    )
    wait(page, "document.querySelector('#w1-0[aria-current]')")
    wait(page, "document.querySelector('.playhead') && a.currentTime > 0.7")
    left = page.run(
        "parseFloat(getComputedStyle(document.querySelector('.playhead')).left) / 168 - a.currentTime"
    )
    assert left == pytest.approx(0, abs=0.15)
    page.run("a.pause()")


def test_without_a_sound_a_word_says_where_it_is(page: devtools.Page) -> None:
    click(page, "#w2-0")
    assert (
        page.run("document.querySelector('.now').textContent") == "sure · 0:00.20 to 0:00.90, confidence 0.99"
    )
    assert page.run("heard") == []


def test_text_is_text(page: devtools.Page) -> None:
    assert page.run("typeof evil") == "undefined"
    assert page.run("document.title") == f"Words {EVIL}"
    assert page.run("document.querySelector('#w0-0').textContent") == EVIL
    assert "does not begin as a WAV file does" in page.run("document.querySelector('#i0 .note').textContent")
    aside = page.run(
        "[...document.querySelectorAll('section:last-of-type tbody')].map(body => body.innerText)"
    )
    assert aside == ["too short\t2\n<b>no</b>\t1", f"lost\ttoo short\n{EVIL}\t<b>no</b>\ngone\ttoo short"]


def test_nothing_is_asked_of_the_network(page: devtools.Page) -> None:
    click(page, "#w1-0")
    wait(page, "heard.length === 2")
    asked = page.run("performance.getEntriesByType('resource').map(each => each.name)")
    assert [name for name in asked if not name.startswith(("data:", "blob:"))] == []


def test_what_a_screen_reader_is_told(page: devtools.Page) -> None:
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    told = [
        (node["role"]["value"], node.get("name", {}).get("value"), node.get("description", {}).get("value"))
        for node in nodes
        if not node["ignored"]
    ]
    assert ("button", "fox", "0:01.40 to 0:02.00, confidence 0.30") in told
    assert ("button", "1984", "0:03.00 to 0:03.50, wildcard") in told
    named = {(role, name) for role, name, _ in told}
    assert named >= {
        ("group", "Words of heard"),
        ("region", "Worst words"),
        ("article", "heard"),
        ("Audio", "heard"),
    }
    assert [each for each in told if each[0] in ("button", "link") and not each[1]] == []


@pytest.mark.parametrize("width", [1280, 600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_laid_out_well_by_day_and_by_night(page: devtools.Page, width: int, scheme: str) -> None:
    seen(page, width, scheme)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    ground = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(ground) < 64 if scheme == "dark" else min(ground) > 240
    contrasts = page.run("""(() => {
        const light = colour => {
          const pen = document.createElement("canvas").getContext("2d");
          pen.fillStyle = colour;
          pen.fillRect(0, 0, 1, 1);
          const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map(each => each / 255)
            .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
        };
        const style = getComputedStyle(document.documentElement);
        const names = ["l0", "l1", "l2", "l3", "l4", "wild", "muted"];
        return ["page", "card"].flatMap(ground => names.map(name => {
          const [a, b] = [ground, name].map(each => light(style.getPropertyValue(`--${each}`).trim()));
          return Math.max(a, b) / Math.min(a, b);
        }));
    })()""")
    assert min(contrasts) >= 4.5  # the contrast of text by WCAG


def test_no_label_stands_on_another(chromium: devtools.Page, tmp_path: Path) -> None:
    """Words of a frame or two, as CTC finds them, and words without a pause between them."""
    random = np.random.default_rng(0)
    starts = np.cumsum(random.choice([0.13, 0.2, 0.5], 60))
    letters = list("aeimnostwMW")
    texts = ["".join(random.choice(letters, random.integers(1, 9))) for _ in starts]
    spikes = [Word(text, s, s + 0.04, random.random()) for text, s in zip(texts, starts, strict=True)]
    dense = [Word("so", 0.11 * i, 0.11 * (i + 1), 0.1) for i in range(60)]
    items = [AlignedItem("spikes", spikes, 20.0), AlignedItem("dense", dense, 20.0)]
    write_report(tmp_path / "page.html", items, title="page")
    seen(chromium, 1280)
    chromium.go((tmp_path / "page.html").as_uri())
    collisions = chromium.run("""[...document.querySelectorAll(".line")].flatMap(line => {
        const boxes = [...line.querySelectorAll(".word bdi")].map(each => each.getBoundingClientRect());
        const meet = (a, b) => a.left + 1 < b.right && b.left + 1 < a.right
          && a.top + 4 < b.bottom && b.top + 4 < a.bottom;
        return boxes.filter((box, i) => boxes.slice(i + 1).some(other => meet(box, other)));
    }).length""")
    assert collisions == 0


def test_a_codec_that_the_browser_knows_is_drawn_by_it(chromium: devtools.Page, tmp_path: Path) -> None:
    """µ-law, which Python is not taught: silence, then as loud as can be. And noise, which nobody knows."""
    header = bytearray(tone(tmp_path / "a.wav", 1.0).read_bytes()[:44])
    header[20:22], header[28:36] = b"\7\0", b"\x40\x1f\0\0\1\0\x08\0"
    header[40:44] = (8000).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(bytes(header) + b"\xff" * 4000 + b"\x80\x00" * 2000)
    (tmp_path / "b.mp3").write_bytes(np.random.default_rng(0).bytes(5000))
    words = [Word("late", 0.5, 1.0, 0.9)]
    items = [AlignedItem(name, words, 1.0, tmp_path / name) for name in ("a.wav", "b.mp3")]
    items.append(AlignedItem("twice as long", words, 2.0, tmp_path / "a.wav"))
    write_report(tmp_path / "page.html", items, title="page")
    chromium.go((tmp_path / "page.html").as_uri())
    chromium.run("document.querySelector('#i0').scrollIntoView()")
    wait(chromium, "document.querySelector('#i1 .note')")
    assert (
        chromium.run("document.querySelector('#i1 .note').textContent")
        == "This browser cannot read the audio."
    )
    wait(chromium, "document.querySelector('#i2 .note')")
    note = "The audio has 1.00 seconds, the alignment 2.00. Is it the right file, and the right hop?"
    assert chromium.run("document.querySelector('#i2 .note').textContent") == note
    drawn = """(() => {
        const canvas = document.querySelector("#i0 canvas"), pen = canvas.getContext("2d");
        const dots = pen.getImageData(0, Math.round(canvas.height * 0.4), canvas.width, 1).data;
        const there = [...Array(canvas.width).keys()].filter(x => dots[4 * x + 2] > dots[4 * x] + 60);
        return [there[0] / canvas.width, there.length / canvas.width];
    })()"""
    wait(chromium, f"{drawn}[1]")
    assert chromium.run(drawn) == pytest.approx([0.5, 0.5], abs=0.03)


def test_an_hour_stays_usable(chromium: devtools.Page, tmp_path: Path) -> None:
    """10,000 words of an hour are there at once, and only what is in sight is drawn."""
    words = [Word(f"word{i}", 0.36 * i, 0.36 * i + 0.3, (i * 7919 % 1000) / 1000) for i in range(10_000)]
    write_report(tmp_path / "page.html", [AlignedItem("hour", words, 3600.0)], title="page")
    assert (tmp_path / "page.html").stat().st_size < 5_000_000
    chromium.go((tmp_path / "page.html").as_uri())
    assert chromium.run("document.querySelectorAll('button.word').length") == 10_000
    drawn = "[...document.querySelectorAll('canvas')].filter(each => each.width > 300).length"
    click(chromium, ".tall tbody tr:nth-child(9) a")
    wait(chromium, f"{drawn} > 0")
    assert chromium.run(drawn) < 40
    took = chromium.run("""(async () => {
        const start = performance.now();
        const pressed = {key: "ArrowRight", bubbles: true};
        for (let i = 0; i < 50; i++)
          document.activeElement.dispatchEvent(new KeyboardEvent("keydown", pressed));
        await new Promise(requestAnimationFrame);
        return (performance.now() - start) / 50;
    })()""")
    assert took < 60  # milliseconds from word to word
