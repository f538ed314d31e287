"""What went wrong, in a line; and what is not on this machine."""

from typing import Any


class Absent(Exception):
    """A runtime is not on this machine; the message says what to install."""


class VerificationError(RuntimeError):
    """What was written does not compute what the module does; the message names the output."""


def reason(error: BaseException) -> str:
    """The line that says what was wrong first of all."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def one_line(error: Any) -> str:
    """The line of a message that says what went wrong, printable."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    telling = lines[-1] if any("Traceback" in line for line in lines) else lines[0]
    return "".join(c for c in telling.strip() if c.isprintable())
