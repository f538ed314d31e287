"""Some mutated files of each format: the long run is `make fuzz`."""

import files
import pytest

NUMBER = 600


def test_no_bytes_end_a_run_lose_an_item_or_kill_the_process() -> None:
    assert files.main(NUMBER) == []


@pytest.mark.parametrize("wrong", ["ends", "loses", "dies", "hangs"])
def test_what_is_wrong_is_found(wrong: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that is told to fail in each way is reported, with the file that it failed of."""
    monkeypatch.setenv("FUZZ_FILES_FAILS", f"{wrong} 7")
    monkeypatch.setattr(files, "PATIENCE", 5.0)
    (found,) = files.main(12)
    said = {
        "ends": "(stream): ended: RuntimeError: told to",
        "loses": ": lost",
        "dies": ": the process ended with SIGSEGV",
        "hangs": ": the process ended with SIGKILL",
    }
    assert found.startswith("7")
    assert said[wrong].partition(": ")[2] in found
