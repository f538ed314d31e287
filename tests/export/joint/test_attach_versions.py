"""A loss behind models of any opset, with functions and operators of other domains."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from attach_cases import (
    CLASSES,
    FLOAT,
    LABELS,
    NEWEST,
    OURS,
    Join,
    X,
    natives,
    recogniser,
    run,
    save,
    two_steps,
    value,
)
from onnx import helper

import exportable_losses as el
from exportable_losses.export import attach
from exportable_losses.export.nodes.functions import same_operator
from exportable_losses.library import library_path
from exportable_losses.runtime import LossSession


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
