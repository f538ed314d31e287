"""What a joint graph calls its values, dimensions and functions, and what it says of itself."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from attach_cases import (
    CLASSES,
    DOUBLE,
    FLOAT,
    LABELS,
    OURS,
    WEIGHT,
    Join,
    X,
    about,
    dims_of,
    model_of,
    recogniser,
    save,
    two_steps,
    value,
)
from export_cases import BY_NAME
from onnx import helper

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.export import attach, to_onnx
from exportable_losses.runtime import LossSession

# the function of CTC, and before it those that it calls
CTC = ["CTCReversed", "CTCBothWays", "CTCLattice", "CTCTransition", "CTCLoss"]


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
    assert len(repr(made).splitlines()) == 1
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
    assert [function.name for function in model.functions] == CTC
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
    names = [function.name for function in onnx.load(path).functions]
    assert names == [*CTC, *(f"{name}_2" for name in CTC[1:])]  # the first is the same for any type
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


@pytest.mark.parametrize("batch", [2, "batch"])
def test_the_batch_of_a_model_that_has_time_first_is_its_second_dimension(
    batch: int | str, join: Join, tmp_path: Path
) -> None:
    join(recogniser(layout="TBC", dims=(batch, "frames", CLASSES)), layout="TBC")
    found = dims_of(onnx.load(tmp_path / "joint.onnx"))
    assert (found["scores"], found["targets"]) == (["frames", batch, CLASSES], [batch, "S"])


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


@pytest.mark.parametrize(("places", "targets"), [(6, ["n", 5]), ("places", ["n", "U"]), (None, ["n", "U"])])
def test_targets_are_one_narrower_than_the_places_for_them(
    places: Any, targets: list[Any], tmp_path: Path
) -> None:
    """A transducer's scores are `[B, T, U+1, V]`: where a model fixes U+1, it fixes U."""
    loss = BY_NAME["transducer_loss-none"].graph()
    kinds = [FLOAT, ["n", "t", places, 8]]
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], [value("x", *kinds)], [value("y", *kinds)])
    path = tmp_path / "joint.onnx"
    made = attach(save(model, tmp_path / "m.onnx"), loss, path, inputs={"logits": "y"})
    onnx.checker.check_model(str(path), full_check=True)
    assert dims_of(made)["targets"] == targets
    feed = {name: x.numpy() for name, x in catalog.get("transducer_loss").example_inputs(U=5, V=8).items()}
    expected, x, session = LossSession(loss)(**feed)["loss"], feed.pop("logits"), LossSession(path)
    np.testing.assert_allclose(session(x=x, **feed)["loss"], expected, rtol=1e-6)
    if places == 6:  # else ONNX Runtime sees it, inside the graph
        with pytest.raises(ValueError, match=r"^targets: got size 4 along dimension 1, expected 5"):
            session(x=x, **{**feed, "targets": feed["targets"][:, :4]})


def test_names_of_dimensions_inside_the_model_are_taken_too(join: Join, tmp_path: Path) -> None:
    model = recogniser(dims=("batch", "frames", "classes"))
    model.graph.value_info.append(value("y", FLOAT, ["batch", "frames", "S"]))
    join(model)
    assert dims_of(onnx.load(tmp_path / "joint.onnx"))["targets"] == ["batch", "ctc_loss_S"]
