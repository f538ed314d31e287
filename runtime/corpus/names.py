"""Columns of a corpus that nothing reads, since their name is misspelled perhaps."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from .rows import ID

_INDEX = "__index_level_"  # how pandas calls what is no column of the user's
_NAMES = {"id", "ids", "key", "uid", "uuid", "utt"}  # words of what may be meant as the id
_SHOWN = 8


def unused_columns(found: Iterable[str], wanted: Sequence[str]) -> dict[str, str]:
    """The columns that nothing reads, each with the missing one that its name is close to, or nothing.

    Examples:
        >>> unused_columns(["utt_id", "log_probs", "input_len", "speaker"], ["log_probs", "input_lens"])
        {'utt_id': 'id', 'input_len': 'input_lens', 'speaker': ''}
    """
    found = list(found)
    missing = [name for name in wanted if name not in found]
    unused = [name for name in found if name not in (ID, *wanted) and not name.startswith(_INDEX)]
    return {name: _close(name, missing, ID not in found) for name in unused}


def _close(name: str, missing: Sequence[str], no_id: bool) -> str:
    close = difflib.get_close_matches(name.lower(), missing, 1, 0.75)
    if not close and no_id and _NAMES & set(re.split(r"[^a-z]+", name.lower())):
        return ID
    return close[0] if close else ""


def as_text(unused: Mapping[str, str]) -> str:
    """The names on one line, those first that are close to another.

    Examples:
        >>> as_text({"speaker": "", "input_len": "input_lens"})
        'input_len (close to input_lens), speaker'
    """
    ordered = sorted(unused, key=lambda name: (not unused[name], name))
    shown = [f"{name} (close to {unused[name]})" if unused[name] else name for name in ordered[:_SHOWN]]
    more = len(ordered) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
