"""Branches on data that only raise: a trace passes them, as the example did.

``if labels.max() >= classes: raise ValueError(…)`` and ``assert (lengths > 0).all()`` decide about nothing
that a graph computes; unless something may catch the error, and go on with another number.
"""

import ast
import contextlib
import dis
import functools
import linecache
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import CodeType, FrameType, ModuleType
from typing import Any

import torch
from torch._subclasses.fake_tensor import is_fake
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, free_unbacked_symbols

from .gradients import Positional

_TORCH = os.path.dirname(torch.__file__)
_NN = os.path.join(_TORCH, "nn")
_TRIES = (ast.Try, getattr(ast, "TryStar", ast.Try))  # `except*` is of Python 3.11


@contextlib.contextmanager
def passing() -> Iterator[None]:
    """Within it a tensor, or a number that is read from one, is true or not as its branch must not raise.

    Where both ways go on, or something may catch the error, torch says that it cannot know. So does the end,
    if the module has caught that as well.
    """
    of_data: list[tuple[Any, Callable[[Any], bool]]] = [
        (torch.Tensor, is_fake),
        (torch.SymBool, lambda number: bool(free_unbacked_symbols(number))),
    ]
    refused: list[Exception] = []
    with contextlib.ExitStack() as restore:
        for kind, is_unknown in of_data:
            own = vars(kind).get("__bool__")  # a tensor inherits it
            back = (setattr, kind, "__bool__", own) if own else (delattr, kind, "__bool__")
            restore.callback(*back)
            kind.__bool__ = _passing(kind.__bool__, is_unknown, refused)
        yield
    if refused:
        raise refused[0]


def _passing(
    decide: Callable[[Any], bool], is_unknown: Callable[[Any], bool], refused: list[Exception]
) -> Callable[[Any], bool]:
    def answer(value: Any) -> bool:
        truth = _truth() if is_unknown(value) else None
        if truth is not None:
            return truth
        try:
            return decide(value)
        except GuardOnDataDependentSymNode as error:
            if not _traces(sys._getframe(1)):
                refused.append(error)
            raise

    return answer


def _truth() -> bool | None:
    """The truth of a value with which the branch that asks for it does not raise; None if both ways go on."""
    asks = sys._getframe(2)
    passes, lines = _passes(asks.f_code, asks.f_lasti)
    if passes is None or _catches(asks, lines):
        return None
    frame = asks.f_back
    while frame and frame.f_code is not Positional.forward.__code__:
        if _catches(frame, [frame.f_lineno]):
            return None
        frame = frame.f_back
    return passes


@functools.lru_cache(maxsize=256)
def _passes(code: CodeType, offset: int) -> tuple[bool | None, Sequence[int]]:
    """With which truth of its condition the jump at `offset` does not raise, and the lines of what raises."""
    steps = list(dis.get_instructions(code))
    places = {step.offset: i for i, step in enumerate(steps)}
    asks = steps[places[offset]]  # the jump itself, or what newer Pythons have before it
    before = asks.opname == "TO_BOOL" or (asks.opname == "COMPARE_OP" and asks.argrepr.startswith("bool("))
    jump = places[offset] + before
    name = steps[jump].opname
    if not (name.startswith("POP_JUMP") and name.endswith(("IF_TRUE", "IF_FALSE"))):
        return None, ()
    at_jump, behind = places[steps[jump].argval], jump + 1
    for raises, passed, truth in ((at_jump, behind, "IF_FALSE"), (behind, at_jump, "IF_TRUE")):
        if offsets := _only_raises(steps, places, raises, passed):
            return name.endswith(truth), _lines(code, offsets)
    return None, ()


def _only_raises(
    steps: Sequence[dis.Instruction], places: Mapping[int, int], start: int, passed: int
) -> set[int]:
    """The offsets on the ways from `start` if each raises, or goes to `passed` and only computed a condition.

    Empty if one does anything else.
    """
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
                return set()
        elif name == "RAISE_VARARGS":
            raised = True
        elif name.startswith(("RETURN", "YIELD", "RERAISE")):
            return set()
        else:
            did = did or name.startswith(("STORE", "DELETE", "POP_TOP"))
            jumps = "JUMP" in name or name in ("FOR_ITER", "SEND")
            if jumps:
                open_ways.append((places[steps[i].argval], did))
            if not jumps or "IF" in name or name in ("FOR_ITER", "SEND"):
                open_ways.append((i + 1, did))
    return {steps[i].offset for i, _ in seen if i != passed} if raised else set()


def _lines(code: CodeType, offsets: Collection[int]) -> list[int]:
    ranges = [(range(start, end), line) for start, end, line in code.co_lines() if line is not None]
    return [line for within, line in ranges if any(offset in within for offset in offsets)]


def _catches(frame: FrameType, lines: Iterable[int]) -> bool:
    """Whether `frame` may catch an error of one of its `lines`."""
    if _traces(frame):
        return False
    blocks = _blocks(frame.f_code.co_filename)
    return blocks is None or any(
        _holds(block, line, frame)
        for block in blocks
        if block.lineno >= frame.f_code.co_firstlineno  # before it begins what holds the whole function
        for line in lines
    )


def _traces(frame: FrameType) -> bool:
    """Whether `frame` is one of torch itself, and not of its modules."""
    file = frame.f_code.co_filename
    return file.startswith(_TORCH) and not file.startswith(_NN)


@functools.lru_cache(maxsize=32)
def _blocks(file: str) -> list[ast.stmt] | None:
    """What may catch an error: each ``try`` and ``with`` of a file. None where its source is not known."""
    source = "".join(linecache.getlines(file))
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    kinds = (*_TRIES, ast.With, ast.AsyncWith)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)] if source else None


def _holds(block: ast.stmt, line: int, frame: FrameType) -> bool:
    """Whether an error of `line` may end at a ``try`` or a ``with`` of `frame`."""
    if isinstance(block, (ast.With, ast.AsyncWith)):
        within = block.lineno <= line <= (block.end_lineno or 0)
        return within and not all(_catches_nothing(item.context_expr, frame) for item in block.items)
    assert isinstance(block, _TRIES)
    if block.body[0].lineno <= line <= (block.body[-1].end_lineno or 0):
        bodies = [handler.body for handler in block.handlers]
        if any(_leaves(body) or not isinstance(body[-1], ast.Raise) for body in bodies):
            return True
    at_end = block.finalbody
    return bool(at_end) and block.lineno <= line < at_end[0].lineno and _leaves(at_end)


def _catches_nothing(context: ast.expr, frame: FrameType) -> bool:
    """Whether a context is one of torch's (`no_grad`, `autocast`), of which none catches an error."""
    kind = _value(context.func, frame) if isinstance(context, ast.Call) else None
    module = getattr(kind, "__module__", None) or ""
    return kind is contextlib.nullcontext or module.partition(".")[0] == torch.__name__


def _value(name: ast.expr, frame: FrameType) -> Any:
    """What a name stands for in `frame`; one with dots only where it is in a module."""
    if isinstance(name, ast.Name):
        return frame.f_locals.get(name.id, frame.f_globals.get(name.id))
    if isinstance(name, ast.Attribute) and isinstance(owner := _value(name.value, frame), ModuleType):
        return getattr(owner, name.attr, None)
    return None


def _leaves(statements: Iterable[ast.stmt]) -> bool:
    """Whether a ``return``, ``break`` or ``continue`` may end `statements`, and with them an error."""
    every = [node for statement in statements for node in ast.walk(statement)]
    loops = [node for node in every if isinstance(node, (ast.For, ast.AsyncFor, ast.While))]
    inside = {node for loop in loops for statement in loop.body for node in ast.walk(statement)}
    return any(
        isinstance(node, ast.Return) or (isinstance(node, (ast.Break, ast.Continue)) and node not in inside)
        for node in every
    )
