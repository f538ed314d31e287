"""Lengths of both kinds, and the masks of what lies within them."""

import torch
from torch import Tensor

OUT_OF_RANGE = "lengths: got one out of range, expected integers up to the size, or relative lengths"


def frame_mask(length: Tensor, size: int) -> Tensor:
    """Whether each of `size` frames lies within an item's `length`: bool `[B, size]`.

    A frame that a relative length covers in part counts: `frame < length * size - 1e-6`, as in
    SpeechBrain 1.1.2, but for what float32 adds to a whole number of frames.
    """
    frames = absolute_length(length, size)
    if length.is_floating_point():
        covered = length * size
        begun = (covered - (1e-6 + covered / (1 << 22))).ceil().long()
        frames = torch.maximum(frames, begun)
    return torch.arange(size, device=length.device) < frames.unsqueeze(1)


def absolute_length(length: Tensor, size: int, least: int = 1) -> Tensor:
    """Lengths in frames or labels, int64 `[B]`.

    Integers are that already. Floating point is relative to `size`, and k / size is k however it was
    rounded, up to 2**23 frames in float32 (2**24 where to the nearest).

    Args:
        length: `[B]`, in [1, size] or (0, 1]; zero too where `least` is 0.
        size: how many frames there are.
        least: the least integer that is legal.
    """
    halves = length.dtype == torch.float16 or length.dtype == torch.bfloat16
    if halves or length.dtype == torch.bool or length.is_complex():
        raise TypeError(f"lengths: got {length.dtype}, expected float32, float64 or integers")
    if not torch.jit.is_scripting():
        if length.is_cuda or (torch.compiler.is_compiling() and not torch.compiler.is_exporting()):
            torch._assert_async(_in_range(length, size, least), OUT_OF_RANGE)
        elif torch._C._functorch.maybe_current_level() is not None:  # under a transform of `torch.func`
            values = innermost(length)
            if type(values) is Tensor and not bool(_in_range(values, size, least)):
                raise ValueError(OUT_OF_RANGE)
    else:
        length = _refused_in_script(length, size, least)
    if not length.is_floating_point():
        return length.long()
    near = (length * size).round().long()
    # float32 has no halves above 2**23, and no product of its own is exact: fixed point's is
    product = (length * (1 << 30)).round().long() * size
    far = (product + (1 << 29)) // (1 << 30)
    return torch.where(near < 1 << 22, near, far)


def refuse_absolute(length: Tensor | None, one: Tensor, other: Tensor, dim: int) -> None:
    """Refuse integers that count two sizes; in an export nobody knows that these differ."""
    if length is None or length.is_floating_point():
        return
    known = True
    if not torch.jit.is_scripting():
        known = not torch.compiler.is_exporting()
    if known and one.shape[dim] != other.shape[dim]:
        raise ValueError("length: got integers where the sizes differ, expected relative lengths")


def innermost(tensor: Tensor) -> Tensor:
    """The values behind what the transforms of `torch.func` put in the place of a tensor."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _in_range(length: Tensor, size: int, least: int) -> Tensor:
    """Whether all lengths are legal: a bool."""
    if length.is_floating_point():
        return ((length > 0 if least > 0 else length >= 0) & (length <= 1)).all()
    return ((length >= least) & (length <= size)).all()


def _refused_in_script(length: Tensor, size: int, least: int) -> Tensor:
    """`length`; an error where it is illegal, of the device itself on a GPU, which nobody waits for."""
    if size < least:
        raise ValueError("lengths: got no frames, expected at least one")
    legal = _in_range(length, size, least)
    if length.is_cuda:  # an assertion would be dropped, since nothing comes of it
        only = torch.zeros(1, dtype=length.dtype, device=length.device)
        return length + only.index_select(0, 1 - legal.long().reshape(1))
    if not bool(legal):
        raise ValueError(
            "lengths: got one out of range, expected integers up to the size, or relative lengths"
        )
    return length


def mask_of(x: Tensor, length: Tensor | None, dim: int = 1) -> Tensor | None:
    """`frame_mask` of the frames that `x` has along `dim`; nothing without a `length`, where all count.

    Raises:
        ValueError: each item is one frame.
    """
    if length is None:
        return None
    if x.dim() < 2:
        raise ValueError("length: got lengths where each item is one frame, expected an input of frames")
    return frame_mask(length, x.shape[dim])


def zero_behind(x: Tensor, mask: Tensor | None, dim: int = 1) -> Tensor:
    """`x` with zeros in the frames along `dim` that `mask` `[B, size]` leaves out.

    What is behind a length may be anything, a NaN too: if it went into a loss, its gradient would be one
    even where the loss does not count.
    """
    if mask is None:
        return x
    for _ in range(x.dim() - 2):
        mask = mask.unsqueeze(-1)
    return x.masked_fill(~mask.transpose(1, dim), 0)
