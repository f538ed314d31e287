"""What a file says of itself may be anything: it is read, or refused with what is wrong with it."""

import json
from pathlib import Path
from typing import Any

import exports
import onnx
import pytest

import exportable_losses
from exportable_losses import CTCLoss
from exportable_losses.export import attach
from exportable_losses.runtime import LossSession
from exportable_losses.runtime.metadata import KEY


@pytest.fixture
def graph(tmp_path: Path) -> Any:
    """A file of `ctc_loss` that says what it is told to."""
    model = onnx.load(exports.onnx(CTCLoss(0, reduction="none")))
    (about,) = [json.loads(prop.value) for prop in model.metadata_props if prop.key == KEY]

    def save(change: Any) -> Path:
        said = change if isinstance(change, str) else json.dumps(change(about) or about)
        (prop,) = [prop for prop in model.metadata_props if prop.key == KEY]
        prop.value = said
        onnx.save(model, tmp_path / "loss.onnx")
        return tmp_path / "loss.onnx"

    return save


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("{", "metadata that is no JSON: "),
        ("", "metadata that is no JSON: "),
        ("[" * 100_000, "metadata that is no JSON: "),
        ("[]", "metadata that is a list, expected a JSON object"),
        ("null", "metadata that is null, expected a JSON object"),
        ("3", "metadata that is a number, expected a JSON object"),
        ('"ctc_loss"', "metadata that is a text, expected a JSON object"),
        ("{}", r"which .* does not read: it has no row"),
    ],
)
def test_metadata_that_is_no_object(said: str, reason: str, graph: Any, tmp_path: Path) -> None:
    path = graph(said)
    with pytest.raises(ValueError, match=rf"^graph: got (metadata of .*)?{reason}"):
        LossSession(path)
    with pytest.raises(ValueError, match=r"^graph: got metadata"):
        attach(path, path, tmp_path / "joint.onnx", inputs={"log_probs": "loss"})


def test_metadata_of_a_newer_writer_says_which(graph: Any) -> None:
    def newer(about: Any) -> None:
        about["version"] = "9.1.0"
        about["contract"]["inputs"][0]["unit"] = "seconds"

    here = exportable_losses.__version__
    message = (
        rf"got metadata of exportable-losses 9\.1\.0, which {here} does not read: .*inputs\[0\] has unit"
    )
    with pytest.raises(ValueError, match=message):
        LossSession(graph(newer))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda about: about.update(settings=[]), "settings is a list"),
        (lambda about: about["settings"].update(blank_index=[]), "blank_index is a list"),
        (lambda about: about["settings"].update(blank_index=True), "blank_index is a truth value"),
        (lambda about: about["contract"].pop("outputs"), "contract has no outputs"),
        (lambda about: about["contract"]["inputs"][1].update(legal="emoji"), "targets takes emoji"),
        (lambda about: about["contract"]["inputs"][1].update(dims="B S? ,"), "has the dimensions B S"),
        (lambda about: about["contract"]["inputs"][0].update(name="x"), "an input 'x', expected one of"),
        (lambda about: about["contract"]["totals"][0].update(kind="median"), "loss adds up as median"),
        (lambda about: about["contract"]["totals"][0].update(output="y"), "an output that adds up 'y'"),
        (lambda about: about["contract"]["totals"][0].update(only=[1]), "adds up only with|not iterable"),
        (lambda about: about["contract"].update(outputs=["y"]), "'y', expected one of|that adds up"),
        (lambda about: about["contract"]["outputs"].append("y"), "an output 'y', expected one of loss"),
        (lambda about: about.update(more={}), "more is an object, expected a list"),
        (lambda about: about.update(more=["ctc_loss"]), "it is a text"),
    ],
)
def test_metadata_that_contradicts_the_graph_or_itself(change: Any, reason: str, graph: Any) -> None:
    with pytest.raises(ValueError, match=f"^graph: got metadata .*({reason})"):
        LossSession(graph(lambda about: change(about) and None))


def test_what_is_said_beside_is_not_looked_at(graph: Any) -> None:
    """A newer version may say more, where it takes nothing away."""
    session = LossSession(graph(lambda about: about.update(author="somebody")))
    assert session.metadata["author"] == "somebody"
    assert len(session.losses) == 1
