"""Branches on data that only raise: a trace passes them, as the example did.

``if labels.max() >= classes: raise ValueError(…)`` and ``assert (lengths > 0).all()`` decide about nothing
that a graph computes.
"""

import ast
import contextlib
import dis
import functools
import linecache
import os
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import torch
from torch._subclasses.fake_tensor import is_fake
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from .gradients import Positional

_TORCH = os.path.dirname(torch.__file__)
_NN = os.path.join(_TORCH, "nn")


@contextlib.contextmanager
def passing() -> Iterator[None]:
    """Within it a tensor, or a number that is read from one, is true or not as its branch must not raise.

    Where both ways go on, torch says that it cannot know.
    """
    of_data: list[tuple[Any, Callable[[Any], bool]]] = [
        (torch.Tensor, is_fake),
        (torch.SymBool, lambda number: bool(free_unbacked_symbols(number))),
    ]
    with contextlib.ExitStack() as restore:
        for kind, is_unknown in of_data:
            own = vars(kind).get("__bool__")  # a tensor inherits it
            back = (setattr, kind, "__bool__", own) if own else (delattr, kind, "__bool__")
            restore.callback(*back)
            kind.__bool__ = _passing(kind.__bool__, is_unknown)
        yield


def _passing(decide: Callable[[Any], bool], is_unknown: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def answer(value: Any) -> bool:
        truth = _truth() if is_unknown(value) else None
        return decide(value) if truth is None else truth

    return answer


def _truth() -> bool | None:
    """The truth of a value with which the branch that asks for it does not raise; None if both ways go on."""
    frame: FrameType | None = sys._getframe(2)
    passes = _passes(frame.f_code, frame.f_lasti) if frame else None
    while passes is not None and frame and frame.f_code is not Positional.forward.__code__:
        if _caught(frame):
            return None
        frame = frame.f_back
    return passes


@functools.lru_cache(maxsize=256)
def _passes(code: CodeType, offset: int) -> bool | None:
    """With which truth of its condition the jump at `offset` does not lead to a ``raise``."""
    steps = list(dis.get_instructions(code))
    places = {step.offset: i for i, step in enumerate(steps)}
    asks = steps[places[offset]]  # the jump itself, or what newer Pythons have before it
    before = asks.opname == "TO_BOOL" or (asks.opname == "COMPARE_OP" and asks.argrepr.startswith("bool("))
    jump = places[offset] + before
    name = steps[jump].opname
    if not (name.startswith("POP_JUMP") and name.endswith(("IF_TRUE", "IF_FALSE"))):
        return None
    at_jump, behind = places[steps[jump].argval], jump + 1
    if _only_raises(steps, places, at_jump, behind):
        return name.endswith("IF_FALSE")
    if _only_raises(steps, places, behind, at_jump):
        return name.endswith("IF_TRUE")
    return None


def _only_raises(steps: list[dis.Instruction], places: dict[int, int], start: int, passed: int) -> bool:
    """Whether every way from `start` raises, or goes to `passed` and only computed a condition."""
    open_ways, seen, raised = [(start, False)], set(), False
    while open_ways:
        way = open_ways.pop()
        if way in seen:
            continue
        seen.add(way)
        i, did = way
        name = steps[i].opname
        if i == passed:
            if did:
                return False
        elif name == "RAISE_VARARGS":
            raised = True
        elif name.startswith(("RETURN", "YIELD", "RERAISE")):
            return False
        else:
            did = did or name.startswith(("STORE", "DELETE", "POP_TOP"))
            jumps = "JUMP" in name or name in ("FOR_ITER", "SEND")
            if jumps:
                open_ways.append((places[steps[i].argval], did))
            if not jumps or "IF" in name or name in ("FOR_ITER", "SEND"):
                open_ways.append((i + 1, did))
    return raised


def _caught(frame: FrameType) -> bool:
    """Whether an error would be caught where `frame` is, or that is not known. What traces is not asked."""
    file = frame.f_code.co_filename
    if file.startswith(_TORCH) and not file.startswith(_NN):
        return False
    tree = _tree(file)
    tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try)] if tree else []
    return tree is None or any(
        node.body[0].lineno <= frame.f_lineno <= (node.body[-1].end_lineno or 0)
        and not all(isinstance(handler.body[-1], ast.Raise) for handler in node.handlers)
        for node in tries
    )


@functools.lru_cache(maxsize=32)
def _tree(file: str) -> ast.Module | None:
    source = "".join(linecache.getlines(file))
    try:
        return ast.parse(source) if source else None
    except SyntaxError:
        return None
