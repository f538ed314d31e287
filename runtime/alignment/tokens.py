"""What the classes of a model are called, and how they spell a transcript."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .segmentation import BestScore, Longest, Segmenter, Whole

MARK = "▁"  # a word begins
CONTINUES = "##"  # WordPiece: none does
SEPARATORS = ("|", "<space>", "[SPACE]", " ")
WILDCARD = -1  # a label until the number of classes is known, which then stands for it
STAR = "*"  # how a wildcard is written
_UNKNOWN = {"<unk>", "<UNK>", "[UNK]"}
_WILD = {STAR, *_UNKNOWN}  # words that ask for a wildcard
_BLANKS = {"", "blank", "blk", "pad", "eps", "epsilon"}  # without brackets and underscores
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_ADDED = re.compile(r"#\d+")
_SPECIAL = re.compile(r"<[^<>]+>|\[[^\[\]]+\]|#\d+")  # names that no text has
_APOSTROPHE = "'"
_APOSTROPHES = dict.fromkeys("\u2018\u2019\u02bc\uff07", _APOSTROPHE)  # as typesetters write it
_SPOKEN = set("%&@#*§‰°/\\")  # which Unicode calls punctuation or symbols
# What BERT takes for punctuation: all of ASCII but letters and digits, and Unicode's; in pieces of their own.
_PUNCTUATION = re.compile(r"([^\w\s]|_)")
# Scripts without spaces, of which each character is as good as a word: kana and Han.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_ALONE = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


@dataclass(frozen=True)
class Spelling:
    """A transcript in labels.

    Args:
        words: as they are written.
        labels: of all of them, `WILDCARD` for what the vocabulary lacks; between words the separator, if
            there is one.
        spans: the first label of each word, and the one after its last.
    """

    words: tuple[str, ...]
    labels: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Vocabulary:
    """The classes of a model.

    Args:
        names: of the classes, from 0. A name that begins with ``▁`` begins a word.
        pieces: what text is made of, and which class each is.
        segmenter: cuts a word into pieces.
        marked: whether pieces that begin a word have a ``▁``.
        separator: the class that stands between words, if there is one.
        bytes_: the classes of bytes, of which a model with such a fallback makes unknown characters.
        byte_level: whether pieces are made of bytes, each written as a printable character.
        compatible: whether look-alikes are one character: Unicode's form NFKC, else NFC.
        bare: whether letters lose their accents.
        apart: whether punctuation is cut off before words are cut into pieces, as BERT does.
    """

    names: tuple[str, ...]
    pieces: Mapping[str, int]
    segmenter: Segmenter
    marked: bool = False
    separator: int | None = None
    bytes_: Mapping[int, int] = field(default_factory=dict)
    byte_level: bool = False
    compatible: bool = False
    bare: bool = False
    apart: bool = False

    def spell(self, text: str) -> Spelling:
        """The labels of a transcript.

        Punctuation, combining marks and pictures that are not among the pieces are not spoken and left out,
        and so is a word of nothing else.
        Capitals are as the vocabulary has them, where it has one kind, and so are apostrophes. What it does
        not have becomes a wildcard, one for all such characters in a row. Kana and Han are words of their
        own, unless there are marks.
        """
        words: list[str] = []
        labels: list[int] = []
        spans: list[tuple[int, int]] = []
        for chunk in text.split():
            begins = True
            for word in self._words(chunk):
                if word not in self._known:
                    self._known[word] = self._labels(word)
                found = self._known[word]
                if not found:
                    continue
                if words and begins and self.separator is not None:
                    labels.append(self.separator)
                words.append(word)
                spans.append((len(labels), len(labels) + len(found)))
                labels += found
                begins = False
        return Spelling(tuple(words), tuple(labels), tuple(spans))

    @functools.cached_property
    def _known(self) -> dict[str, list[int]]:
        """The labels of words that have been seen: most are seen again."""
        return {}

    def _words(self, chunk: str) -> Sequence[str]:
        """The words in what has no spaces."""
        if self.marked or isinstance(self.segmenter, Whole):
            return [chunk]
        return _ALONE.findall(self._composed(chunk))

    def _composed(self, text: str) -> str:
        """The text as the tokens write it: as it is, or else in the form of which they know most."""
        if self.bare:
            parts = unicodedata.normalize("NFD", text)
            return "".join(c for c in parts if unicodedata.category(c) != "Mn")
        if all(c in self._characters for c in self._cased(text)):
            return text
        if self.compatible:
            return unicodedata.normalize("NFKC", text)
        forms = (unicodedata.normalize("NFC", text), text, unicodedata.normalize("NFD", text))
        return min(forms, key=lambda form: sum(c not in self._characters for c in self._cased(form)))

    def _labels(self, word: str) -> list[int]:
        if word in _WILD and word not in self.pieces:
            return [WILDCARD]
        written = self._cased(self._composed(word))
        if _APOSTROPHE in self._characters:
            written = "".join(c if c in self._characters else _APOSTROPHES.get(c, c) for c in written)
        parts = _PUNCTUATION.split(written) if self.apart else [written]
        labels: list[int] = []
        for part in parts:
            spoken = "".join(c for c in part if c in self._characters or _is_spoken(c))
            for label in self._pieces(spoken) if spoken else ():
                if label != WILDCARD or labels[-1:] != [WILDCARD]:
                    labels.append(label)
        # the beginning of a word that is unknown is a part of what is unknown
        if labels[1:2] == [WILDCARD] and labels[0] == self.pieces.get(MARK):
            del labels[0]
        return labels

    def _pieces(self, spoken: str) -> Iterator[int]:
        """The labels of what the segmenter cuts at once. What no piece has and nobody speaks is left out."""
        piece = as_bytes(" " * self.marked + spoken) if self.byte_level else MARK * self.marked + spoken
        for part in self.segmenter.cut(piece):
            found = self._classes(part)
            if found != [WILDCARD] or part == MARK or any(map(_is_spoken, part)):
                yield from found

    def _classes(self, piece: str) -> list[int]:
        if piece in self.pieces:
            return [self.pieces[piece]]
        found = [self.bytes_.get(byte, WILDCARD) for byte in piece.encode()]
        return [WILDCARD] if WILDCARD in found else found

    def _cased(self, word: str) -> str:
        """`word` in capitals or without, where the vocabulary has one kind of letters."""
        lower, upper = self._cases
        return word if lower == upper else word.lower() if lower else word.upper()

    @functools.cached_property
    def _cases(self) -> tuple[bool, bool]:
        """Whether there are small letters, and capitals."""
        return any(map(str.islower, self._characters)), any(map(str.isupper, self._characters))

    @functools.cached_property
    def _characters(self) -> frozenset[str]:
        return frozenset(character for label in self.pieces.values() for character in self.names[label])


def _is_spoken(character: str) -> bool:
    """Whether a character that is not in a vocabulary is heard: letters, numbers, currencies, mathematics."""
    category = unicodedata.category(character)
    return character in _SPOKEN or category[0] in "LN" or category in ("Sc", "Sm", "Mc")


def is_special(name: str) -> bool:
    """Whether no text has a name: ``<blk>``."""
    return _SPECIAL.fullmatch(name) is not None


def of_names(names: Sequence[str], blank: int = 0) -> Vocabulary:
    """The vocabulary of a list of names, by the conventions of their marks.

    ``▁`` begins a word (SentencePiece), ``##`` continues one (WordPiece), and ``|``, ``<space>`` or a space
    is between words. Without any of these, names of single characters are characters, and others whole words.
    A word is cut into as few pieces as there can be; WordPiece takes the longest first.

    Args:
        names: of the classes, from 0.
        blank: which of them is the blank.
    """
    if any(name.startswith(CONTINUES) and len(name) > len(CONTINUES) for name in names):
        names = [_begun(name) for name in names]
        pieces = _pieces(names, blank)
        return Vocabulary(tuple(names), pieces, Longest(pieces), marked=True, apart=True)
    pieces = _pieces(names, blank)
    marked = any(name.startswith(MARK) for name in pieces)
    separator = None
    if not marked:
        separator = next((names.index(name) for name in SEPARATORS if name in names), None)
        pieces = {piece: label for piece, label in pieces.items() if label != separator}
    long = sum(len(piece) > 1 for piece in pieces)
    whole = not marked and separator is None and 2 * long > len(pieces)
    segmenter: Segmenter = Whole() if whole else BestScore(dict.fromkeys(pieces, -1.0))
    return Vocabulary(tuple(names), pieces, segmenter, marked, separator, byte_classes(names))


def check_blank(names: Sequence[str], blank: int) -> None:
    """Refuse a blank that cannot be one by its name: everything would be aligned, and nothing where it is.

    Raises:
        ValueError: it is a letter, what stands between words, or the unknown token.
    """
    name = names[blank] if blank < len(names) else ""
    if name.strip("<>[]_").lower() in _BLANKS or not (
        name in SEPARATORS or name in _UNKNOWN or any(map(str.isalnum, _SPECIAL.sub("", name)))
    ):
        return
    blanks = [label for label, each in enumerate(names) if each.strip("<>[]_").lower() in _BLANKS - {""}]
    likely = f"{blanks[0]}, {names[blanks[0]]!r}" if blanks else f"{len(names)}, behind all of these"
    raise ValueError(
        f"got class {blank} for the blank, which is {name!r}, expected another: {likely}, perhaps"
    )


def of_classes(names: Sequence[str]) -> Sequence[str]:
    """Names without those behind the classes, which k2 adds to tell words apart: ``#0``, ``#1``."""
    last = next((at for at in range(len(names), 0, -1) if not _ADDED.fullmatch(names[at - 1])), 0)
    return names[:last]


def text_of(names: Iterable[str]) -> str:
    """What some names write, one behind the other; bytes are the characters that they make."""
    return re.sub(f"(?:{_BYTE.pattern})+", _of_bytes, "".join(names))


def _of_bytes(found: re.Match[str]) -> str:
    return bytes(int(byte, 16) for byte in _BYTE.findall(found[0])).decode("utf-8", "replace")


def byte_classes(names: Iterable[str]) -> dict[int, int]:
    """The classes of bytes, ``<0x41>`` say."""
    found = ((_BYTE.fullmatch(name), label) for label, name in enumerate(names))
    return {int(match[1], 16): label for match, label in found if match}


def _pieces(names: Iterable[str], blank: int) -> dict[str, int]:
    """Those of `names` that may be in a text."""
    found: dict[str, int] = {}
    for label, name in enumerate(names):
        if name and label != blank and not _SPECIAL.fullmatch(name.removeprefix(MARK) or name):
            found.setdefault(name, label)
    return found


def _begun(name: str) -> str:
    """A name of WordPiece, with the mark where a word begins."""
    if _SPECIAL.fullmatch(name):
        return name
    return name.removeprefix(CONTINUES) if name.startswith(CONTINUES) else MARK + name


def as_bytes(text: str) -> str:
    """`text` with a printable character for each of its bytes, as byte-level vocabularies are written."""
    return "".join(_BYTES[byte] for byte in text.encode())


def from_bytes(piece: str) -> str:
    """What a piece of a byte-level vocabulary is called: its text, with a mark for the space before it."""
    if not all(character in _OF_BYTES for character in piece):
        return piece  # a special name
    text = bytes(_OF_BYTES[character] for character in piece).decode("utf-8", "replace")
    return MARK + text[1:] if text.startswith(" ") else text


def _byte_table() -> list[str]:
    """A character for each byte: itself where it is printable in Latin-1, else the next one from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(256 + number) for number in range(256))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


_BYTES = _byte_table()
_OF_BYTES = {character: byte for byte, character in enumerate(_BYTES)}
