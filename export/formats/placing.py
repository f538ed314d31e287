"""Files that are there as a whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def placed(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The path in a new folder to write to; at the end all that is there goes beside `path` and to it.

    What has these names is replaced then, and left as it was where something fails.
    """
    target = Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export") as folder:
        new = Path(folder) / target.name
        yield new
        for made in sorted(
            Path(folder).iterdir(), key=lambda each: each == new
        ):  # what it needs is before it
            if made.is_dir():
                shutil.rmtree(target.parent / made.name, ignore_errors=True)
            os.replace(made, target.parent / made.name)
