import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from exportable_losses.export.checking.runners import torch_alone
from exportable_losses.export.commands import app

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # the demo is a script, and its parts stand beside it

# Loads torch and nothing else, then forks for every line "[WORDS, FOLDER]" and runs the code of `torch_only`
# there: as fresh as a process of its own, and two seconds sooner. It answers with the exit code.
_TORCH_LOADED = """
import json, os, sys
import torch.export.pt2_archive

code = compile(sys.argv[1], "torch_only", "exec")
for line in sys.stdin:
    words, folder = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.dup2(os.open("stdout", os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT), 2)
        sys.argv[1:] = words
        exec(code, {"__name__": "__main__"})
        sys.exit()
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(scope="session")
def torch_loaded() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Does what `torch_alone.fresh_process` does; torch is loaded once for the whole session."""
    if not hasattr(os, "fork"):
        yield torch_alone.fresh_process
        return
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _TORCH_LOADED, torch_alone.CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            folder = Path(words[-1]).parent
            server.stdin.write(f"{json.dumps([words, str(folder)])}\n")
            server.stdin.flush()
            code = int(server.stdout.readline())
            return subprocess.CompletedProcess(words, code, "", (folder / "stderr").read_text())

        yield run


@pytest.fixture
def torch_is_loaded(torch_loaded, monkeypatch):
    """Runners that start a process with torch alone find it loaded."""
    monkeypatch.setattr(torch_alone, "fresh_process", torch_loaded)


@pytest.fixture(scope="session")
def cli() -> Callable[..., Result]:
    """Calls the command line with some words; checks that it ends without a traceback."""

    def call(*words: object) -> Result:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


@pytest.fixture(scope="session")
def exported(cli: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows in both formats; only to be read."""
    folder = tmp_path_factory.mktemp("exported")
    result = cli("export", "ctc_loss", "PitWrapper", "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def losses(exported: Path, tmp_path: Path) -> Path:
    """The same two rows, to be broken."""
    return shutil.copytree(exported, tmp_path / "losses")


@pytest.fixture
def graphs(losses: Path) -> Path:
    """The graphs without the scripts: quicker, for no process with torch is needed."""
    for script in losses.glob("*/*.pt"):
        script.unlink()
    return losses
