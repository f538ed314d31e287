"""Vocabularies of every kind, held to what the libraries that made them say: tests/data/tokenizers.json."""

import base64
import functools
import json
import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from exportable_losses.runtime import read_tokens
from exportable_losses.runtime.alignment.tokens import WILDCARD, Vocabulary, as_bytes, from_bytes, of_names

KINDS = ["unigram", "bpe", "unigram_bytes", "char", "hf_unigram", "hf_bpe", "hf_bytes", "hf_wordpiece"]
BEHIND = 999  # the blank of many a model is behind all pieces
LETTERS = ["-", "|", *"abcdefghijklmnopqrstuvwxyz"]


@functools.cache
def recorded() -> dict[str, Any]:
    return json.loads(Path(__file__).parents[1].joinpath("data", "tokenizers.json").read_text("utf-8"))


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Vocabulary]:
    def read(name: str, content: str | bytes | dict[str, Any], blank: int = 0) -> Vocabulary:
        if isinstance(content, dict):
            content = json.dumps(content)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_tokens(tmp_path / name, blank)

    return read


def of(kind: str, read: Callable[..., Vocabulary]) -> Vocabulary:
    case = recorded()[kind]
    if "json" in case:
        return read("tokenizer.json", case["json"])
    return read("tokens.model", base64.b64decode(case["model"]), BEHIND)


def pieces(vocabulary: Vocabulary, text: str) -> list[str]:
    return ["*" if label == WILDCARD else vocabulary.names[label] for label in vocabulary.spell(text).labels]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_of_the_library(kind: str, read: Callable[..., Vocabulary]) -> None:
    vocabulary = of(kind, read)
    for text, labels in recorded()[kind]["labels"].items():
        assert list(vocabulary.spell(text).labels) == labels, text
        assert vocabulary.spell(text).words == tuple(text.split())


@pytest.mark.parametrize("kind", ["unigram", "bpe", "unigram_bytes", "char"])
def test_a_vocab_file_spells_as_its_model(kind: str, read: Callable[..., Vocabulary]) -> None:
    vocabulary = read("tokens.vocab", recorded()[kind]["vocab"], BEHIND)
    assert vocabulary.names == of(kind, read).names
    for text, labels in recorded()[kind]["labels"].items():
        assert list(vocabulary.spell(text).labels) == labels, text


@pytest.mark.parametrize(
    ("kind", "text", "wanted"),
    [
        ("unigram", "Rain, 42 raZn!", ["▁rain", "*", "▁ra", "*", "n"]),
        ("unigram_bytes", "über", ["▁", "<0xC3>", "<0xBC>", "b", "er"]),
        ("hf_wordpiece", "rain 42", ["▁ra", "in", "*"]),
        ("hf_bytes", "é", ["▁", "\ufffd", "\ufffd"]),  # two bytes, each a half of it
        ("hf_unigram", "42nd rain", ["*", "nd", "▁rain"]),
    ],
)
def test_what_a_vocabulary_lacks(
    kind: str, text: str, wanted: Sequence[str], read: Callable[..., Vocabulary]
) -> None:
    vocabulary = of(kind, read)
    found = pieces(vocabulary, text)
    assert found == list(wanted)


def test_letters_with_a_bar() -> None:
    vocabulary = of_names(LETTERS)
    spelling = vocabulary.spell("  It's well-known:\n42 x1y ")
    assert spelling.words == ("It's", "well-known:", "42", "x1y")
    assert pieces(vocabulary, "It's well-known: 42 x1y") == list("its|wellknown|*|x*y")
    assert [spelling.labels[slice(*span)] for span in spelling.spans][2:] == [(WILDCARD,), (25, WILDCARD, 26)]


@pytest.mark.parametrize(
    ("names", "text", "wanted"),
    [
        (["-", "|", "A", "B"], "ab Ab", "AB|AB"),
        (["-", "|", "a", "b"], "AB", "ab"),
        (["-", "|", "a", "B"], "aB AB", "aB|*B"),
        (["-", "<space>", "a", "b"], "a b", ["a", "<space>", "b"]),
        (["-", "a", "b", " ", ""], "a b", "a b"),
        (["-", *"abc"], "ab - ca", "abca"),  # the hyphen is the blank
        (["-", *"abc", "'"], "a'b", "a'b"),
        (["-", "|", *"abc"], "a & b", "a|*|b"),  # heard
        (["-", "|", *"abc"], "a, -- «b»", "a|b"),  # not heard
        (["-", "|", *"abc"], "a\u0331b \u266a 5€ c\u2026", "ab|*|c"),  # an accent, a note
        (["-", "|", *"abc"], "a * <unk> b", "a|*|*|b"),
        (["-", "|", *"abc", "*"], "a *", ["a", "|", "*"]),
        (["-", "你", "好", "a"], "你好 a", ["你", "好", "a"]),
        (["-", "HH", "AH", "L", "OW"], "HH AH ZZ OW", ["HH", "AH", "*", "OW"]),
        (["-", "|", *"its'"], "it\u2019s \u02bcit \u2018it\uff07s", "it's|'it|'it's"),
        (["-", "|", *"its"], "it\u2019s", "its"),
        (["-", "|", *"its'\u2019"], "it\u2019s it's", "it\u2019s|it's"),
        (["-", "|", "ch", "c", "h", "a"], "chah", ["ch", "a", "h"]),
        (
            ["<blk>", "<sos/eos>", "<unk>", "▁THE", "▁", "R", "AIN", "#0"],
            "the rain",
            ["▁THE", "▁", "R", "AIN"],
        ),
        (["é", "|", "-"], "e\u0301", ["é"]),  # composed
    ],
)
def test_lists(names: Sequence[str], text: str, wanted: Sequence[str]) -> None:
    blank = names.index("-") if "-" in names else 0
    assert pieces(of_names(names, blank), text) == list(wanted)


def test_characters_of_scripts_without_spaces_are_words_of_their_own() -> None:
    spelling = of_names(["-", *"你好世界", "ok"]).spell("你好 ok 世界")
    assert spelling.words == ("你", "好", "ok", "世", "界")
    spelling = of_names(["-", "|", *"你好世界", "ok"]).spell("你好。 世ok界")
    assert spelling.words == ("你", "好", "世", "ok", "界")
    assert spelling.labels == (2, 3, 1, 4, 6, 5)
    assert of_names(["-", "▁你好", "世界"]).spell("你好世界").words == ("你好世界",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokens.txt", "-\n|\na\nb\n"),
        ("tokens.txt", "-\r\n|\r\na\r\nb\r\n"),
        ("tokens.txt", "- 0\n| 1\nb 3\na 2\n"),
        ("tokens", "-\t0\n|\t1\na\t2\nb\t3"),
        ("vocab.json", '{"-": 0, "|": 1, "b": 3, "a": 2}'),
    ],
)
def test_files_of_lists(name: str, content: str, read: Callable[..., Vocabulary]) -> None:
    vocabulary = read(name, content)
    assert vocabulary.names == ("-", "|", "a", "b")
    assert vocabulary.spell("ab b").labels == (2, 3, 1, 3)


def test_a_score_that_is_infinite_is_no_rank(read: Callable[..., Vocabulary]) -> None:
    assert read("tokens.vocab", "-\t0\n▁a\t-1\nb\t-inf").spell("a").labels == (1,)


def test_numbers_with_gaps(read: Callable[..., Vocabulary]) -> None:
    assert read("tokens.txt", "<blk> 0\na 2\nb 4\n").names == ("<blk>", "", "a", "", "b")


def test_a_tokenizer_of_words_and_a_bar(read: Callable[..., Vocabulary]) -> None:
    model = {"type": "WordLevel", "vocab": {"<pad>": 0, "|": 1, "A": 2, "B": 3}, "unk_token": "<unk>"}
    vocabulary = read(
        "tokenizer.json", {"model": model, "added_tokens": [{"id": 4, "content": "<s>", "special": True}]}
    )
    assert vocabulary.spell("ab a").labels == (2, 3, 1, 2)


def field(number: int, content: bytes | int | float) -> bytes:
    """A field of a message of protobuf."""
    if isinstance(content, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", content)
    if isinstance(content, int):
        return bytes([number << 3, content])
    return bytes([number << 3 | 2, len(content)]) + content


def test_look_alikes_are_one_character_where_the_model_says_so(read: Callable[..., Vocabulary]) -> None:
    names = ["<blk>", "▁", "f", "i"]
    listed = b"".join(field(1, field(1, name.encode()) + field(2, -1.0)) for name in names)
    for form, wanted in ((b"nmt_nfkc", ["▁", "f", "i"]), (b"identity", ["*"])):
        assert pieces(read("tokens.model", listed + field(3, field(1, form))), "ﬁ") == wanted


def test_bytes_as_characters_and_back() -> None:
    for text in ("rain", " rain", "é€", "\x00\x7f\xad "):
        written = as_bytes(text)
        assert " " not in written
        assert from_bytes(written) == (f"▁{text[1:]}" if text.startswith(" ") else text)
    assert as_bytes(" é") == "ĠÃ©"


def test_a_vocabulary_travels(read: Callable[..., Vocabulary]) -> None:
    for kind in KINDS:
        vocabulary = of(kind, read)
        assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokens.txt", "", "which has none, expected a vocabulary"),
        ("tokens.txt", b"\xff\xfe", "expected a vocabulary: 'utf-8' codec"),
        ("tokens.txt", "a 0\nb 0\n", "got 0 for 'a' and 'b', expected one name for each"),
        ("tokens.txt", "a 0\nb 99999\n", "got 99999 for 'b', expected the number of a class"),
        ("tokens.vocab", "a\t-1\nb", "got 'b' in line 2, expected a piece, a tab and its score"),
        ("tokens.vocab", "a\tb", "could not convert string to float"),
        ("tokens.model", "hello", "expected a vocabulary"),
        ("tokens.model", b"", "which has none"),
        ("vocab.json", "{", "expected a vocabulary: Expecting"),
        ("vocab.json", "[]", "expected a vocabulary: got list, expected an object"),
        ("vocab.json", '{"a": "b"}', "got b for 'a', expected the number of a class"),
        (
            "tokenizer.json",
            '{"model": {"type": "Rare", "vocab": {"a": 1}}}',
            "got a model Rare, expected BPE",
        ),
        ("tokenizer.json", '{"model": {}}', "KeyError 'vocab'"),
        (
            "tokenizer.json",
            '{"model": {"type": "Unigram", "vocab": [["-", 0], ["a", "low"]]}}',
            "could not convert string to float",
        ),
        (
            "tokenizer.json",
            '{"model": {"type": "Unigram", "vocab": [[2, -1]]}}',
            "got 2 for the name of a class, expected text",
        ),
    ],
)
def test_files_that_are_none(
    name: str, content: str | bytes, message: str, read: Callable[..., Vocabulary]
) -> None:
    with pytest.raises(ValueError, match=rf"^tokens: got .*{name}, .*") as error:
        read(name, content)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("names", "blank", "message"),
    [
        (
            ["|", "a", "b", "[UNK]", "[PAD]"],
            0,
            "class 0 for the blank, which is '|', expected another: 4, '[PAD]'",
        ),
        (["<unk>", "▁a", "b"], 0, "which is '<unk>', expected another: 3, behind all of these, perhaps"),
        (["a", "b", "c"], 1, "which is 'b', expected another: 3, behind all of these"),
        (["<blk>", "▁a", "b"], 1, "which is '▁a', expected another: 0, '<blk>'"),
    ],
)
def test_a_blank_that_is_none(
    names: Sequence[str], blank: int, message: str, read: Callable[..., Vocabulary]
) -> None:
    with pytest.raises(ValueError, match=r"^tokens: got .*tokens.txt, ") as error:
        read("tokens.txt", "\n".join(names), blank)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["-", "_", "<blank>", "<pad>", "[PAD]", "BLANK", "<b>", "∅", "<s>", "#"])
def test_a_blank_that_may_be_one(name: str, read: Callable[..., Vocabulary]) -> None:
    assert read("tokens.txt", f"{name}\na\nb").spell("a").labels == (1,)


def test_a_folder_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which is a folder, expected a file"):
        read_tokens(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_tokens(tmp_path / "tokens.txt")


def test_decomposed_text_and_what_unicode_does_not_recompose() -> None:
    kana = of_names(["-", "\u304b", "\u304c", "\u306f", "\u3070"])
    assert kana.spell("\u304b\u3099").labels == kana.spell("\u304c").labels == (2,)
    hindi = of_names(["-", "|", "\u0958", "\u0915"])
    assert hindi.spell("\u0958").labels == (2,)
    assert of_names(["-", "|", "e", "\u0301", "a"]).spell("e\u0301").labels == (2, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.vocab", "<pad>\t0\n\u2581a\t-1.5\n\u2581a\t-1.5\n\u2581b\t-2.5\n", "'\u2581a' again in line 3"),
        ("x.txt", "- 0\na 1\na 2\nb 3\n", "'a' more than once"),
        ("x.json", '{"-": 0, "a": 1, "b": 2, "a": 3}', "'a' more than once"),
    ],
)
def test_a_token_twice_would_move_the_others(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_tokens(tmp_path / name)


def test_a_mark_of_byte_order_is_no_part_of_a_token(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("\ufeffa\nb\n-\n".encode())
    assert read_tokens(tmp_path / "x.txt", 2).spell("ab").labels == (0, 1)


@pytest.mark.parametrize("setting", ["end_of_word_suffix", "continuing_subword_prefix", "prepend_scheme"])
def test_what_cuts_otherwise_is_refused(tmp_path: Path, setting: str) -> None:
    model: dict[str, Any] = {"type": "BPE", "vocab": {"-": 0, "\u2581a": 1, "b": 2}, "merges": []}
    data: dict[str, Any] = {"model": model, "added_tokens": []}
    if setting == "prepend_scheme":
        data["pre_tokenizer"] = {"type": "Metaspace", "prepend_scheme": "never"}
    else:
        model[setting] = "</w>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"got {setting}.*expected a tokenizer without"):
        read_tokens(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("names", "text", "wanted"),
    [
        (["-", "|", "\u0958", "\u0915"], "\u0958!", (2,)),
        (["-", "|", "e\u0301", "a"], "\u00e9a", (2, 3)),
        (["-", "|", "e", "\u0301", "a"], "\u00e9a!", (2, 3, 4)),
        (["-", "|", "e"], "e\u0301", (WILDCARD,)),
    ],
)
def test_tokens_that_are_not_composed(names: list[str], text: str, wanted: tuple[int, ...]) -> None:
    assert of_names(names).spell(text).labels == wanted


def test_spaces_behind_a_token(read: Callable[..., Vocabulary]) -> None:
    assert read("tokens.txt", "-\n \na \nb\t\n").names == ("-", " ", "a", "b")


@pytest.mark.parametrize("kind", ["ByteLevel", "Metaspace"])
def test_a_first_word_without_a_mark_is_refused(kind: str, read: Callable[..., Vocabulary]) -> None:
    model = {"type": "BPE", "vocab": {"-": 0, "a": 1}, "merges": []}
    inner = [{"type": kind, "add_prefix_space": False}]
    data = {"model": model, "pre_tokenizer": {"type": "Sequence", "pretokenizers": inner}}
    with pytest.raises(ValueError, match="got add_prefix_space=false, expected"):
        read("tokenizer.json", data)


def test_symbols_that_byte_pair_encoding_keeps_whole(read: Callable[..., Vocabulary]) -> None:
    pieces = [("<blk>", 4), ("\u2581", 1), ("a", 1), ("b", 1), ("ab", 4)]
    listed = [field(1, field(1, name.encode()) + field(2, -1.0) + field(3, kind)) for name, kind in pieces]
    with pytest.raises(ValueError, match="got user_defined_symbols of BPE, expected"):
        read("tokens.model", b"".join(listed) + field(2, field(3, 2)))
    assert read("tokens.model", b"".join(listed[:-1]) + field(2, field(3, 2))).spell("a").labels == (1, 2)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (b"\x12\x03\xb0\x01\x00", "split_by_whitespace=false"),  # fields 22 and 24 of the trainer
        (b"\x12\x03\xc0\x01\x01", "treat_whitespace_as_suffix=true"),
        (b"\x1a\x02\x18\x00", "add_dummy_prefix=false"),  # field 3 of the normaliser
    ],
)
def test_sentencepiece_that_cuts_otherwise_is_refused(
    settings: bytes, named: str, read: Callable[..., Vocabulary]
) -> None:
    listed = b"".join(field(1, field(1, name.encode()) + field(2, -1.0)) for name in ("<blk>", "▁a"))
    with pytest.raises(ValueError, match=f"got {named}, expected a tokenizer without"):
        read("tokens.model", listed + settings)


def test_bert_cuts_punctuation_off(tmp_path: Path) -> None:
    """What tokenizers 0.22 gives for the same file."""
    words = ["[PAD]", "[UNK]", "hello", "don", "t", "##t", "world", ",", ".", "'", "naive"]
    model = {"type": "WordPiece", "vocab": {word: at for at, word in enumerate(words)}}
    normal = {"type": "BertNormalizer", "lowercase": True, "strip_accents": None}
    data = {"model": {**model, "continuing_subword_prefix": "##"}, "normalizer": normal}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    vocabulary = read_tokens(tmp_path / "tokenizer.json")
    assert vocabulary.spell("Hello, world.").labels == (2, 7, 6, 8)
    assert vocabulary.spell("don't").labels == (3, 9, 4)
    assert vocabulary.spell("na\u00efve!").labels == (10,)
    assert vocabulary.spell("dont").labels == (3, 5)


def test_punctuation_that_stands_elsewhere_is_not_spoken() -> None:
    names = ["<blk>", "<unk>", "\u2581-", "\u2581it", "well", "\u2581well", "known"]
    assert of_names(names).spell("well-known it - it").labels == (5, 6, 3, 2, 3)
    assert of_names(["-", "\u2581a", "b"]).spell("b").labels == (WILDCARD, 2)  # no word begins with it


@pytest.mark.parametrize(("pattern", "content", "refused"), [("-", " ", True), (" ", "\u2581", False)])
def test_a_tokenizer_that_replaces_characters(
    tmp_path: Path, pattern: str, content: str, refused: bool
) -> None:
    normal = {"type": "Replace", "pattern": {"String": pattern}, "content": content}
    model = {"type": "BPE", "vocab": {"-": 0, "\u2581": 1, "a": 2}, "merges": []}
    accents = {"type": "Sequence", "normalizers": [normal, {"type": "NFD"}, {"type": "StripAccents"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model, "normalizer": accents}))
    if refused:
        with pytest.raises(ValueError, match="got Replace, expected a tokenizer without"):
            read_tokens(tmp_path / "tokenizer.json")
    else:
        assert read_tokens(tmp_path / "tokenizer.json").spell("\u00e1").labels == (1, 2)
