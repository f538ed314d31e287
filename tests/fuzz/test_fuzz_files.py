"""Some mutated files of each format; ``python tests/fuzz/files.py --number N`` is the long run."""

import files
import pytest


def test_no_bytes_end_a_run_lose_an_item_or_kill_the_process() -> None:
    assert files.main(200) == []


def test_what_goes_wrong_is_found_and_the_others_are_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(files.FAIL, "loses,,dies,ends,hangs")
    monkeypatch.setattr(files, "PATIENCE", 2.0)
    found = [line.partition(" (")[0].partition(":") for line in files.main(6)]
    assert [(index, said) for index, _, said in found] == [
        ("0", ""),
        ("2", " the process ended with SIGBUS"),
        ("3", ""),
        ("4", " the process ended with SIGKILL"),
    ]
    assert capsys.readouterr().out.splitlines()[-1].startswith("6 mutated files in ")
