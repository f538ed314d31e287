"""A lock on a folder: one run at a time. The system lets go of it when the process ends, however it does."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


class Lock:
    """Held until `release`, or until the process ends.

    A filesystem that knows no locks goes without.

    Args:
        path: a file that says who holds it.
        got: what an error begins with.

    Raises:
        BlockingIOError: another process holds it, or another run of this one.
    """

    def __init__(self, path: Path, got: str) -> None:
        while True:
            self._file = open(path, "a+b")  # noqa: SIM115  # open for as long as it is held
            try:
                _lock(self._file.fileno())
            except OSError as error:
                holder = path.read_text(errors="replace")
                self._file.close()
                if error.errno in _HELD:
                    writer = holder or "another process"
                    raise BlockingIOError(f"{got}, to which {writer} writes now, expected another") from error
                return
            if _same(path, self._file.fileno()):
                break
            self._file.close()  # whoever held it has finished, and removed it
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} of {socket.gethostname()}".encode())
        self._file.flush()

    def release(self) -> None:
        """Let go."""
        self._file.close()


def _lock(file: int) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        os.lseek(file, 1 << 30, os.SEEK_SET)  # beyond what it says, which others may read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)


def _same(path: Path, file: int) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(file))
    return False
