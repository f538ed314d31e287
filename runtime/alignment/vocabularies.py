"""Files of vocabularies: lists of tokens, SentencePiece, Hugging Face."""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files import check_regular
from ..protobuf import message
from .segmentation import BestScore, Merges, Segmenter
from .tokens import MARK, Vocabulary, byte_classes, check_blank, from_bytes, is_special, of_names

_NORMAL, _USER_DEFINED = 1, 4  # types of a piece of SentencePiece
_UNIGRAM, _BPE = 1, 2  # and of its models


def read_tokens(path: str | os.PathLike[str], blank: int = 0) -> Vocabulary:
    """The vocabulary in a file.

    Args:
        path: a list of tokens, one per line or with its number behind it, as Kaldi and k2 have it; a
            ``.model`` or ``.vocab`` file of SentencePiece; a ``tokenizer.json`` or ``vocab.json`` of Hugging
            Face. Only a ``.model`` and a ``tokenizer.json`` say for sure how words are cut into pieces.
        blank: the class of the blank, which no text has. It may be behind all that have names.

    Raises:
        OSError: it is not there.
        ValueError: it is no such file, or the name of `blank` is that of something else; the message says
            what came and what was expected.

    Examples:
        Where ``tokens.txt`` has the blank, a bar, and the letters from ``a``, one per line::

            read_tokens("tokens.txt").spell("it rains").labels  # (10, 21, 1, 19, 2, 10, 15, 20)
    """
    check_regular("tokens", path)
    content = Path(path).read_bytes()
    kinds = {".model": _sentencepiece, ".vocab": _scored, ".json": _hugging_face}
    read: Callable[[bytes, int], Vocabulary] = kinds.get(Path(path).suffix, _listed)
    try:
        found = read(content, blank)
        check_blank(found.names, blank)
    except (AttributeError, IndexError, KeyError, TypeError, struct.error, ValueError) as error:
        why = error if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise ValueError(f"tokens: got {os.fspath(path)}, expected a vocabulary: {why}") from error
    if not found.pieces:
        raise ValueError(f"tokens: got {os.fspath(path)}, which has none, expected a vocabulary")
    return found


def _listed(content: bytes, blank: int) -> Vocabulary:
    """A token per line, with its number behind it in all lines or in none."""
    lines = content.decode("utf-8-sig").removesuffix("\n").split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    parts = [line.split() for line in lines if line.strip()]
    if not parts or not all(len(part) == 2 and part[1].isdecimal() for part in parts):
        return of_names([line.rstrip() or line for line in lines], blank)
    numbers = {token: int(number) for token, number in parts}
    if len(numbers) < len(parts):
        twice = _twice(token for token, _ in parts)
        raise ValueError(f"got {twice!r} more than once, expected each token once")
    return of_names(_in_order(numbers), blank)


def _scored(content: bytes, blank: int) -> Vocabulary:
    """A piece and its score per line. Those of byte-pair encoding are ranks."""
    scores: dict[str, float] = {}
    for number, line in enumerate(content.decode("utf-8-sig").removesuffix("\n").split("\n"), 1):
        piece, tab, score = line.removesuffix("\r").rpartition("\t")
        if not tab:
            raise ValueError(f"got {line!r} in line {number}, expected a piece, a tab and its score")
        if piece in scores:  # those behind it would have other classes
            raise ValueError(f"got {piece!r} again in line {number}, expected each piece once")
        scores[piece] = float(score)
    ranks = all(score.is_integer() for score in scores.values())
    vocabulary = of_names(list(scores), blank)
    of_pieces = {piece: scores[piece] for piece in vocabulary.pieces}
    return replace(vocabulary, segmenter=_segmenter_of(of_pieces, ranks))


def _sentencepiece(content: bytes, blank: int) -> Vocabulary:
    """A ModelProto: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto."""
    model = message(content)
    names: list[str] = []
    scores: dict[str, float] = {}
    defined = False
    for label, each in enumerate(map(message, model.get(1, []))):
        names.append(bytes(each[1][0]).decode("utf-8"))
        if label != blank and each.get(3, [_NORMAL])[0] in (_NORMAL, _USER_DEFINED):
            defined |= each.get(3) == [_USER_DEFINED] and not is_special(names[-1])
            (scores[names[-1]],) = struct.unpack("<f", each[2][0]) if 2 in each else (0.0,)
    trainer, normalizer = (message(model[field][0]) if field in model else {} for field in (2, 3))
    _refuse(
        {
            "split_by_whitespace=false": trainer.get(22, [1])[0] == 0,
            "treat_whitespace_as_suffix=true": trainer.get(24, [0])[0] == 1,
            "add_dummy_prefix=false": normalizer.get(3, [1])[0] == 0,
            "user_defined_symbols of BPE": defined and trainer.get(3, [_UNIGRAM])[0] == _BPE,
        }
    )
    return Vocabulary(
        tuple(names),
        {name: label for label, name in enumerate(names) if name in scores},
        _segmenter_of(scores, trainer.get(3, [_UNIGRAM])[0] == _BPE),
        marked=True,
        bytes_=byte_classes(names),
        compatible=b"nfkc" in bytes(normalizer.get(1, [b""])[0]),
    )


def _refuse(settings: Mapping[str, bool]) -> None:
    """Refuse settings by which a tokenizer cuts otherwise than is done here."""
    found = [setting for setting, is_set in settings.items() if is_set]
    if found:
        raise ValueError(f"got {', '.join(found)}, expected a tokenizer without; a list of tokens may do")


def _segmenter_of(scores: Mapping[str, float], ranks: bool) -> Segmenter:
    return Merges({piece: -score for piece, score in scores.items()}) if ranks else BestScore(scores)


def _hugging_face(content: bytes, blank: int) -> Vocabulary:
    """A ``tokenizer.json``, or a ``vocab.json``: names and numbers."""
    data = json.loads(content, object_pairs_hook=_once)
    if not isinstance(data, dict):
        raise ValueError(f"got {type(data).__name__}, expected an object")
    if "model" not in data:
        return of_names(_in_order(data), blank)
    model, added = data["model"], data.get("added_tokens", [])
    vocab = model["vocab"]
    numbers = vocab if isinstance(vocab, dict) else {piece: label for label, (piece, _) in enumerate(vocab)}
    names = _in_order({**numbers, **{each["content"]: each["id"] for each in added}})
    special = {each["content"] for each in added if each.get("special")}
    special |= {model.get("unk_token") or "", names[blank] if blank < len(names) else ""}
    kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    if kind == "WordLevel" or (kind == "WordPiece" and model.get("continuing_subword_prefix") != "##"):
        return of_names(["" if name in special else name for name in names], blank)
    before, normal = _parts(data.get("pre_tokenizer")), _parts(data.get("normalizer"))
    bare = any(_strips_accents(each) for each in normal)
    _refuse({"Replace": any(each.get("type") == "Replace" and not _marks_spaces(each) for each in normal)})
    if kind == "WordPiece":
        return replace(of_names(names, blank), bare=bare)
    _refuse(
        {
            "end_of_word_suffix": bool(model.get("end_of_word_suffix")),
            "continuing_subword_prefix": bool(model.get("continuing_subword_prefix")),
            'prepend_scheme="never"': any(each.get("prepend_scheme") == "never" for each in before),
            "add_prefix_space=false": any(each.get("add_prefix_space") is False for each in before),
        }
    )
    bytes_ = byte_classes(names) if model.get("byte_fallback") else {}
    pieces = {
        name: label
        for label, name in enumerate(names)
        if name and name not in special and label not in bytes_.values()
    }
    byte_level = "ByteLevel" in _types(data.get("pre_tokenizer")) | _types(data.get("decoder"))
    return Vocabulary(
        tuple(map(from_bytes, names) if byte_level else names),
        pieces,
        _segmenter(kind, model, pieces),
        marked=byte_level or any(name.startswith(MARK) for name in pieces),
        bytes_=bytes_,
        byte_level=byte_level,
        compatible=bool({"NFKC", "NFKD", "Precompiled"} & _types(data.get("normalizer"))),
        bare=bare,
    )


def _strips_accents(normalizer: Mapping[str, Any]) -> bool:
    """BERT's does where it is told to, or is not and writes small letters."""
    if normalizer.get("type") != "BertNormalizer":
        return normalizer.get("type") == "StripAccents"
    told = normalizer.get("strip_accents")
    return bool(normalizer.get("lowercase") if told is None else told)


def _marks_spaces(normalizer: Mapping[str, Any]) -> bool:
    return normalizer.get("pattern") == {"String": " "} and normalizer.get("content") == MARK


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, of which Python would take the last where a name is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"got {_twice(name for name, _ in pairs)!r} more than once, expected each name once")
    return found


def _twice(names: Iterable[str]) -> str:
    """The first that is there more than once."""
    return next(name for name, count in Counter(names).items() if count > 1)


def _segmenter(kind: str, model: Mapping[str, Any], pieces: Mapping[str, int]) -> Segmenter:
    """What cuts words as the tokenizer does."""
    if kind == "Unigram":
        return BestScore({piece: float(score) for piece, score in model["vocab"] if piece in pieces})
    if kind == "BPE":
        pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
        return Merges({(left, right): rank for rank, (left, right) in enumerate(pairs)})
    raise ValueError(f"got a model {kind}, expected BPE, Unigram, WordLevel or WordPiece")


def _types(part: Any) -> set[str]:
    return {each.get("type", "") for each in _parts(part)}


def _parts(part: Any) -> list[dict[str, Any]]:
    """A part of a tokenizer, and those that it is a sequence of."""
    if not isinstance(part, dict):
        return []
    inner = [each for value in part.values() if isinstance(value, list) for each in value]
    return [part, *(found for each in inner for found in _parts(each))]


def _in_order(numbers: Mapping[str, int]) -> Sequence[str]:
    """Names by their numbers from 0; an empty one where a number is missing.

    Raises:
        ValueError: one number is that of two names, or is none.
    """
    named: dict[int, str] = {}
    for name, number in numbers.items():
        if not isinstance(name, str):
            raise ValueError(f"got {name!r} for the name of a class, expected text")
        if not isinstance(number, int) or not 0 <= number < 10 * len(numbers) + 1000:
            raise ValueError(f"got {number} for {name!r}, expected the number of a class")
        if number in named:
            raise ValueError(f"got {number} for {named[number]!r} and {name!r}, expected one name for each")
        named[number] = name
    return [named.get(number, "") for number in range(max(named, default=-1) + 1)]
