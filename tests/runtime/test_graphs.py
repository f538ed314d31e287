"""Names and external data of graphs, read without onnx; and which test data are a graph's."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exportable_losses.runtime.graphs import Names, external_data, names_of
from exportable_losses.runtime.testdata import data_sets


def save(path: Path, *, x: str = "x", y: str = "y", **how: object) -> Path:
    """`y = x @ w`, where the matrix is an input with a default."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3]) for name in (x, "w", y)]
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", [x, "w"], [y])], "model", values[:2], values[2:], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path, **how)  # type: ignore[arg-type]
    return path


def write_data(folder: Path, x: str, y: str) -> None:
    folder.mkdir(exist_ok=True)
    for kind, name in (("input", x), ("output", y)):
        onnx.save_tensor(numpy_helper.from_array(np.ones((2, 3), np.float32), name), folder / f"{kind}_0.pb")


def test_names(tmp_path: Path) -> None:
    names = names_of(save(tmp_path / "a.onnx"))
    assert names == Names({"x"}, {"w"}, {"y"})
    assert [names.fit(inputs, {"y"}) for inputs in ({"x"}, {"x", "w"}, {"w"}, {"x", "z"})] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("content", [b"", b"\xff", b"no graph", b":\x05\x0a\x7f"])
def test_what_is_no_graph_has_neither(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    assert names_of(tmp_path / "a.onnx") is None
    assert external_data(tmp_path / "a.onnx") == {}


def test_external_data_in_the_folder_and_no_other(tmp_path: Path) -> None:
    how = {"save_as_external_data": True, "size_threshold": 0, "location": "a.data"}
    (tmp_path / "in").mkdir()
    path = save(tmp_path / "in" / "a.onnx", **how)
    assert external_data(path) == {"a.data": path.with_name("a.data")}
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    model = onnx.load(path, load_external_data=False)
    (place,) = [e for e in model.graph.initializer[0].external_data if e.key == "location"]
    for location in ("../secret", str(secret), "link", "missing"):
        place.value = location
        path.write_bytes(model.SerializeToString())
        (path.parent / "link").unlink(missing_ok=True)
        (path.parent / "link").symlink_to(secret)
        assert external_data(path) == {}


def test_shared_test_data_are_those_of_the_graph_that_they_fit(tmp_path: Path) -> None:
    first = save(tmp_path / "first.onnx")
    write_data(tmp_path / "test_data_set_0", "x", "y")
    assert data_sets(first) == [tmp_path / "test_data_set_0"]
    second = save(tmp_path / "second.onnx", x="frames", y="scores")
    script = Path(shutil.copy(second, tmp_path / "second.pt"))
    assert data_sets(first) == [tmp_path / "test_data_set_0"]
    assert data_sets(first.with_suffix(".pt")) == [tmp_path / "test_data_set_0"]  # another format of it
    assert data_sets(second) == data_sets(script) == data_sets(tmp_path / "third.pt2") == []
    (tmp_path / "broken.onnx").touch()  # which is found out where it is run
    assert data_sets(tmp_path / "broken.onnx") == [tmp_path / "test_data_set_0"]


def test_a_graph_alone_keeps_whatever_there_is(tmp_path: Path) -> None:
    write_data(tmp_path / "test_data_set_0", "other", "names")
    assert data_sets(save(tmp_path / "first.onnx")) == [tmp_path / "test_data_set_0"]
