"""One rule for lengths: floating point is relative, integers are absolute, and nothing behind is read."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from padding import GARBAGE, READ, ROWS, Inputs, pad, size_of, sized
from torch import Tensor

from exportable_losses import catalog, legal
from exportable_losses.lengths import absolute_length, frame_mask

F32, F64 = np.float32, np.float64
WARM = (0.0,) * 4  # a script is compiled anew after its first calls, and rounds otherwise


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def outputs(row: str, inputs: Inputs, scripted: bool) -> tuple[Tensor, ...]:
    module = catalog.get(row).module(**({"prune_range": 2} if row == "PruneRanges" else {}))  # more than one
    return as_tuple((torch.jit.script(module) if scripted else module)(**inputs))


@pytest.mark.parametrize("size", [1, 7, 50, 999, 160_000, (1 << 23) - 1])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_fraction_is_the_whole_number_that_was_meant_however_rounded(size: int, dtype: type) -> None:
    whole = np.unique(np.linspace(1, size, 200_000).astype(np.int64))
    exact = whole / size
    rounded = exact.astype(dtype)
    below = np.where(rounded > exact, np.nextafter(rounded, dtype(0)), rounded)
    above = np.where(rounded < exact, np.nextafter(rounded, dtype(2)), rounded)
    for lengths in (rounded, below, above):
        assert (legal.whole(lengths, size) == whole).all()
        assert (legal.begun(lengths, size) == whole).all()
        within = torch.from_numpy(lengths[lengths <= 1])
        assert torch.equal(absolute_length(within, size), torch.from_numpy(whole)[: len(within)])


@pytest.mark.parametrize("size", [9_000_000, 10_000_000, (1 << 24) - 1])
def test_ten_million_frames_are_not_too_many_for_float32(size: int) -> None:
    whole = np.arange(size - 2_000_000, size + 1)  # the worst: float32 is coarse there
    lengths = (whole / size).astype(F32)
    assert (legal.whole(lengths, size) == whole).all()
    assert (absolute_length(torch.from_numpy(lengths), size).numpy() == whole).all()
    assert (legal.begun(lengths, size) == whole).all()


@pytest.mark.parametrize("size", [160_000, 10_000_000])
def test_a_mask_has_as_many_frames(size: int) -> None:
    for frames in (1, size // 3, size // 2 + 1, size - 1, size):
        for length in (torch.tensor([frames / size]), torch.tensor([frames])):
            assert frame_mask(length, size).sum() == frames


def test_a_frame_that_is_covered_in_part_counts_in_a_mask_and_is_rounded_elsewhere() -> None:
    lengths = torch.tensor([0.21, 0.4, 0.45, 0.5, 0.55, 0.9, 1.0])  # of five: from 1.05 to 4.5, 5
    assert frame_mask(lengths, 5).sum(1).tolist() == [2, 2, 3, 3, 3, 5, 5]
    assert absolute_length(lengths, 5).tolist() == [1, 2, 2, 2, 3, 4, 5]
    assert legal.begun(lengths.numpy(), 5).tolist() == [2, 2, 3, 3, 3, 5, 5]
    assert legal.whole(lengths.numpy(), 5).tolist() == [1, 2, 2, 2, 3, 4, 5]


@pytest.mark.parametrize("scripted", [False, True], ids=["eager", "scripted"])
@pytest.mark.parametrize(("row", "name"), ROWS)
def test_integers_are_absolute(row: str, name: str, scripted: bool) -> None:
    inputs = sized(row)
    size = size_of(row, name, inputs)
    frames = torch.tensor([size, max(1, size - 1), max(1, size // 2)])
    relative = outputs(row, {**inputs, name: frames / size}, scripted)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        absolute = outputs(row, {**inputs, name: frames.to(dtype)}, scripted)
        torch.testing.assert_close(absolute, relative, rtol=0, atol=0)
    fewer = outputs(row, {**inputs, name: torch.full((3,), size)}, scripted)
    assert any(not torch.equal(a, b) for a, b in zip(fewer, relative, strict=True))


@pytest.mark.parametrize("scripted", [False, True], ids=["eager", "scripted"])
@pytest.mark.parametrize("kind", ["relative", "absolute"])
@pytest.mark.parametrize(("row", "name"), READ)
def test_what_lies_behind_a_length_is_not_read(row: str, name: str, kind: str, scripted: bool) -> None:
    inputs = sized(row)
    size, entry = size_of(row, name, inputs), catalog.get(row)
    frames = torch.tensor([size, size - 1, size - 2])
    inputs[name] = frames if kind == "absolute" else frames / size
    module = torch.jit.script(entry.module()) if scripted else entry.module()
    found = []
    for garbage in (*WARM, *GARBAGE):
        filled = pad(entry, inputs, name, 0, frames, garbage)
        for each in entry.differentiable:
            filled[each] = filled[each].detach().requires_grad_()
        values = as_tuple(module(**filled))
        flowing = [x.sum() for x in values if x.requires_grad]
        if flowing:
            torch.stack(flowing).sum().backward()
        found.append((*values, *(filled[each].grad for each in entry.differentiable)))
        for each in entry.differentiable:  # padded with ones where something is behind
            behind = pad(entry, {k: torch.zeros_like(v) for k, v in inputs.items()}, name, 0, frames, 1.0)
            assert not filled[each].grad[behind[each] == 1.0].any()
    for got in found[len(WARM) :]:
        torch.testing.assert_close(got, found[len(WARM) - 1], rtol=0, atol=0)


@pytest.mark.parametrize(("row", "name"), ROWS)
def test_lengths_out_of_range_are_refused(row: str, name: str) -> None:
    inputs, entry = sized(row), catalog.get(row)
    size = size_of(row, name, inputs)
    least = next(int(v.legal == "relative_length") for v in entry.inputs if v.name == name)
    for wrong in (least - 1, size + 1):
        lengths = torch.tensor([size, wrong, size])
        message = rf"^{name}: got {wrong} at \[1\], expected integer lengths in \[{least}, {size}\]"
        with pytest.raises(ValueError, match=message):
            entry.module()(**{**inputs, name: lengths})
        with pytest.raises(torch.jit.Error, match="lengths: got one out of range"):
            torch.jit.script(entry.module())(**{**inputs, name: lengths})
    with pytest.raises(torch.jit.Error, match="lengths: got one out of range"):
        torch.jit.script(entry.module())(**{**inputs, name: torch.tensor([1.0, 1.5, 1.0])})


def test_a_length_that_nobody_reads_is_refused_where_it_is_illegal() -> None:
    module, inputs = catalog.get("kldiv_loss").module(label_smoothing=0.1), sized("kldiv_loss")
    with pytest.raises(torch.jit.Error, match="lengths: got one out of range"):
        torch.jit.script(module)(**{**inputs, "length": torch.tensor([1.0, 1.5, 1.0])})
    inputs |= {name: inputs[name][:, :0] for name in ("log_probabilities", "targets")}
    for door in (module, torch.jit.script(module)):
        with pytest.raises((ValueError, torch.jit.Error), match=r"lengths?: got no frames"):
            door(**inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.bool, torch.complex64])
@pytest.mark.parametrize(("row", "name"), ROWS)
def test_lengths_of_a_dtype_that_cannot_hold_them(row: str, name: str, dtype: torch.dtype) -> None:
    inputs, module = sized(row), catalog.get(row).module()
    inputs[name] = torch.ones(3, dtype=dtype)
    with pytest.raises(TypeError, match=rf"^{name}: got {str(dtype)[6:]}, expected float32, float64 or"):
        module(**inputs)
    with pytest.raises(torch.jit.Error, match="lengths: got"):
        torch.jit.script(module)(**inputs)


@pytest.mark.parametrize("row", catalog.names())
def test_what_is_no_tensor_of_the_right_kind_is_refused(row: str) -> None:
    entry = catalog.get(row)
    inputs, module = entry.example_inputs(), entry.module()
    for value in entry.inputs:
        if (row, value.name) == ("LogSoftmaxWrapper", "length"):
            continue
        given = inputs[value.name]
        for other, kind in ((given.tolist(), "list"), (given.numpy(), "ndarray")):
            with pytest.raises(TypeError, match=f"^{value.name}: got {kind}, expected a tensor"):
                module(**{**inputs, value.name: other})
        wrong = [torch.complex64]
        if value.legal in legal.INTEGER:
            wrong += [torch.float32, torch.bool]
        for dtype in wrong:
            with pytest.raises(TypeError, match=f"^{value.name}: got {str(dtype)[6:]}, expected"):
                module(**{**inputs, value.name: given.to(dtype)})


def test_float_targets_are_not_cut_to_integers_in_a_script() -> None:
    for row in ("nll_loss", "Accuracy", "Perplexity", "LogSoftmaxWrapper"):
        inputs = catalog.get(row).example_inputs()
        inputs["targets"] = inputs["targets"] + 0.7
        with pytest.raises(torch.jit.Error, match="targets: got"):
            torch.jit.script(catalog.get(row).module())(**inputs)


def test_some_target_must_have_a_token() -> None:
    inputs = sized("TokenErrorRate") | {"target_lens": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(ValueError, match=r"^target_lens: got zeros alone, expected at least one element"):
        catalog.get("TokenErrorRate").module()(**inputs)


def test_a_label_is_held_to_its_classes_where_it_counts() -> None:
    """A frame that is covered in part counts in a mask, while a lattice rounds its labels."""
    frames = catalog.get("nll_loss").example_inputs(T=5, N=5) | {"length": torch.tensor([1.0, 0.45, 1.0])}
    frames["targets"][1, 3:] = -100  # 2.25 frames are three
    assert catalog.get("nll_loss").module()(**frames).isfinite()
    frames["targets"][1, 2] = -100
    with pytest.raises(ValueError, match=r"^targets: got -100 at \[1, 2\], expected an index"):
        catalog.get("nll_loss").module()(**frames)
    labels = catalog.get("ctc_loss").example_inputs(S=5) | {"target_lens": torch.tensor([1.0, 0.45, 1.0])}
    labels["targets"][1, 2:] = -100  # 2.25 labels are two
    assert catalog.get("ctc_loss").module()(**labels).isfinite()
    labels["targets"][1, 1] = -100
    with pytest.raises(ValueError, match=r"^targets: got -100 at \[1, 1\], expected an index"):
        catalog.get("ctc_loss").module()(**labels)


@pytest.mark.parametrize("lengths", [[6, 5, 4], [1.0, 5 / 6, 4 / 6]])
@pytest.mark.parametrize("reduction", ["mean", "batch"])
def test_rows_of_a_laplacian_read_those_of_the_image_beside(lengths: list[float], reduction: str) -> None:
    image = torch.randn(3, 8, 5, dtype=torch.float64)
    loss = catalog.get("LaplacianVarianceLoss").module(reduction=reduction)
    laplacian = catalog.get("Laplacian").module()
    rows = [laplacian(image[i : i + 1, : n + 2]).flatten() for i, n in enumerate((6, 5, 4))]
    with pytest.raises(ValueError, match=r"^length: got 7 at \[0\], expected integer lengths in \[1, 6\]"):
        loss(image, torch.tensor([7, 5, 4]))
    expected = torch.stack([-x.var() for x in rows]) if reduction == "batch" else -torch.cat(rows).var()
    for garbage in GARBAGE:
        behind = image.clone()
        for item, n in zip(behind, (6, 5, 4), strict=True):
            item[n + 2 :] = garbage
        behind.requires_grad_()
        got = loss(behind, torch.tensor(lengths))
        torch.testing.assert_close(got, expected)
        got.sum().backward()
        assert behind.grad.isfinite().all()
        assert not any(grad[n + 2 :].any() for grad, n in zip(behind.grad, (6, 5, 4), strict=True))


def test_lengths_of_a_mask_of_sources_are_refused_in_scripts_and_compiled_code() -> None:
    inputs = catalog.get("get_mask").example_inputs()
    inputs["source_lengths"] = inputs["source_lengths"] + inputs["source"].shape[0]
    module = catalog.get("get_mask").module()
    for run in (torch.jit.script(module), torch.compile(module, backend="aot_eager", fullgraph=True)):
        with pytest.raises((RuntimeError, torch.jit.Error), match="lengths: got one out of range"):
            run(**inputs)


def test_an_absolute_length_counts_one_size() -> None:
    """Frames and latents are two, unless there are as many of both."""
    loss = catalog.get("VariationalAutoencoderLoss").module()
    scripted, compiled = torch.jit.script(loss), torch.compile(loss, backend="eager")
    frames, latents = torch.randn(2, 10, 3), torch.randn(2, 5, 4)
    several = (frames, latents, latents, frames, torch.tensor([5, 3]))
    with pytest.raises(ValueError, match=r"^length: got integers where the sizes are 5 and 10, expected rel"):
        loss(*several)
    with pytest.raises(ValueError, match="length: got integers where the sizes are 5 and 10"):
        torch.func.vmap(loss)(*(x.unsqueeze(0) for x in several))
    contract = catalog.get("VariationalAutoencoderLoss").contract
    (length,) = [entry for entry in contract.inputs if entry.is_length]
    arrays = dict(
        zip(("rec", "mean", "log_var", "targets", "length"), map(Tensor.numpy, several), strict=True)
    )
    with pytest.raises(ValueError, match=r"^length: got integers where the sizes are 5 and 10"):
        contract.converted(length, np.dtype("float32"), arrays, {"len_dim": 1}, {})
    for each in (scripted, compiled):
        with pytest.raises(Exception, match="length: got integers where the sizes differ"):
            each(*several)
    alike = (frames, frames, frames, frames, torch.tensor([5, 3]))
    relative = (*alike[:4], torch.tensor([0.5, 0.3]))
    for each in (loss, scripted, compiled):
        torch.testing.assert_close(tuple(each(*alike)), tuple(loss(*relative)))


COMPILED = ["l1_loss", "nll_loss", "ctc_loss", "transducer_loss", "TokenErrorRate", "CTCGreedyDecode"]


@pytest.mark.parametrize("row", COMPILED)
def test_compiled_code_takes_both_and_refuses_what_is_out_of_range(row: str) -> None:
    torch.compiler.reset()
    inputs, entry = sized(row), catalog.get(row)
    name = next(value.name for value in entry.inputs if value.is_length)
    size = size_of(row, name, inputs)
    compiled: Callable[..., Any] = torch.compile(entry.module(), backend="aot_eager", fullgraph=True)
    frames = torch.tensor([size, size - 1, size - 2])
    for lengths in (frames, frames / size):
        got = as_tuple(compiled(**{**inputs, name: lengths}))
        torch.testing.assert_close(got, outputs(row, {**inputs, name: lengths}, scripted=False))
        with pytest.raises(RuntimeError, match="lengths: got one out of range"):
            compiled(**{**inputs, name: lengths * 2})
