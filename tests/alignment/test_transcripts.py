"""Files of transcripts."""

from pathlib import Path

import pytest

from exportable_losses.runtime.alignment.transcripts import Transcripts, read_transcripts


def read(path: Path, content: str | bytes, *ids: str) -> Transcripts:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_transcripts(path).of_corpus(ids)


def test_lines_of_an_id_and_a_text(tmp_path: Path) -> None:
    found = read(tmp_path / "text", "utt1 it  rains \nutt2\tno\n\nutt3\n", "utt1", "utt2")
    assert found.texts == {"utt1": "it  rains", "utt2": "no", "utt3": ""}


@pytest.mark.parametrize("name", ["text.jsonl", "text.json"])
def test_lines_of_json(name: str, tmp_path: Path) -> None:
    lines = '{"id": "utt1", "text": "it rains", "speaker": 3}\n{"id": 2, "text": "no"}\n'
    assert read(tmp_path / name, lines, "utt1").texts == {"utt1": "it rains", "2": "no"}


def test_the_text_of_the_only_item(tmp_path: Path) -> None:
    text = "it rains\nit pours\n"
    assert read(tmp_path / "talk.txt", text, "talk").texts == {"talk": text}
    assert read(tmp_path / "talk.txt", "\ufefftalk it rains\n", "talk").texts == {"talk": "it rains"}


def test_a_line_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "text"
    with pytest.raises(
        ValueError, match=rf"{path}, line 3, where 'utt1' is a second time, expected one line"
    ):
        read(path, "utt1 a\nutt2 b\nutt1 c\n", "utt1", "utt2")


@pytest.mark.parametrize(
    "line", ["hello", "[]", '{"id": "utt1"}', '{"id": "utt1", "text": 3}', '{"text": "a"}']
)
def test_a_line_that_is_no_transcript(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"text.jsonl, line 2, expected an object like .\"id\""):
        read(tmp_path / "text.jsonl", f'{{"id": "a", "text": "b"}}\n{line}\n', "a", "b")


def test_what_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which is no UTF-8, expected text"):
        read(tmp_path / "text", b"\xff\xfe", "a")
    with pytest.raises(ValueError, match="which is a folder"):
        read_transcripts(tmp_path)
