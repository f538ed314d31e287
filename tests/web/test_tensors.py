"""The reader of tensors in JavaScript gives what onnx wrote, and the differences are those of Python."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exportable_losses.export.checking.runners.node import decoded
from exportable_losses.export.checking.web.site import PAGE
from exportable_losses.runtime import compare

# for each line of base 64: the tensor in it, or the error
READ = """
const { readTensor, encoded, numbers } = await import(process.argv[1] + "/tensors.js");
const { readFileSync } = await import("node:fs");
const answers = JSON.parse(readFileSync(0)).map((line) => {
  try {
    const tensor = readTensor(Buffer.from(line, "base64"));
    const plain = { type: "float64", dims: tensor.dims, data: numbers(tensor) };
    return { name: tensor.name, tensor: encoded(tensor), numbers: encoded(plain) };
  } catch (error) {
    return error.message;
  }
});
console.log(JSON.stringify(answers));
"""
COMPARE = """
const { readTensor } = await import(process.argv[1] + "/tensors.js");
const { compare } = await import(process.argv[1] + "/parity.js");
const { readFileSync } = await import("node:fs");
const read = (line) => readTensor(Buffer.from(line, "base64"));
const pairs = JSON.parse(readFileSync(0)).map((pair) => pair.map(read));
const finite = (_, value) => (value === Infinity ? "inf" : value);
console.log(JSON.stringify(pairs.map(([got, expected]) => compare(got, expected)), finite));
"""
INF, NAN = np.inf, np.nan


def run(node: str, script: str, lines: object) -> list[Any]:
    command = [node, "--input-type=module", "-e", script, str(PAGE)]
    done = subprocess.run(command, input=json.dumps(lines), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def text(message: bytes) -> str:
    return base64.b64encode(message).decode()


def written(array: np.ndarray, name: str = "x") -> str:
    return text(numpy_helper.from_array(array, name).SerializeToString())


def arrays() -> list[np.ndarray]:
    """Of every type; scalars, none, many dimensions; extremes."""
    random = np.random.default_rng(0)
    whole = [np.dtype(kind) for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")]
    extremes = [np.array([np.iinfo(kind).min, np.iinfo(kind).max, 1], kind) for kind in whole]
    real = [np.dtype(kind) for kind in ("f2", "f4", "f8")]
    info = [np.finfo(kind) for kind in real]
    special = [
        np.array([0, -0.0, INF, -INF, NAN, i.max, i.tiny, i.smallest_subnormal, -i.eps], kind)
        for i, kind in zip(info, real, strict=True)
    ]
    shapes = [(), (0,), (3, 0, 2), (2, 3, 4), (1,), (300,)]
    shaped = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    return [*extremes, *special, *shaped, np.array([[True, False]])]


def test_a_tensor_is_what_onnx_wrote(node: str) -> None:
    given = arrays()
    names = [f"a name, {i} löss" * (i % 3) for i in range(len(given))]
    answers = run(node, READ, [written(array, name) for array, name in zip(given, names, strict=True)])
    for array, name, answer in zip(given, names, answers, strict=True):
        got = decoded({"x": answer["tensor"], "plain": answer["numbers"]})
        assert answer["name"] == name
        assert (got["x"].dtype, got["x"].shape) == (array.dtype, array.shape)
        assert got["x"].tobytes() == array.tobytes()
        np.testing.assert_array_equal(got["plain"], array.astype(np.float64))


def test_all_halves_are_read_right(node: str) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    (answer,) = run(node, READ, [written(halves)])
    np.testing.assert_array_equal(decoded({"x": answer["numbers"]})["x"], halves.astype(np.float64))


def test_sizes_may_be_packed(node: str) -> None:
    """As proto3 writes them; 300 takes two bytes."""
    sizes = b"\x0a\x03" + b"\xac\x02" + b"\x01"
    raw = np.arange(300, dtype=np.uint8).tobytes()
    message = sizes + b"\x10\x02" + b"\x4a\xac\x02" + raw
    assert list(TensorProto.FromString(message).dims) == [300, 1]
    (answer,) = run(node, READ, [text(message)])
    got = decoded({"x": answer["tensor"]})["x"]
    assert (got.shape, got.tobytes()) == ((300, 1), raw)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (
            helper.make_tensor("y", TensorProto.FLOAT, [2], [1.0, 2.0]).SerializeToString(),
            "y: got 0 bytes of raw",
        ),
        (
            numpy_helper.from_array(np.array(["a"], object), "s").SerializeToString(),
            "s: got a tensor of type 8",
        ),
        (
            helper.make_tensor("b", TensorProto.BFLOAT16, [1], b"\0\0", raw=True).SerializeToString(),
            "b: got a tens",
        ),
        (numpy_helper.from_array(np.zeros(9), "x").SerializeToString()[:-1], "the tensor ends early"),
        (b"\x08\x01\x10\x02\x4a\x02ab", ": got 2 bytes of raw data, expected 1 of uint8"),
        (b"", ": got a tensor of type 0"),
        (b"\x08", "the tensor ends early"),
        (b"\xff\xff", "the tensor ends early"),
        (b"\x07\x07", "this is no tensor"),
    ],
)
def test_what_is_no_tensor_is_an_error(node: str, message: bytes, problem: str) -> None:
    (answer,) = run(node, READ, [text(message)])
    assert answer.startswith(problem)


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """What a runtime gave and what is expected: near, far, equal, special, other shapes and types."""
    random = np.random.default_rng(1)
    found = []
    for kind in (np.float16, np.float32, np.float64):
        for scale in (1e-40, 1e-4, 1.0, 3e4):
            expected = (scale * random.standard_normal((3, 5))).astype(kind)
            off = expected + random.integers(-3, 4, expected.shape).astype(kind) * np.spacing(
                np.abs(expected)
            )
            found += [(expected.copy(), expected), (off.astype(kind), expected)]
        info = np.finfo(kind)
        special = [0, -0.0, INF, -INF, NAN, 1, info.max / 2, info.max, info.smallest_subnormal]
        found += [(np.array([i], kind), np.array([j], kind)) for i in special for j in special]
    half = np.float16([1.0, 8.0])
    found += [(half + np.float16([by, 0]) * np.spacing(half[1]), half) for by in (1, 2)]
    whole = np.array([0, 1, -5, 2**40])
    found += [(whole + step, whole) for step in (0, 1, -1)]
    found += [(np.array([True, False]), np.array(flags)) for flags in ([True, False], [True, True])]
    zeros = np.zeros((2, 3), np.float32)
    found += [(zeros.astype(np.float64), zeros), (zeros[0], zeros), (zeros[:, :0], zeros[:, :0])]
    return [*found, (np.float32([1000.01, 0.01]), np.float32([1000.0, 0.0])), (zeros + 3e-5, zeros)]


def test_differences_are_those_of_python(node: str) -> None:
    given = pairs()
    answers = run(node, COMPARE, [[written(got), written(expected)] for got, expected in given])
    wrong = 0
    for (got, expected), answer in zip(given, answers, strict=True):
        [difference] = compare({"x": got}, {"x": expected})
        assert float(answer["absolute"]) == difference.absolute
        assert float(answer["ulp"]) == difference.ulp
        ok = difference.within() and got.dtype == expected.dtype
        assert (answer["problem"] == "") == ok, (got, expected, answer)
        wrong += not ok
    assert 20 < wrong < len(given) - 20
    assert answers[-2]["problem"] == ""  # 0.01 of 1000
    problems = [answer["problem"] for answer in answers[-5:]]
    assert problems[:2] == ["is float64, expected float32", "has the shape [3], expected [2, 3]"]
    assert problems[4] == "off by 0.00003"


def test_test_data_of_a_row_can_be_read(node: str, exported_graphs: Path) -> None:
    files = sorted(exported_graphs.rglob("*.pb"))
    answers = run(node, READ, [text(path.read_bytes()) for path in files])
    assert len(files) > 10
    for path, answer in zip(files, answers, strict=True):
        proto = onnx.load_tensor(path)
        assert answer["name"] == proto.name
        np.testing.assert_array_equal(decoded({"x": answer["tensor"]})["x"], numpy_helper.to_array(proto))
