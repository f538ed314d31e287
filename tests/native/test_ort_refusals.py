"""ONNX Runtime's door to the kernels: what does not fit is named, and nothing crashes it."""

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ort_cases import (
    SCORES,
    batch,
    both_losses,
    one_operator,
    relative,
    session,
)

import exportable_losses as el
from exportable_losses.library import library_path
from exportable_losses.runtime import LossSession

# What does not fit


@both_losses
@pytest.mark.parametrize("grad", ["", "Grad"])
@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("scores", lambda a: a[0], r"got shape \[7, .*5\], expected \[B, T"),
        ("scores", lambda a: a[..., None], "expected .B, T"),
        ("scores", lambda a: a[:2], "targets: got shape .3, 4., expected .2, 4., for"),
        ("targets", lambda a: a[:, 0], r"got shape \[3\], expected \[B, [SU]\]"),
        ("targets", lambda a: a[..., None], r"got shape \[3, 4, 1\], expected \[B, [SU]\]"),
        ("targets", lambda a: a[:2], r"got shape \[2, 4\], expected \[3, 4\]"),
        ("input_lengths", lambda a: a[:2], r"got shape \[2\], expected \[3\]"),
        ("input_lengths", lambda a: a[:, None], r"got shape \[3, 1\], expected \[3\]"),
        ("input_lengths", lambda a: a.sum(), r"got shape \[\], expected \[3\]"),
        ("target_lengths", lambda a: np.append(a, 0), r"got shape \[4\], expected \[3\]"),
        ("target_lengths", lambda a: a[None], r"got shape \[1, 3\], expected \[3\]"),
        ("input_lengths", lambda a: np.array([1, 8, 1]), r"got 8 for item 1, expected a number in \[0, 7\]"),
        (
            "input_lengths",
            lambda a: np.array([1, 1, -1]),
            r"got -1 for item 2, expected a number in \[0, 7\]",
        ),
        ("target_lengths", lambda a: np.array([5, 1, 1]), r"got 5 for item 0, expected a number in \[0, 4\]"),
        ("target_lengths", lambda a: np.array([0, -(2**62), 1]), "for item 1, expected a number in"),
        ("targets", lambda a: np.full_like(a, 5), r"got 5 for item 0, expected a number in \[0, 4\]"),
        ("targets", lambda a: np.full_like(a, -1), r"got -1 for item 0, expected a number in \[0, 4\]"),
        ("targets", lambda a: np.full_like(a, 2**40), "for item 0, expected a number in"),
    ],
)
def test_what_does_not_fit_is_named(
    library: str, loss: str, grad: str, name: str, change: Callable[[np.ndarray], Any], says: str
) -> None:
    feed = batch(loss)
    feed["input_lengths"][:], feed["target_lengths"][:] = 7, 4
    right = dict(feed)
    name = SCORES[loss] if name == "scores" else name
    feed[name] = np.ascontiguousarray(change(feed[name])) if feed[name].ndim else feed[name]
    if name == "input_lengths" and "got shape \\[\\]" in says:
        feed[name] = np.array(7)
    weights = {"grad_costs": np.ones(3, np.float32)} if grad else {}
    ours = session(one_operator(loss + grad), library)
    message = says if says.startswith("targets:") else f"{name}: .*{says}"
    with pytest.raises(Exception, match=f"INVALID_ARGUMENT.*{message}"):
        ours.run(None, {**feed, **weights})
    assert np.isfinite(ours.run(None, {**right, **weights})[-1]).all()  # the session is as good as new


@both_losses
def test_grad_costs_that_do_not_fit_are_named(library: str, loss: str) -> None:
    ours = session(one_operator(f"{loss}Grad"), library)
    for shape in ((2,), (3, 1), ()):
        with pytest.raises(Exception, match=r"INVALID_ARGUMENT.*grad_costs: got shape .*, expected \[3\]"):
            ours.run(None, {**batch(loss), "grad_costs": np.ones(shape, np.float32)})


def test_logits_agree_with_targets(library: str) -> None:
    """A transducer's logits have one more place than there are labels."""
    ours, feed = session(one_operator("TransducerLoss"), library), batch("TransducerLoss")
    feed["logits"] = feed["logits"][:, :, :4].copy()
    with pytest.raises(
        Exception, match=r"targets: got shape \[3, 4\], expected \[3, 3\], for logits of shape"
    ):
        ours.run(None, feed)
    feed["logits"] = feed["logits"][:, :, :0].copy()
    with pytest.raises(
        Exception, match=r"logits: got shape \[3, 7, 0, 5\], expected .* with U\+1 at least 1"
    ):
        ours.run(None, feed)


@both_losses
@pytest.mark.parametrize("blank", [5, -1, 2**62])
def test_a_blank_out_of_range_is_named(library: str, loss: str, blank: int) -> None:
    with pytest.raises(Exception, match=rf"INVALID_ARGUMENT.*blank_index: got {blank}, expected .*\[0, 4\]"):
        session(one_operator(loss, blank=blank), library).run(None, batch(loss))


@both_losses
def test_no_classes(library: str, loss: str) -> None:
    feed = batch(loss)
    feed[SCORES[loss]] = feed[SCORES[loss]][..., :0].copy()
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT.*blank_index"):
        session(one_operator(loss), library).run(None, feed)


@both_losses
@pytest.mark.parametrize("grad", ["", "Grad"])
def test_a_missing_blank_is_named(library: str, loss: str, grad: str) -> None:
    with pytest.raises(Exception, match="blank_index: got no such attribute, expected an integer"):
        session(one_operator(loss + grad, blank=None), library)


@both_losses
def test_mixed_types_do_not_load(library: str, loss: str) -> None:
    with pytest.raises(Exception, match=f"{loss}Grad"):
        session(one_operator(f"{loss}Grad", np.float32, grad_dtype=np.float64), library)


def test_no_memory_is_an_error_too(library: str) -> None:
    """What a thread of the pool throws comes back as a status, and the process lives."""
    if not sys.platform.startswith("linux"):
        pytest.skip("limits memory as Linux does")
    code = f"""
import numpy as np, onnxruntime, resource
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
options.log_severity_level = 4
options.register_custom_ops_library({library!r})
model, providers = {one_operator("CTCLoss")!r}, ["CPUExecutionProvider"]
session = onnxruntime.InferenceSession(model, options, providers=providers)
labels = 8_000_000
small = lambda n: dict(log_probs=np.zeros((4, 1, 3), np.float32), targets=np.ones((4, n), np.int64),
                       input_lengths=np.ones(4, np.int64), target_lengths=np.full(4, n))
big = small(labels)
session.run(None, small(1))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20), -1))
try:
    session.run(None, big)
    print("no error")
except Exception as error:
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    print("error:", error)
print("then", abs(session.run(None, small(1))[0]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bad_alloc" in done.stdout
    assert "then [0. 0. 0. 0.]" in done.stdout


# The host, and the runtime's own door


def test_an_old_host_is_told(library: str) -> None:
    """ONNX Runtime 1.16 has no version 17 of the interface; the status says so, and nothing crashes."""
    create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    get_version = ctypes.CFUNCTYPE(ctypes.c_void_p)
    said: list[bytes] = []
    asked: list[int] = []
    version = ctypes.create_string_buffer(b"1.16.3")
    entries = (ctypes.c_void_p * 1)()
    on_create = create(lambda _code, message: said.append(message) or 1)
    entries[0] = ctypes.cast(on_create, ctypes.c_void_p)
    on_api = get_api(lambda n: asked.append(n) or (ctypes.addressof(entries) if n <= 16 else None))
    on_version = get_version(lambda: ctypes.addressof(version))
    base = (ctypes.c_void_p * 2)(
        ctypes.cast(on_api, ctypes.c_void_p), ctypes.cast(on_version, ctypes.c_void_p)
    )
    register = ctypes.CDLL(library).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(base)) == 1
    assert said == [b"exportable_losses: got ONNX Runtime 1.16.3, expected 1.17 or later"]
    assert asked == [17, 1]


def test_native_takes_refuses_and_demands(
    library: str, exported: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = exported("ctc_loss", np.float32, 0)
    feed = relative("ctc_loss", np.float32, (2, 9, 3, 5), 0, 0)
    assert LossSession(path).library == library
    assert LossSession(path, native=False).library is None
    with pytest.raises(ValueError, match="native: got 'always', expected True, False or 'auto'"):
        LossSession(path, native="always")  # type: ignore[arg-type]

    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setenv("EXPORTABLE_LOSSES_LIBRARY", str(broken))
    with pytest.raises(RuntimeError, match=r"native: got True, but .*broken\.so does not load"):
        LossSession(path, native=True)
    with pytest.warns(RuntimeWarning, match=r"broken\.so does not load, so sessions run without it"):
        without = LossSession(path)
    assert without.library is None
    assert np.isfinite(without(**feed)["loss"]).all()

    monkeypatch.setenv("EXPORTABLE_LOSSES_LIBRARY", str(tmp_path / "nowhere.so"))
    with pytest.raises(FileNotFoundError, match=r"EXPORTABLE_LOSSES_LIBRARY: got .*nowhere\.so"):
        LossSession(path)
    LossSession(path, native=False)

    monkeypatch.delenv("EXPORTABLE_LOSSES_LIBRARY")
    monkeypatch.setattr(el, "__path__", [str(tmp_path)])
    assert library_path() is None
    assert LossSession(path).library is None
    with pytest.raises(RuntimeError, match="native: got True, but no operator library is installed"):
        LossSession(path, native=True)
    (tmp_path / "lib").mkdir()
    installed = tmp_path / "lib" / Path(library).name
    shutil.copy(library, installed)
    assert library_path() == str(installed)
    assert LossSession(path, native=True).library == str(installed)
