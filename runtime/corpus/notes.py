"""What is noted of a window beside its table: kept with it, and with the part of an unfinished run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

_KEY = b"notes"


def with_notes(table: pa.Table, notes: Mapping[str, Any]) -> pa.Table:
    """A window's table with its notes, as JSON can hold them; those that are empty are left out."""
    some = {name: note for name, note in notes.items() if note}
    return table.replace_schema_metadata({_KEY: json.dumps(some)} if some else None)


def notes_of(table: pa.Table) -> dict[str, Any]:
    """What `with_notes` noted."""
    found: dict[str, Any] = json.loads((table.schema.metadata or {}).get(_KEY, b"{}"))
    return found
