"""An actor of a run on Ray, here in this process: what goes to it, and when it refuses."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from corpora import items_of, write
from onnx import TensorProto, helper
from test_runs import IDS

from exportable_losses.runtime import Scorer
from exportable_losses.runtime.corpus import cluster as on_ray
from exportable_losses.runtime.corpus.about import environment
from exportable_losses.runtime.corpus.reading import windows


def linear(path: Path) -> Path:
    """A model that adds weights, which it keeps in a file beside it, to the log-probabilities."""
    weights = onnx.numpy_helper.from_array(np.zeros((1, 1, 9), np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("Add", ["scores", "weights"], ["log_probs"])],
        "model",
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "T", 9])],
        [helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["B", "T", 9])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    beside = {"save_as_external_data": True, "location": "weights", "size_threshold": 0}
    onnx.save(model, path, **beside)
    return path


@pytest.fixture
def act(tmp_path: Path) -> Callable[..., Any]:
    """What an actor gives that is handed a corpus, and the files of a scorer as they are elsewhere."""
    items = [{"scores": item.pop("log_probs"), **item} for item in items_of("ctc_loss", 8)]
    shard = str(write("npz", tmp_path / "dev", items, IDS[:8]))

    def act(scorer: Scorer, expected: dict[str, Any] | None = None, **elsewhere: str) -> Any:
        paths = {name: scorer.settings[name] for name in ("graph", "model")}
        planned = list(windows([shard], scorer.columns))
        sent = {name: (elsewhere.get(name, path), Path(path).read_bytes()) for name, path in paths.items()}
        settings = {**scorer.settings, **dict.fromkeys(paths)}
        actor = on_ray._Actor(settings, sent, expected or environment(scorer))
        given = [
            pickle.loads(each) for row in actor({"run": [pickle.dumps(planned)]}) for each in row["result"]
        ]
        assert len(given) == 1
        return given[0] if isinstance(given[0], Exception) else (given[0], next(scorer.score(planned)))

    return act


def test_the_graph_goes_along(act: Any, graphs: Any, tmp_path: Path) -> None:
    scorer = Scorer(graphs["ctc_loss"], model=linear(tmp_path / "model.onnx"))
    other = tmp_path / "other.onnx"
    other.write_bytes(graphs["l1_loss"].read_bytes())
    for path in ("/nowhere/ctc_loss.onnx", str(other)):  # another file of that name is not taken
        there, here = act(scorer, graph=path)
        assert there == here
        assert not any(there[1]["reason"].to_pylist())


def test_what_is_beside_a_model_does_not(act: Any, graphs: Any, tmp_path: Path) -> None:
    scorer = Scorer(graphs["ctc_loss"], model=linear(tmp_path / "model.onnx"))
    error = act(scorer, model="/nowhere/model.onnx")
    assert isinstance(error, RuntimeError)
    assert re.fullmatch("workers: .* cannot run the graph: .*/weights.*", str(error))


def test_a_worker_of_another_version_refuses(act: Any, graphs: Any, tmp_path: Path) -> None:
    scorer = Scorer(graphs["ctc_loss"], model=linear(tmp_path / "model.onnx"))
    error = act(scorer, {**environment(scorer), "onnxruntime": "1.0"})
    assert isinstance(error, RuntimeError)
    assert str(error).startswith(f"workers: got onnxruntime {environment(scorer)['onnxruntime']} on ")
