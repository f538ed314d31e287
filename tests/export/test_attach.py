"""A model and a loss in one graph compute what they compute one after the other."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_cases import BY_NAME, Case, Export
from onnx import TensorProto, helper, numpy_helper
from onnx_runs import as_arrays
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.export import attach, joint, to_onnx
from exportable_losses.export.functions import same_operator
from exportable_losses.library import library_path
from exportable_losses.runtime import LossSession

OURS = "exportable_losses"
FLOAT, DOUBLE, HALF = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16
NEWEST = onnx.defs.onnx_opset_version()
CLASSES = 7
WEIGHT = np.random.default_rng(0).normal(size=(4, CLASSES)).astype(np.float32)
LABELS = {
    "targets": np.array([[1, 2, 3], [4, 4, 0]]),
    "input_lens": np.array([1, 0.75], np.float32),
    "target_lens": np.array([1, 2 / 3], np.float32),
}
X = np.random.default_rng(1).normal(size=(2, 12, 4)).astype(np.float32)
natives = pytest.mark.parametrize("native", [True, False])


def value(name: str, kind: int, dims: Sequence[Any] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    *,
    opset: int = 18,
    initializers: Mapping[str, np.ndarray] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()]
    graph = helper.make_graph(nodes, "model", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", opset)]
    more = {"ir_version": 10 if opset > 20 else 8, **more}
    return helper.make_model(graph, opset_imports=opsets, producer_name="theirs", **more)


def recogniser(
    scores: str = "logits",
    opset: int = 18,
    dims: Sequence[Any] = ("batch", "frames", CLASSES),
    layout: str = "BTC",
    **more: Any,
) -> onnx.ModelProto:
    """`x` times a matrix, as logits, probabilities or log-probabilities."""
    nodes = [helper.make_node("MatMul", ["x", "W"], ["y"], "project")]
    if layout == "TBC":
        nodes.append(helper.make_node("Transpose", ["y"], ["turned"], "turn", perm=[1, 0, 2]))
        dims = [dims[1], dims[0], dims[2]]
    op = {"logits": "Identity", "probs": "Softmax", "log_probs": "LogSoftmax"}[scores]
    axis = {} if scores == "logits" else {"axis": 2}
    nodes.append(helper.make_node(op, [nodes[-1].output[0]], ["scores"], "last", **axis))
    inputs = [value("x", FLOAT, ["batch", "frames", 4])]
    outputs = [value("scores", FLOAT, dims)]
    return model_of(nodes, inputs, outputs, opset=opset, initializers={"W": WEIGHT}, **more)


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def run(path: Path | onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    source = str(path) if isinstance(path, Path) else path.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


def two_steps(x: np.ndarray = X, labels: Mapping[str, np.ndarray] = LABELS) -> np.ndarray:
    """The costs in eager torch behind numpy's product, in float64."""
    logits = torch.from_numpy(x.astype(np.float64) @ WEIGHT.astype(np.float64))
    tensors = {name: torch.from_numpy(array) for name, array in labels.items()}
    return el.CTCLoss(reduction="none")(logits.log_softmax(-1), **tensors).numpy()


def about(model: onnx.ModelProto) -> dict[str, Any]:
    [found] = [json.loads(prop.value) for prop in model.metadata_props if prop.key == OURS]
    return found


def dims_of(model: onnx.ModelProto) -> dict[str, list[Any]]:
    return {
        v.name: [dim.dim_value or dim.dim_param for dim in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.output)
    }


@pytest.fixture(scope="session")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ctc") / "ctc_loss.onnx"
    to_onnx(el.CTCLoss(reduction="none"), path)
    return path


Join = Callable[..., LossSession]


@pytest.fixture
def join(ctc: Path, tmp_path: Path) -> Join:
    """Attaches the CTC loss to a model, has the checker look at it, and opens it."""

    def joined(model: onnx.ModelProto, native: Any = "auto", **settings: Any) -> LossSession:
        path = tmp_path / "joint.onnx"
        settings = {"inputs": {"log_probs": "scores"}, **settings}
        attach(save(model, tmp_path / "model.onnx"), ctc, path, **settings)
        onnx.checker.check_model(str(path), full_check=True)
        return LossSession(path, native=native)

    return joined


# Values


@natives
@pytest.mark.parametrize("layout", ["BTC", "TBC"])
@pytest.mark.parametrize("scores", ["logits", "probs", "log_probs"])
def test_one_graph_computes_what_two_steps_do(scores: str, layout: str, native: bool, join: Join) -> None:
    if native and library_path() is None:
        pytest.skip("there is no native library")
    session = join(recogniser(scores, layout=layout), native, scores=scores, layout=layout)
    assert session.inputs == ["x", "targets", "input_lens", "target_lens"]
    assert session.outputs == ["scores", "loss"]
    got = session(x=X, **LABELS)
    np.testing.assert_allclose(got["loss"], two_steps(), rtol=1e-5)
    np.testing.assert_array_equal(got["scores"], run(recogniser(scores, layout=layout), {"x": X})["scores"])


def test_other_sizes_than_those_of_the_example(join: Join) -> None:
    session = join(recogniser())
    for batch, frames in ((1, 3), (2, 40)):
        x = np.random.default_rng(batch).normal(size=(batch, frames, 4)).astype(np.float32)
        labels = {name: array[:batch] for name, array in LABELS.items()}
        labels["input_lens"] = np.ones(batch, np.float32)
        np.testing.assert_allclose(session(x=x, **labels)["loss"], two_steps(x, labels), rtol=1e-5)


# One graph of each row, the plainest
ROWS = {row: next(case for case in BY_NAME.values() if case.row == row) for row in catalog.names()}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_behind_a_model_of_its_first_input(row: str, export: Export, tmp_path: Path) -> None:
    case: Case = ROWS[row]
    loss = export(case) / "model.onnx"
    feed = as_arrays(case.inputs("short", seed=3))
    first = next(iter(feed))
    kind = helper.np_dtype_to_tensor_dtype(feed[first].dtype)
    dims = [f"d{i}" for i in range(feed[first].ndim)]
    node = helper.make_node("Identity", ["raw"], ["given"])
    model = model_of([node], [value("raw", kind, dims)], [value("given", kind, dims)], opset=21)
    legal = case.entry.inputs[0].legal
    scores = {"log_probability": "log_probs", "probability": "probs"}.get(legal, "logits")
    path = tmp_path / "joint.onnx"
    attach(save(model, tmp_path / "model.onnx"), loss, path, inputs={first: "given"}, scores=scores)
    onnx.checker.check_model(str(path), full_check=True)
    expected = LossSession(loss)(**feed)
    raw = feed.pop(first)
    session = LossSession(path)
    got = session(raw=raw, **feed)
    for name, array in expected.items():
        np.testing.assert_allclose(got[about(onnx.load(path))["attached"]["outputs"][name]], array, rtol=1e-6)


@pytest.mark.parametrize("scores", ["logits", "log_probs", "probs"])
def test_a_transducer_takes_any_scores(scores: str, tmp_path: Path) -> None:
    loss = tmp_path / "transducer.onnx"
    to_onnx(el.TransducerLoss(reduction="none"), loss)
    feed = {k: v.numpy() for k, v in catalog.get("transducer_loss").example_inputs().items()}
    expected = LossSession(loss)(**feed)["loss"]
    op = {"logits": "Identity", "probs": "Softmax", "log_probs": "LogSoftmax"}[scores]
    kinds = [FLOAT, ["n", "t", "u1", 8]]
    model = model_of([helper.make_node(op, ["x"], ["y"])], [value("x", *kinds)], [value("y", *kinds)])
    path = tmp_path / "joint.onnx"
    attach(save(model, tmp_path / "m.onnx"), loss, path, inputs={"logits": "y"}, scores=scores)
    x = feed.pop("logits")
    np.testing.assert_allclose(LossSession(path)(x=x, **feed)["loss"], expected, rtol=1e-5)
    time_first = tmp_path / "time_first.onnx"
    attach(tmp_path / "m.onnx", loss, time_first, inputs={"logits": "y"}, scores=scores, layout="TBC")
    got = LossSession(time_first)(x=x.swapaxes(0, 1), **feed)["loss"]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_probabilities_from_logits_and_log_probabilities(tmp_path: Path) -> None:
    loss = tmp_path / "distance.onnx"
    to_onnx(el.DistanceDiffLoss(reduction="batch"), loss)
    feed = {k: v.numpy() for k, v in catalog.get("distance_diff_loss").example_inputs().items()}
    expected = LossSession(loss)(**feed)["loss"]
    kinds = [FLOAT, ["n", "t"]]
    model = model_of([helper.make_node("Log", ["p"], ["y"])], [value("p", *kinds)], [value("y", *kinds)])
    save(model, tmp_path / "m.onnx")
    p = feed.pop("predictions")
    for scores in ("logits", "log_probs"):  # the softmax of log-probabilities is the probabilities
        attach(tmp_path / "m.onnx", loss, tmp_path / "j.onnx", inputs={"predictions": "y"}, scores=scores)
        np.testing.assert_allclose(LossSession(tmp_path / "j.onnx")(p=p, **feed)["loss"], expected, rtol=1e-5)


def test_a_module_needs_no_file(tmp_path: Path) -> None:
    save(recogniser(), tmp_path / "model.onnx")
    before = sorted(tmp_path.iterdir())
    loss, path = el.CTCLoss(reduction="none"), tmp_path / "joint.onnx"
    model = attach(tmp_path / "model.onnx", loss, path, inputs={"log_probs": "scores"})
    assert sorted(tmp_path.iterdir()) == sorted([*before, path])  # nothing else is left
    assert model == onnx.load(path)
    np.testing.assert_allclose(LossSession(path)(x=X, **LABELS)["loss"], two_steps(), rtol=1e-5)


def test_a_module_is_exported_as_the_model_wants_it(tmp_path: Path) -> None:
    """In float64, without a dimension that may be left out, with a weight for each of its classes."""
    kinds = [DOUBLE, ["n", 9]]
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], [value("x", *kinds)], [value("y", *kinds)])
    save(model, tmp_path / "m.onnx")
    loss = el.NLLLoss(weight=torch.arange(1.0, 10), reduction="batch")
    attach(tmp_path / "m.onnx", loss, tmp_path / "j.onnx", inputs={"log_probabilities": "y"})
    x, targets = np.random.default_rng(0).normal(size=(3, 9)), np.array([1, 8, 0])
    got = LossSession(tmp_path / "j.onnx")(x=x, targets=targets)["loss"]
    log_probs = torch.from_numpy(x).log_softmax(-1)
    expected = loss.double()(log_probs, torch.from_numpy(targets))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("classes", [30, "classes"])
def test_the_blank_may_be_the_last_of_many_classes(classes: Any, tmp_path: Path) -> None:
    kinds = [FLOAT, ["n", "t", classes]]
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], [value("x", *kinds)], [value("y", *kinds)])
    save(model, tmp_path / "m.onnx")
    loss, path = el.CTCLoss(blank_index=29, reduction="none"), tmp_path / "j.onnx"
    attach(tmp_path / "m.onnx", loss, path, inputs={"log_probs": "y"}, scores="log_probs")
    feed = catalog.get("ctc_loss").example_inputs(blank_index=29, C=30)
    arrays = {name: tensor.numpy() for name, tensor in feed.items()}
    got = LossSession(path)(x=arrays.pop("log_probs"), **arrays)["loss"]
    np.testing.assert_allclose(got, loss(**feed).numpy(), rtol=1e-5)


def test_half_precision_is_cast(join: Join) -> None:
    model = recogniser("probs")
    model.graph.node.append(helper.make_node("Cast", ["scores"], ["half"], to=HALF))
    model.graph.output.append(value("half", HALF, ["batch", "frames", CLASSES]))
    session = join(model, inputs={"log_probs": "half"}, scores="probs")
    np.testing.assert_allclose(session(x=X, **LABELS)["loss"], two_steps(), rtol=1e-3)


def test_lengths_from_the_model(join: Join) -> None:
    model = recogniser()
    model.graph.node.append(helper.make_node("Identity", ["lens"], ["out_lens"]))
    model.graph.input.append(value("lens", FLOAT, ["batch"]))
    model.graph.output.append(value("out_lens", FLOAT, ["batch"]))
    session = join(model, False, inputs={"log_probs": "scores", "input_lens": "out_lens"})
    assert session.inputs == ["x", "lens", "targets", "target_lens"]
    feed = {"x": X, "lens": LABELS["input_lens"], **{k: LABELS[k] for k in ("targets", "target_lens")}}
    np.testing.assert_allclose(session(**feed)["loss"], two_steps(), rtol=1e-5)
    with pytest.raises(ValueError, match=r"^input_lens: got 2.0 at \[0\], expected relative lengths"):
        session(**{**feed, "lens": 2 * feed["lens"]})
    feed["targets"] = LABELS["targets"] + [[0, 0, 0], [0, 0, -9]]  # behind the item's length
    np.testing.assert_allclose(session(**feed)["loss"], two_steps(), rtol=1e-5)


# Versions


@natives
@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 17, 18, 19, 21, 23, 25, NEWEST])
def test_models_of_any_opset(opset: int, native: bool, join: Join) -> None:
    if native and library_path() is None:
        pytest.skip("there is no native library")
    model = recogniser("probs", opset, ir_version=4 if opset < 13 else 10)
    session = join(model, native, scores="probs")
    np.testing.assert_allclose(session(x=X, **LABELS)["loss"], two_steps(), rtol=1e-5)


def test_an_old_model_becomes_opset_18_and_a_new_one_stays(join: Join, tmp_path: Path) -> None:
    for opset, ir_version, expected in ((11, 3, (18, 8)), (18, 8, (18, 8)), (22, 11, (22, 11))):
        join(recogniser(opset=opset, ir_version=ir_version))
        model = onnx.load(tmp_path / "joint.onnx")
        assert (model.opset_import[0].version, model.ir_version) == expected
        for holder in (model, *model.functions):
            opsets = {each.domain: each.version for each in holder.opset_import}
            assert opsets[""] == expected[0]
        assert {each.domain for each in model.opset_import} == {"", OURS}


def test_an_old_model_whose_initializers_are_inputs(join: Join) -> None:
    model = recogniser(opset=7, ir_version=3)
    model.graph.input.append(value("W", FLOAT, [4, CLASSES]))
    session = join(model)
    assert session.inputs == ["x", *LABELS]
    np.testing.assert_allclose(session(x=X, **LABELS)["loss"], two_steps(), rtol=1e-5)


def test_an_old_model_keeps_its_weights_and_its_unknown_shapes(join: Join, tmp_path: Path) -> None:
    model = recogniser(opset=11)
    model.graph.output.insert(
        0, value("sum", FLOAT, None)
    )  # such a shape the checker refuses, runtimes do not
    model.graph.node.append(helper.make_node("ReduceSum", ["y"], ["sum"], axes=[1]))
    path = tmp_path / "joint.onnx"
    attach(
        save(model, tmp_path / "model.onnx"),
        el.CTCLoss(reduction="none"),
        path,
        inputs={"log_probs": "scores"},
    )
    made = onnx.load(path)
    assert not made.graph.output[0].type.tensor_type.HasField("shape")
    [kept] = [tensor for tensor in made.graph.initializer if tensor.name == "W"]
    assert kept == model.graph.initializer[0]
    got = LossSession(path)(x=X, **LABELS)
    np.testing.assert_allclose(got["loss"], two_steps(), rtol=1e-5)
    np.testing.assert_allclose(got["sum"], run(model, {"x": X})["sum"], rtol=1e-5)


def test_a_model_with_functions_and_other_domains(join: Join, tmp_path: Path) -> None:
    for opset in (14, 18, 20):
        model = recogniser(opset=opset)
        twice = helper.make_function(
            "theirs", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], model.opset_import
        )
        model.functions.append(twice)
        domains = [helper.make_opsetid(domain, 1) for domain in ("theirs", "com.microsoft")]
        model.opset_import.extend(domains)
        nodes = [
            helper.make_node("Twice", ["scores"], ["twice"], domain="theirs"),
            helper.make_node("Gelu", ["twice"], ["gelu"], domain="com.microsoft"),
        ]
        model.graph.node.extend(nodes)
        model.graph.output.append(value("gelu", FLOAT, ["batch", "frames", CLASSES]))
        expected = run(model, {"x": X})
        got = join(model)(x=X, **LABELS)
        np.testing.assert_allclose(got["loss"], two_steps(), rtol=1e-5)
        np.testing.assert_allclose(got["gelu"], expected["gelu"], rtol=1e-5)


@pytest.mark.parametrize(
    ("op_type", "before", "after", "same"),
    [
        ("Cast", 18, NEWEST, True),  # new attributes that may be left out
        ("Scan", 18, NEWEST, True),
        ("Softmax", 11, 13, False),  # another default
        ("ReduceSum", 11, 13, False),  # the axes became an input
        ("Squeeze", 11, 13, False),
        ("Dropout", 10, 12, False),  # an attribute went
        ("Upsample", 9, 10, False),  # deprecated
    ],
)
def test_operators_that_are_another_at_a_newer_opset(
    op_type: str, before: int, after: int, same: bool
) -> None:
    assert same_operator(op_type, before, after) == same


# Names


def test_what_clashes_is_renamed(ctc: Path, tmp_path: Path) -> None:
    """A model whose own values have all the names that the loss has."""
    inside = onnx.load(ctc)
    names = [node.output[0] for node in inside.graph.node] + [t.name for t in inside.graph.initializer]
    nodes = [helper.make_node("Identity", ["targets"], ["first"], inside.graph.node[0].name)]
    dims = ["S", "T", CLASSES]
    for name in (*dict.fromkeys(names), "input_lens", "log_probs", "ctc_loss_targets"):
        nodes.append(helper.make_node("Identity", [nodes[-1].output[0]], [name], f"ctc_loss/{name}"))
    nodes.append(helper.make_node("Identity", [nodes[-1].output[0]], ["C"]))
    model = model_of(
        nodes, [value("targets", FLOAT, dims)], [value("C", FLOAT, dims), value("loss", FLOAT, dims)]
    )
    path = tmp_path / "joint.onnx"
    made = attach(save(model, tmp_path / "model.onnx"), ctc, path, inputs={"log_probs": "C"})
    onnx.checker.check_model(str(path), full_check=True)
    assert dims_of(made) == {
        "targets": dims,
        "ctc_loss_targets_2": ["S", "ctc_loss_S"],  # S is the model's batch: labels need a name of their own
        "ctc_loss_input_lens": ["S"],
        "target_lens": ["S"],
        "C": dims,
        "loss": dims,
        "ctc_loss_loss": ["S"],
    }
    labels = {
        "ctc_loss_targets_2": LABELS["targets"],
        "ctc_loss_input_lens": LABELS["input_lens"],
        "target_lens": LABELS["target_lens"],
    }
    got = LossSession(path)(targets=X @ WEIGHT, **labels)
    np.testing.assert_allclose(got["ctc_loss_loss"], two_steps(), rtol=1e-5)


def test_two_losses_behind_one_model(join: Join, tmp_path: Path) -> None:
    """The second is behind a joint file; both are checked, and both are what they are alone."""
    join(recogniser())
    attach(
        tmp_path / "joint.onnx",
        el.CTCLoss(reduction="sum"),
        tmp_path / "2.onnx",
        inputs={"log_probs": "scores"},
    )
    path = tmp_path / "3.onnx"
    loss = el.ClassificationError(reduction="batch")
    attach(tmp_path / "2.onnx", loss, path, inputs={"probabilities": "scores"})
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert [function.name for function in model.functions] == ["CTCLattice", "CTCTransition", "CTCLoss"]
    assert [v.name for v in model.graph.output] == [
        "scores",
        "loss",
        "ctc_loss_loss",
        "classification_error_loss",
    ]
    second = {f"ctc_loss_{name}": array for name, array in LABELS.items()}
    best = (X @ WEIGHT).argmax(-1)
    third = {"classification_error_targets": best, "length": LABELS["input_lens"]}
    got = LossSession(path)(x=X, **LABELS, **second, **third)
    np.testing.assert_allclose(got["loss"], two_steps(), rtol=1e-5)
    np.testing.assert_allclose(got["ctc_loss_loss"], two_steps().sum(), rtol=1e-5)
    assert not got["classification_error_loss"].any()
    with pytest.raises(ValueError, match=r"^targets: got 9 at \[0, 0\], expected an index in \[0, 6\]"):
        LossSession(path)(x=X, **LABELS, **second, **(third | {"classification_error_targets": best * 0 + 9}))


def test_functions_of_two_types(tmp_path: Path) -> None:
    """The body for float64, and what it calls, are other functions: the second to come get other names."""
    wide, path = tmp_path / "wide.onnx", tmp_path / "joint.onnx"
    example = catalog.get("ctc_loss").example_inputs()
    example["log_probs"] = example["log_probs"].double()
    to_onnx(el.CTCLoss(reduction="none"), wide, example)
    model = recogniser()
    model.graph.node.append(helper.make_node("Cast", ["scores"], ["wide"], to=DOUBLE))
    model.graph.output.append(value("wide", DOUBLE, ["batch", "frames", CLASSES]))
    loss = el.CTCLoss(reduction="none")
    attach(save(model, tmp_path / "m.onnx"), loss, tmp_path / "1.onnx", inputs={"log_probs": "scores"})
    attach(tmp_path / "1.onnx", wide, path, inputs={"log_probs": "wide"})
    onnx.checker.check_model(str(path), full_check=True)
    names = ["CTCLattice", "CTCTransition", "CTCLoss"]
    assert [function.name for function in onnx.load(path).functions] == [*names, *(f"{n}_2" for n in names)]
    second = {f"ctc_loss_{name}": array for name, array in LABELS.items()}
    got = LossSession(path)(x=X, **LABELS, **second)
    assert (got["loss"].dtype, got["ctc_loss_loss"].dtype) == (np.float32, np.float64)
    for name in ("loss", "ctc_loss_loss"):
        np.testing.assert_allclose(got[name], two_steps(), rtol=1e-5)


# Dimensions and metadata


def test_dimensions_are_the_models_where_it_has_them(join: Join, tmp_path: Path) -> None:
    for dims, targets, loss in (
        (["batch", "frames", CLASSES], ["batch", "S"], ["batch"]),
        ([2, "frames", CLASSES], [2, "S"], [2]),
        (["?", "frames", "classes"], ["B", "S"], ["B"]),
        ([None, None, None], ["B", "S"], ["B"]),
    ):
        join(recogniser(dims=dims))
        found = dims_of(onnx.load(tmp_path / "joint.onnx"))
        assert (found["targets"], found["loss"]) == (targets, loss)


def test_metadata_of_both(join: Join, tmp_path: Path, ctc: Path) -> None:
    model = recogniser("probs", opset=12)
    model.metadata_props.add(key="character", value="abc")
    model.doc_string, model.graph.doc_string, model.model_version = "what it is", "a graph", 3
    session = join(model, scores="probs")
    made = onnx.load(tmp_path / "joint.onnx")
    assert {prop.key for prop in made.metadata_props} == {"character", OURS}
    assert (made.producer_name, made.doc_string, made.model_version) == ("theirs", "what it is", 3)
    assert (made.graph.name, made.graph.doc_string) == ("model", "a graph")
    alone = about(onnx.load(ctc))
    found = about(made)
    assert {name: found[name] for name in alone} == alone
    assert found["attached"] == {
        "computed": {"log_probs": "scores"},
        "swapped": [],
        "sizes": {"C": CLASSES},
        "inputs": {name: name for name in LABELS},
        "outputs": {"loss": "loss"},
        "scores": "probs",
        "layout": "BTC",
    }
    assert session.metadata["row"] == "ctc_loss"


# What a session checks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": LABELS["targets"] + 9}, r"targets: got 10 at \[0, 0\], expected an index in \[0, 6\]"),
        ({"targets": LABELS["targets"] * 0}, r"targets: got 0 at \[0, 0\], expected labels other than"),
        ({"target_lens": -LABELS["target_lens"]}, r"target_lens: got -1.0 at \[0\], expected relative"),
        ({"target_lens": LABELS["target_lens"][:1]}, r"target_lens: got size 1 along dimension 0 \(B\)"),
        ({"x": X * np.float32(np.nan)}, r"log_probs: got nan at \[0, 0, 0\], expected log-probabilities"),
        ({"x": X[..., :3]}, r"x: got size 3 along dimension 2, expected 4, which the model fixes"),
        ({"x": X[0]}, r"x: got shape \[12, 4\], expected 3 dimensions"),
    ],
)
def test_a_session_refuses(change: dict[str, np.ndarray], message: str, join: Join) -> None:
    session = join(recogniser())
    with pytest.raises(ValueError, match=f"^{message}"):
        session(**{"x": X, **LABELS, **change})


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    "change", [{"targets": LABELS["targets"] + 9}, {name: array[:1] for name, array in LABELS.items()}]
)
def test_what_only_the_model_can_show_is_an_error_too(
    change: dict[str, np.ndarray], native: bool, join: Join
) -> None:
    """The session's where the graph computes a number, ONNX Runtime's where it does not."""
    if native and library_path() is None:
        pytest.skip("there is no native library")
    session = join(recogniser(dims=("batch", "frames", "classes")), native)
    kinds = (ValueError, InvalidArgument, RuntimeException, Fail)
    with pytest.raises(kinds, match=r"targets: got|input_lens: got|GatherElements|indices"):
        session(**{"x": X, **LABELS, **change})


def test_a_model_takes_what_a_loss_never_does(join: Join) -> None:
    """Bytes, and an input of unknown rank."""
    model = recogniser()
    del model.graph.input[:]
    model.graph.input.append(value("raw", TensorProto.UINT8, ["batch", "frames", 4]))
    model.graph.node.insert(0, helper.make_node("Cast", ["raw"], ["x"], to=FLOAT))
    session = join(model)
    raw = np.arange(96, dtype=np.uint8).reshape(2, 12, 4) % 3
    np.testing.assert_allclose(
        session(raw=raw, **LABELS)["loss"], two_steps(raw.astype(np.float32)), rtol=1e-4
    )
    with pytest.raises(TypeError, match=r"^raw: got float32, expected uint8"):
        session(raw=X, **LABELS)


# What does not fit


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": {}}, "inputs: got none, expected some of log_probs, targets, input_lens, target_lens"),
        ({"inputs": {"logits": "scores"}}, "inputs: got 'logits', expected some of log_probs, targets"),
        (
            {"inputs": {"log_probs": "logits"}},
            "inputs: got 'logits' for log_probs, expected an output of the model: scores, hidden, whole",
        ),
        (
            {"inputs": {"log_probs": "hidden"}},
            r"inputs: hidden has 2 dimensions, expected 3 for log_probs: \(B,",
        ),
        ({"inputs": {"log_probs": "whole"}}, "inputs: whole is int64, expected float for log_probs"),
        ({"inputs": {"log_probs": "several"}}, "inputs: several, for log_probs, is not a tensor"),
        (
            {"inputs": {"log_probs": "scores", "input_lens": "two"}},
            "inputs: two has B=2 for input_lens, expected 3 as elsewhere",
        ),
        (
            {"scores": "probabilities"},
            "scores: got 'probabilities', expected 'logits' or 'probs' or 'log_probs'",
        ),
        (
            {"layout": "TBC", "inputs": {"input_lens": "two"}},
            "layout: got 'TBC', but batch and time are not first in input_lens",
        ),
        ({"layout": "TCB"}, "layout: got 'TCB', expected 'BTC' or 'TBC'"),
        (
            {"inputs": {"input_lens": "two"}, "scores": "probs"},
            r"scores: got 'probs', but input_lens of the loss takes relative lengths",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    settings: dict[str, Any], message: str, ctc: Path, tmp_path: Path
) -> None:
    model = recogniser(dims=(3, "frames", CLASSES))
    outputs = {
        "hidden": ("ReduceMax", FLOAT, ["batch", "frames"], {"keepdims": 0}),
        "whole": ("Cast", TensorProto.INT64, ["batch", "frames", CLASSES], {"to": TensorProto.INT64}),
        "two": ("ReduceMax", FLOAT, [2], {"keepdims": 0}),
    }
    for name, (op, kind, dims, attributes) in outputs.items():
        model.graph.node.append(helper.make_node(op, ["y"], [name], **attributes))
        model.graph.output.append(value(name, kind, dims))
    model.graph.node.append(helper.make_node("SequenceConstruct", ["y"], ["several"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("several", FLOAT, None))
    save(model, tmp_path / "model.onnx")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"^{message}"):
        attach(
            tmp_path / "model.onnx",
            ctc,
            tmp_path / "x.onnx",
            **{"inputs": {"log_probs": "scores"}, **settings},
        )
    assert sorted(tmp_path.iterdir()) == before


def test_a_number_of_classes_that_does_not_fit(tmp_path: Path) -> None:
    save(recogniser(), tmp_path / "model.onnx")
    path = tmp_path / "x.onnx"
    with pytest.raises(ValueError, match=r"^blank_index: got 7, expected an index in \[0, 6\]"):
        attach(tmp_path / "model.onnx", el.CTCLoss(blank_index=7), path, inputs={"log_probs": "scores"})
    wide = tmp_path / "wide.onnx"
    to_onnx(el.CTCLoss(blank_index=7), wide)
    with pytest.raises(
        ValueError, match=r"^blank_index: got 7, expected an index in \[0, 6\]: scores has 7 classes"
    ):
        attach(tmp_path / "model.onnx", wide, path, inputs={"log_probs": "scores"})
    rng = np.random.default_rng(0)
    tensors = {name: torch.from_numpy(rng.random((2, 5, 6), np.float32)) for name in ("inputs", "targets")}
    to_onnx(el.BCEWithLogitsLoss(pos_weight=torch.rand(6)), tmp_path / "bce.onnx", tensors)
    with pytest.raises(
        ValueError, match=r"^inputs: scores has size 7 along dimension 2 of inputs, expected 6"
    ):
        attach(tmp_path / "model.onnx", tmp_path / "bce.onnx", path, inputs={"inputs": "scores"})


def test_files_of_another_kind(ctc: Path, tmp_path: Path) -> None:
    model, path = save(recogniser(), tmp_path / "model.onnx"), tmp_path / "x.onnx"
    other = tmp_path / "other.onnx"
    other.write_bytes(b"PK\x03\x04 not a graph")
    given: dict[str, Any] = {"inputs": {"log_probs": "scores"}}
    with pytest.raises(FileNotFoundError, match=r"^model: got .*nowhere.onnx, expected an .onnx file"):
        attach(tmp_path / "nowhere.onnx", ctc, path, **given)
    with pytest.raises(ValueError, match=r"^model: .*other.onnx is not an ONNX model"):
        attach(other, ctc, path, **given)
    with pytest.raises(ValueError, match=r"^loss: .*model.onnx was not exported by this package"):
        attach(model, model, path, **given)
    with pytest.raises(TypeError, match=r"^module: got Linear, expected a module of the catalog"):
        attach(model, torch.nn.Linear(2, 2), path, **given)
    attach(model, ctc, path, **given)
    with pytest.raises(ValueError, match=r"^loss: .*x.onnx has a model in it already"):
        attach(model, path, tmp_path / "y.onnx", **given)
    newer = recogniser()
    newer.opset_import[0].version = NEWEST + 1
    with pytest.raises(ValueError, match=f"^model: got opset {NEWEST + 1}, expected at most {NEWEST}"):
        attach(save(newer, other), ctc, path, **given)


def test_what_the_checker_refuses_is_not_written(
    ctc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save(recogniser(), tmp_path / "model.onnx")
    monkeypatch.setattr(joint, "_join", lambda *_: joint._Names({}, {}))  # something went wrong
    monkeypatch.setattr(
        joint, "_describe", lambda proto, *_: proto.graph.output.append(value("no", FLOAT, []))
    )
    with pytest.raises(onnx.checker.ValidationError):
        attach(model, ctc, tmp_path / "x.onnx", inputs={"log_probs": "scores"})
    assert list(tmp_path.iterdir()) == [model]


def test_time_first_predictions_and_targets(tmp_path: Path) -> None:
    kinds = [FLOAT, ["t", "b", 4]]
    nodes = [helper.make_node("Identity", [f"in_{name}"], [name]) for name in ("one", "other")]
    inputs, outputs = ([value(prefix + name, *kinds) for name in ("one", "other")] for prefix in ("in_", ""))
    save(model_of(nodes, inputs, outputs), tmp_path / "m.onnx")
    loss, path = el.MSELoss(reduction="batch"), tmp_path / "j.onnx"
    inputs_of_loss = {"predictions": "one", "targets": "other"}
    attach(tmp_path / "m.onnx", loss, path, inputs=inputs_of_loss, layout="TBC")
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(6, 3, 4)).astype(np.float32) for _ in range(2))
    length = np.array([1, 0.5, 0.5], np.float32)
    got = LossSession(path)(in_one=one, in_other=other, length=length)["loss"]
    expected = loss(*(torch.from_numpy(x.swapaxes(0, 1)) for x in (one, other)), torch.from_numpy(length))
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5)


# External data


def save_external(model: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    return path


@pytest.mark.parametrize("opset", [12, 18, 21])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_external_data(opset: int, elsewhere: bool, ctc: Path, tmp_path: Path) -> None:
    model = save_external(recogniser(opset=opset), tmp_path / "model" / "model.onnx")
    before = {p.name: p.read_bytes() for p in model.parent.iterdir()}
    path = tmp_path / "new" / "joint.onnx" if elsewhere else model.parent / "joint.onnx"
    path.parent.mkdir(exist_ok=True)
    attach(model, ctc, path, inputs={"log_probs": "scores"})
    assert {p.name: p.read_bytes() for p in model.parent.iterdir() if p != path} == before
    if elsewhere:
        shutil.rmtree(model.parent)  # it stands on its own
        assert {p.name for p in path.parent.iterdir()} == {"joint.onnx", "joint.onnx.data"}
    onnx.checker.check_model(str(path), full_check=True)
    np.testing.assert_allclose(LossSession(path)(x=X, **LABELS)["loss"], two_steps(), rtol=1e-5)


def test_external_data_that_are_not_there_or_outside(ctc: Path, tmp_path: Path) -> None:
    model = save_external(recogniser(), tmp_path / "model" / "model.onnx")
    inputs = {"log_probs": "scores"}
    (model.parent / "weights.bin").rename(tmp_path / "weights.bin")
    with pytest.raises(FileNotFoundError, match=r"^model: there is no file .*weights.bin"):
        attach(model, ctc, tmp_path / "x.onnx", inputs=inputs)
    proto = onnx.load(model, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = "../weights.bin"
    save(proto, model)
    with pytest.raises(ValueError, match=r"^model: got external data in ../weights.bin, expected them in"):
        attach(model, ctc, tmp_path / "x.onnx", inputs=inputs)
    assert {p.name for p in tmp_path.iterdir()} == {"model", "weights.bin"}


@pytest.mark.parametrize("opset", [12, 21])
def test_more_weights_than_a_protobuf_can_hold(opset: int, ctc: Path, tmp_path: Path) -> None:
    """Three gigabytes in a file with a hole in it: nothing of it is read to join."""
    model = recogniser(opset=opset)
    rows = 3 * 2**30 // 4 // CLASSES
    big = TensorProto(name="W", data_type=FLOAT, dims=[rows, CLASSES], data_location=TensorProto.EXTERNAL)
    for key, entry in {"location": "weights.bin", "offset": "0", "length": str(rows * CLASSES * 4)}.items():
        big.external_data.add(key=key, value=entry)
    model.graph.initializer[0].CopyFrom(big)
    model.graph.node[0].CopyFrom(helper.make_node("Gather", ["W", "x"], ["y"]))  # the weights of some frames
    model.graph.input[0].CopyFrom(value("x", TensorProto.INT64, ["batch", "frames"]))
    with (tmp_path / "weights.bin").open("wb") as file:
        file.write(WEIGHT.tobytes())
        os.truncate(file.fileno(), rows * CLASSES * 4)
    path = tmp_path / "joint.onnx"
    attach(save(model, tmp_path / "model.onnx"), ctc, path, inputs={"log_probs": "scores"})
    assert path.stat().st_size < 2**20
    onnx.checker.check_model(str(path), full_check=True)
    x = np.array([[0, 1, 2, 3] * 3, [rows - 1] * 12])
    got = LossSession(path)(x=x, **LABELS)
    expected = run_ctc(ctc, np.stack([WEIGHT[x[0]], np.zeros((12, CLASSES), np.float32)]))
    np.testing.assert_allclose(got["loss"], expected, rtol=1e-5)


def run_ctc(ctc: Path, logits: np.ndarray) -> np.ndarray:
    log_probs = torch.from_numpy(logits).log_softmax(-1).numpy()
    return LossSession(ctc)(log_probs=log_probs, **LABELS)["loss"]


def test_a_model_may_be_replaced_by_the_joint_one(ctc: Path, tmp_path: Path) -> None:
    path = save_external(recogniser(), tmp_path / "model.onnx")
    attach(path, ctc, path, inputs={"log_probs": "scores"})
    np.testing.assert_allclose(LossSession(path)(x=X, **LABELS)["loss"], two_steps(), rtol=1e-5)
