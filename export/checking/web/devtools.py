"""A Chromium without a window, told what to do through its DevTools protocol, over a socket of our own.

The protocol: https://chromedevtools.github.io/devtools-protocol
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# the browser reads from the file descriptor 3 and writes to 4
_START = """
import os, sys
for number in (3, 4):
    os.dup2(int(sys.argv[1]), number)
os.execv(sys.argv[2], sys.argv[2:])
"""


def browser() -> str | None:
    """The path of a Chromium on this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Page:
    """A page of a browser that is told what to do.

    Args:
        connection: to the browser, which has just started.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self._calls = 0
        self._session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What a method of the protocol answers.

        Raises:
            RuntimeError: it answers with an error.
            ConnectionError: the browser has ended.
            TimeoutError: it does not answer.
        """
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params, **self._session}
        self._connection.sendall(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._calls:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def go(self, address: str) -> None:
        """Open an address, and wait until all of it is there.

        Raises:
            RuntimeError: it cannot be opened.
        """
        self.call("Page.enable")
        problem = self.call("Page.navigate", url=address).get("errorText")
        if problem:
            raise RuntimeError(f"{address}: {problem}")
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def run(self, expression: str) -> Any:
        """The value of an expression of JavaScript, once it is there where it is a promise.

        Raises:
            RuntimeError: it throws.
        """
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(done["result"].get("description", "the page threw something"))
        return done["result"].get("value")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            piece = self._connection.recv(1 << 20)
            if not piece:
                raise ConnectionError("the browser has ended")
            self._received += piece
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)


@contextlib.contextmanager
def page(path: str, seconds: float = 120) -> Iterator[Page]:
    """A page of a browser of its own, which ends with it.

    Args:
        path: the browser.
        seconds: how long an answer may take.

    Example::

        with page(browser()) as opened:
            opened.go("http://127.0.0.1:8000")
            title = opened.run("document.title")
    """
    fixed = ["--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"]
    fixed.append("--disable-dev-shm-usage")  # there is little of it in containers
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        fixed.append("--no-sandbox")  # which does not start for root, in a container say
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, contextlib.ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        command = [path, *fixed, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs.fileno()), *command],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        ours.settimeout(seconds)
        try:
            yield Page(ours)
        finally:
            process.terminate()
            process.wait()
