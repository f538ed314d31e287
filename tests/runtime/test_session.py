"""A session takes what fits, casts what loses nothing, and refuses the rest by name."""

import concurrent.futures
import functools
import pickle
import re
from pathlib import Path

import exports
import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from bad_input import BadInput, bad_inputs
from onnx import TensorProto, helper

import exportable_losses as el
from exportable_losses import catalog
from exportable_losses.export import to_onnx
from exportable_losses.runtime import LossSession

# What an exported graph can be given wrong; a module's own settings are refused when it is made.
# A setting makes a graph of its own, of which a session knows the contract alone: one of a kind is exported,
# and of the others the contract itself is asked.
WITH_SETTINGS = ("ctc_loss", "transducer_loss", "HATLoss", "l1_loss")
CASES = [
    pytest.param(
        case,
        marks=pytest.mark.thorough if case.settings and case.row not in WITH_SETTINGS else (),
        id=str(case),
    )
    for case in bad_inputs()
    if case.row in catalog.names()
]


@functools.cache
def session_of(
    row: str, settings: tuple[tuple[str, object], ...], sizes: tuple[tuple[str, int], ...]
) -> LossSession:
    entry = catalog.get(row)
    blank_index = dict(settings).get("blank_index")
    example = entry.example_inputs(blank_index=blank_index, **dict(sizes))
    return LossSession(exports.onnx(entry.module(**dict(settings)), example), native=False)


def session(case: BadInput) -> LossSession:
    return session_of(case.row, tuple(sorted(case.settings.items())), tuple(sorted(case.sizes.items())))


@pytest.fixture(scope="module")
def ctc() -> LossSession:
    return session_of("ctc_loss", (("reduction", "none"),), ())


def arrays(row: str, **sizes: int) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in catalog.get(row).example_inputs(**sizes).items()}


@pytest.mark.parametrize("case", CASES)
def test_sessions_refuse_the_table(case: BadInput) -> None:
    legal = {name: tensor.numpy() for name, tensor in case.legal().items()}
    run = session(case)
    run(**legal)
    with pytest.raises((ValueError, TypeError), match=f"^{case.message}"):
        run(**{name: tensor.numpy() for name, tensor in case.illegal().items()})


@pytest.mark.parametrize("case", [case for case in bad_inputs() if case.settings], ids=str)
def test_contracts_refuse_what_settings_forbid(case: BadInput) -> None:
    contract, settings = catalog.get(case.row).contract, catalog.settings_of(case.module())
    contract.check({name: tensor.numpy() for name, tensor in case.legal().items()}, settings)
    with pytest.raises(ValueError, match=f"^{case.message}"):
        contract.check({name: tensor.numpy() for name, tensor in case.illegal().items()}, settings)


def layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers in other memory."""
    spread = np.repeat(array, 2, -1)
    spread[..., 1::2] = 77
    found = {
        "transposed": array.T.copy().T,
        "sliced": spread[..., ::2],
        "reversed": np.flip(np.flip(array).copy()),
        "Fortran": np.asfortranarray(array),
        "big-endian": array.astype(array.dtype.newbyteorder(">")),
        "unaligned": np.frombuffer(b" " + array.tobytes(), array.dtype, offset=1).reshape(array.shape),
    }
    read_only = array.copy()
    read_only.flags.writeable = False
    return found | {"read-only": read_only}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_an_array_may_lie_in_memory_as_it_likes(dtype: type, tmp_path: Path) -> None:
    module, given = catalog.get("l1_loss").module(reduction="none"), arrays("l1_loss")
    if dtype in (np.float32, np.float64):
        example = {k: torch.from_numpy(v.astype(dtype)) for k, v in given.items()}
        path = exports.onnx(module, example)
    else:
        path = tmp_path / "l1_loss.onnx"
        to_onnx(module, path, dtype=np.dtype(dtype).name)
    run = LossSession(path)
    given = {k: v.astype(run.dtype(k)) for k, v in given.items()}
    expected = run(**given)["loss"]
    for name, array in layouts(given["predictions"]).items():
        np.testing.assert_array_equal(run(**{**given, "predictions": array})["loss"], expected, err_msg=name)
    for number in (np.nan, np.inf):
        given["predictions"][1, 2, 3] = number
        for name, array in layouts(given["predictions"]).items():
            if dtype is not ml_dtypes.bfloat16 or name != "big-endian":  # which it does not know
                with pytest.raises(ValueError, match=rf"^predictions: got {number} at \[1, 2, 3\], expected"):
                    run(**{**given, "predictions": array})


def test_minus_infinity_is_the_logarithm_of_zero(ctc: LossSession) -> None:
    given = arrays("ctc_loss")
    given["log_probs"][..., -1] = -np.inf
    given["targets"] = np.minimum(given["targets"], 5)
    assert np.isfinite(ctc(**given)["loss"]).all()


def test_a_session_is_pickled_as_its_file_and_settings(ctc: LossSession) -> None:
    given = arrays("ctc_loss")
    one = LossSession(ctc._path, native=False, threads=1)
    other = pickle.loads(pickle.dumps(one))
    assert other._settings == {"native": False, "providers": None, "threads": 1}
    np.testing.assert_array_equal(other(**given)["loss"], ctc(**given)["loss"])


def test_a_missing_input_is_named(ctc: LossSession) -> None:
    given = arrays("ctc_loss")
    del given["targets"]
    with pytest.raises(TypeError, match=r"^inputs: targets missing, expected log_probs, targets"):
        ctc(**given)


def test_an_unknown_input_is_named(ctc: LossSession) -> None:
    with pytest.raises(TypeError, match=r"^inputs: got logits, expected log_probs"):
        ctc(**arrays("ctc_loss"), logits=np.zeros(1))


def test_float64_into_a_float32_graph_is_refused(ctc: LossSession) -> None:
    given = arrays("ctc_loss")
    given["log_probs"] = given["log_probs"].astype(np.float64)
    with pytest.raises(TypeError, match=r"^log_probs: got float64, expected float32"):
        ctc(**given)


def test_an_index_that_int64_cannot_hold_is_refused(ctc: LossSession) -> None:
    given = arrays("ctc_loss")
    given["targets"] = np.full(given["targets"].shape, 2**63, np.uint64)
    with pytest.raises(TypeError, match=r"^targets: got uint64, expected int64"):
        ctc(**given)


def test_a_float_is_no_index(ctc: LossSession) -> None:
    given = arrays("ctc_loss")
    given["targets"] = given["targets"].astype(np.float32)
    with pytest.raises(TypeError, match=r"^targets: got float32, expected int64"):
        ctc(**given)


@pytest.mark.parametrize("row", catalog.names())
def test_a_dtype_that_eager_refuses_is_refused_before_it_is_cast(row: str) -> None:
    """A cast may change no value: of a bool to a class index, of an integer to a log-probability."""
    contract, session, given = catalog.get(row).contract, session_of(row, (), ()), arrays(row)
    for name in given:
        for dtype in (np.bool_, np.int64):
            try:
                contract.check_types({name: np.dtype(dtype)})
            except TypeError as refused:
                with pytest.raises(TypeError, match=f"^{re.escape(str(refused))}$"):
                    session(**{**given, name: given[name].astype(dtype)})


def test_a_wrong_rank_is_named(ctc: LossSession) -> None:
    given = arrays("ctc_loss")
    given["log_probs"] = given["log_probs"][0]
    with pytest.raises(ValueError, match=r"^log_probs: got shape \[14, 7\], expected 3 dimensions"):
        ctc(**given)


def test_integers_of_another_width_are_taken(ctc: LossSession) -> None:
    given = arrays("ctc_loss")
    expected = ctc(**given)["loss"]
    given["targets"] = given["targets"].astype(np.int32)
    given["input_lens"] = np.full(3, 14, np.uint16)  # absolute ones, in a graph of relative lengths
    whole = dict(given, input_lens=np.ones(3, np.float32))
    np.testing.assert_array_equal(ctc(**given)["loss"], ctc(**whole)["loss"])
    given["input_lens"] = arrays("ctc_loss")["input_lens"]
    np.testing.assert_array_equal(ctc(**given)["loss"], expected)


def test_what_lies_behind_an_items_labels_may_be_anything(ctc: LossSession) -> None:
    given = arrays("ctc_loss", S=4)
    given["target_lens"] = np.array([1.0, 0.5, 0.0], np.float32)
    expected = ctc(**given)["loss"]
    given["targets"] = given["targets"].copy()
    given["targets"][1, 2:] = [-1, 9999]
    given["targets"][2] = 0
    np.testing.assert_array_equal(ctc(**given)["loss"], expected)


def test_integer_signals_are_taken() -> None:
    run = session_of("get_si_snr_with_pitwrapper", (), ())
    rng = np.random.default_rng(0)
    given = {name: rng.integers(-99, 99, (3, 50, 2)) for name in ("source", "estimate_source")}
    exact = {name: array.astype(np.float32) for name, array in given.items()}
    np.testing.assert_array_equal(run(**given)["loss"], run(**exact)["loss"])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^path: got .*nowhere\.onnx, expected an \.onnx file"):
        LossSession(tmp_path / "nowhere.onnx")


def test_sessions_know_their_names(ctc: LossSession) -> None:
    assert ctc.inputs == ["log_probs", "targets", "input_lens", "target_lens"]
    assert ctc.outputs == ["loss"]
    assert ctc.metadata["row"] == "ctc_loss"
    assert ctc.metadata["settings"]["reduction"] == "none"


def test_a_provider_can_be_chosen() -> None:
    run = LossSession(exports.onnx(el.L1Loss()), providers=["CPUExecutionProvider"])
    assert run(**arrays("l1_loss"))["loss"].shape == ()


def test_one_session_serves_two_threads(ctc: LossSession) -> None:
    batches = [arrays("ctc_loss", B=b, T=20 + b) for b in range(1, 9)]
    expected = [ctc(**batch)["loss"] for batch in batches]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        got = list(pool.map(lambda batch: ctc(**batch)["loss"], batches * 4))
    for one, other in zip(got, expected * 4, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_size_that_a_weight_fixes_is_named() -> None:
    rng = np.random.default_rng(0)
    given = {name: rng.random((2, 5, 7), np.float32) for name in ("inputs", "targets")}
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    run = LossSession(exports.onnx(el.BCEWithLogitsLoss(pos_weight=torch.ones(7)), tensors))
    assert run(**given)["loss"].shape == ()
    with pytest.raises(
        ValueError, match=r"^inputs: got size 6 along dimension 2, expected 7, which the file"
    ):
        run(**{name: array[..., :6] for name, array in given.items()})


def test_a_library_that_is_not_there_is_not_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    path = exports.onnx(el.CTCLoss(reduction="none"))
    given = arrays("ctc_loss")
    portable = LossSession(path, native=False)(**given)["loss"]
    monkeypatch.setattr("exportable_losses.runtime.native.library_path", lambda: None)
    without = LossSession(path)
    assert without.library is None
    np.testing.assert_array_equal(without(**given)["loss"], portable)
    with pytest.raises(RuntimeError, match=r"^native: got True, but no operator library is installed"):
        LossSession(path, native=True)


# The first and the last of the whole numbers that each dtype takes, and one beyond either end.
WHOLE = {
    "uint8": (0, 255, -1, 256),
    "uint64": (0, 2**63 - 1, -1, None),
    "int8": (-128, 127, -129, 128),
    "int32": (-(2**31), 2**31 - 1, -(2**31) - 1, 2**31),
    "int64": (-(2**63), 2**63 - 1, None, 2**63),
    "float16": (-(2**11), 2**11, -(2**11) - 1, 2**11 + 1),
    "float": (-(2**24), 2**24, -(2**24) - 1, 2**24 + 1),
    "double": (-(2**53), 2**53, -(2**53) - 1, 2**53 + 1),
}
NAMES = {"float": "float32", "double": "float64"}


@pytest.fixture(scope="module")
def every_type(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph with an input of each type, under its name."""
    path = tmp_path_factory.mktemp("types") / "types.onnx"
    values = {name: getattr(TensorProto, name.upper()) for name in WHOLE}
    inputs = [helper.make_tensor_value_info(name, kind, [None, 2]) for name, kind in values.items()]
    outputs = [helper.make_tensor_value_info(f"{n}_too", kind, [None, 2]) for n, kind in values.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_too"]) for name in values]
    opsets = [helper.make_opsetid("", 18)]
    graph = helper.make_graph(nodes, "types", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def of_every_type(every_type: Path) -> LossSession:
    return LossSession(every_type)


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers_are_cast_where_each_fits(kind: str, of_every_type: LossSession) -> None:
    least, most, *beyond = WHOLE[kind]
    got = of_every_type.cast(kind, np.array([[least, most]]))
    assert got.dtype == NAMES.get(kind, kind)
    assert [int(x) for x in got[0]] == [least, most]
    assert of_every_type.cast(kind, np.zeros((0, 2), np.int16)).shape == (0, 2)
    for number in filter(None, beyond):
        wrong = np.full((2, 2), number)
        wrong[0] = 1
        expected = rf"expected {NAMES.get(kind, kind)} \(or what casts to it without loss, which {number} at"
        with pytest.raises(TypeError, match=rf"^{kind}: got {wrong.dtype}, {expected} \[1, 0\] does not\)"):
            of_every_type.cast(kind, wrong)


def test_what_is_no_whole_number_is_not_made_one(of_every_type: LossSession) -> None:
    for kind, number in (
        ("int64", 1.0),
        ("uint8", 1.0),
        ("float", 1e300),
        ("float16", np.float32(1)),
        ("int8", "1"),
    ):
        given = np.array([number])
        with pytest.raises(TypeError, match=rf"^{kind}: got {given.dtype}, expected .* without loss\)$"):
            of_every_type.cast(kind, given)
    assert of_every_type.cast("uint8", np.array([True])).tolist() == [1]
    assert of_every_type.cast("double", np.float32([0.1])).tolist() == [float(np.float32(0.1))]


def test_a_negative_number_never_reaches_a_graph_of_bytes(of_every_type: LossSession) -> None:
    given = {name: np.ones((1, 2), np.int8) for name in WHOLE}
    assert of_every_type(**given)["uint8_too"].tolist() == [[1, 1]]
    with pytest.raises(TypeError, match=r"^uint8: got int8, expected uint8 .* -1 at \[0, 0\] does not"):
        of_every_type(**{**given, "uint8": -given["uint8"]})


def test_threads_and_providers_reach_onnx_runtime(every_type: Path, of_every_type: LossSession) -> None:
    session = LossSession(every_type, threads=3, providers=["CPUExecutionProvider"])._session
    assert session.get_session_options().intra_op_num_threads == 3
    assert of_every_type._session.get_session_options().intra_op_num_threads == 0  # its own choice
    assert of_every_type._session.get_providers() == ["CPUExecutionProvider"]
    with pytest.warns(UserWarning, match="'NoSuchProvider' is not in available provider names"):
        LossSession(every_type, providers=["NoSuchProvider", "CPUExecutionProvider"])
