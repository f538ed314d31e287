"""Test data beside a file: which folder they go to, and reading them without onnx."""

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import exportable_losses as el
from exportable_losses.export import to_onnx, to_pt2
from exportable_losses.export.checking.validate import validate
from exportable_losses.runtime.testdata import data_sets, read_tensor, read_test_data

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint64", "uint8", "bool")


def folders(path):
    return sorted(each.name for each in path.iterdir() if each.is_dir())


def test_two_graphs_in_a_folder_keep_their_test_data(tmp_path):
    for _ in range(2):  # the second time each finds its own again
        to_onnx(el.ReduceLoss(), tmp_path / "mean.onnx")
        to_onnx(el.ReduceLoss(reduction="none"), tmp_path / "none.onnx")
        to_onnx(el.ReduceLoss(reduction="sum"), tmp_path / "sum.onnx")
        assert folders(tmp_path) == [
            "none_onnx_test_data_set_0",
            "sum_onnx_test_data_set_0",
            "test_data_set_0",
        ]
    checks = validate(tmp_path).checks
    assert [(check.row, check.problem) for check in checks] == [("mean", ""), ("none", ""), ("sum", "")]


def test_formats_of_a_module_share_their_test_data_and_those_of_others_do_not(tmp_path):
    to_onnx(el.L1Loss(), tmp_path / "loss.onnx", gradients="all")
    to_pt2(el.L1Loss(), tmp_path / "loss.pt2")
    assert folders(tmp_path) == ["test_data_set_0"]
    to_onnx(el.L1Loss(), tmp_path / "loss.onnx", gradients="all")
    to_pt2(el.L1Loss(reduction="none"), tmp_path / "loss.pt2")
    assert folders(tmp_path) == ["loss_pt2_test_data_set_0", "test_data_set_0"]
    assert "grad_predictions" in read_test_data(tmp_path / "test_data_set_0")[1]
    assert [check.problem for check in validate(tmp_path).checks] == [""] * 4


def test_what_nobody_can_read_is_replaced(tmp_path):
    to_onnx(el.ReduceLoss(), tmp_path / "loss.onnx")
    (tmp_path / "loss.pt").touch()
    (tmp_path / "test_data_set_0" / "input_0.pb").write_bytes(b"\xff")
    to_onnx(el.ReduceLoss(reduction="none"), tmp_path / "loss.onnx")
    assert folders(tmp_path) == ["test_data_set_0"]
    assert [check.problem for check in validate(tmp_path, ["onnxruntime"]).checks] == [""]


def test_a_name_that_begins_as_another_does_has_its_own(tmp_path):
    for name in ("a.onnx", "a_onnx.onnx", "b.onnx"):
        to_onnx(el.ReduceLoss(), tmp_path / name)
    named = [
        [each.name for each in data_sets(tmp_path / name)] for name in ("a.onnx", "a_onnx.onnx", "b.onnx")
    ]
    assert named == [["test_data_set_0"], ["a_onnx_onnx_test_data_set_0"], ["b_onnx_test_data_set_0"]]


@pytest.mark.parametrize("dtype", [*DTYPES, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_a_tensor_is_read_as_onnx_reads_it(dtype, shape):
    array = (100 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    name, got = read_tensor(numpy_helper.from_array(array, "x").SerializeToString())
    assert (name, got.dtype, got.shape) == ("x", array.dtype, shape)
    np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("dtype", [*DTYPES, ml_dtypes.bfloat16])
def test_a_tensor_with_a_list_of_numbers_is_read_too(dtype):
    array = np.array([[0, 1], [1, 100]]).astype(dtype)
    if dtype not in ("uint64", "uint8", "bool"):
        array[0, 1] = -2
    if dtype == "uint64":
        array[0, 1] = 2**64 - 1
    proto = helper.make_tensor("x", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.ravel())
    _, got = read_tensor(proto.SerializeToString())
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


def test_what_is_no_tensor_of_numbers_is_refused():
    whole = numpy_helper.from_array(np.arange(9.0), "x").SerializeToString()
    wrong_kind = b"\x10\x01\x48\x05"  # raw data that is a number
    for content in (whole[:-1], whole[:1], b"\x07" * 9, b"\xff" * 20, wrong_kind):
        with pytest.raises(ValueError, match="got"):
            read_tensor(content)
    with pytest.raises(ValueError, match="type 8, expected numbers"):
        read_tensor(helper.make_tensor("x", TensorProto.STRING, [1], [b"a"]).SerializeToString())
    proto = onnx.TensorProto(name="x", data_type=1, dims=[3])
    with pytest.raises(ValueError, match=r"x: got 0 numbers, expected the shape \[3\]"):
        read_tensor(proto.SerializeToString())


def test_a_model_with_a_weight_as_input_has_it_in_its_test_data(tmp_path):
    linear = torch.nn.Linear(3, 2)
    to_onnx(linear, tmp_path / "m.onnx", {"input": torch.ones(2, 3)}, gradients=("weight",))
    inputs, outputs = read_test_data(tmp_path / "test_data_set_0")
    assert (list(inputs), list(outputs)) == (["input", "weight"], ["output", "grad_weight"])
