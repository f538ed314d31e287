import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from exportable_losses.export.commands import app

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # the demo is a script, and its parts stand beside it


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
