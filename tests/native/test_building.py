"""What is kept between runs is what was finished, of the sources and compilers that are here."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import building
import pytest


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The steps that were taken, in a place of its own."""
    monkeypatch.setattr(building, "KEPT", tmp_path)
    return []


def of(taken: list[str], step: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        taken.append(step)
        (folder / step).touch()

    return fill


def test_every_step_is_taken_once(taken: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(building.kept, "x", step, of(taken, step)) for step in "abab" * 5]
    folders = {job.result() for job in jobs}
    assert sorted(taken) == ["a", "b"]
    assert {path.name for path in folders.pop().iterdir()} == {"a", "b", "done"}


def test_what_was_killed_half_way_is_begun_anew(taken: list[str]) -> None:
    def dies(folder: Path) -> None:
        (folder / "torn").touch()
        raise KeyboardInterrupt

    building.kept("x", "a", of(taken, "a"))
    with pytest.raises(KeyboardInterrupt):
        building.kept("x", "b", dies)
    folder = building.kept("x", "b", of(taken, "b"))
    assert {path.name for path in folder.iterdir()} == {"b", "done"}
    building.kept("x", "a", of(taken, "a"))
    assert taken == ["a", "b", "a"]


def test_a_step_that_fails_leaves_what_others_read(taken: list[str]) -> None:
    def fails(folder: Path) -> None:
        raise AssertionError("it does not compile")

    folder = building.kept("x", "a", of(taken, "a"))
    for _ in range(2):
        with pytest.raises(AssertionError, match="it does not compile"):
            building.kept("x", "b", fails)
        assert (folder / "a").exists()
    building.kept("x", "a", of(taken, "a"))
    assert taken == ["a"]


def test_what_is_of_other_sources_is_thrown_away(taken: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    building.kept("x", "a", of(taken, "a"))
    monkeypatch.setattr(building, "sources", lambda: "other")
    folder = building.kept("x", "b", of(taken, "b"))
    assert {path.name for path in folder.iterdir()} == {"b", "done"}


def test_sources_are_what_is_compiled_and_what_compiles(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask = building.sources.__wrapped__
    (tmp_path / "core").mkdir()
    monkeypatch.setattr(building, "SOURCES", (tmp_path,))
    said = [ask()]
    for name, text in [("a.cc", "int x;"), ("a.cc", "int y;"), ("core/b.inc.h", ""), ("CMakeLists.txt", "")]:
        (tmp_path / name).write_text(text)
        said.append(ask())
    monkeypatch.setenv("CXXFLAGS", "-O1")
    said.append(ask())
    assert len(set(said)) == len(said)
    (tmp_path / "test.py").touch()
    assert ask() == said[-1]
