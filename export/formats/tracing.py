"""What surrounds a trace: silence, and nothing done twice."""

import contextlib
import functools
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch._dynamo.config
import torch._export.utils
import torch.fx.config
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.fx import Graph
from torch.onnx._internal.exporter import _fx_passes, _registration

_ONE_AT_A_TIME = threading.RLock()  # two that overlap would leave torch as the first has changed it


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Silence what an exporter says of itself (missing torchvision, its progress, deprecations)."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def sparing() -> Iterator[None]:
    """Save half of the exporter's time, which it spends asking the same things again.

    For every graph it reads onnxscript's library from its sources, with the signature of each function, and
    has torch list all composite operators for every namespace. It keeps what each operator gives for
    symbolic sizes, which costs more than to ask again, and where in the sources each node comes from, which
    no file says. It traces what has nothing to decompose once more. Where torch has other functions, nothing
    is saved.
    """
    spared: list[tuple[Any, str, Callable[[Any], Any]]] = [
        (getattr(_registration, "onnxscript_apis", None), "get_torchlib_ops", _kept),
        (getattr(_registration, "_schemas", None), "op_signature_from_function", _kept),
        # of one trace only: between two there may be new operators
        (torch._export.utils, "_materialize_cpp_cia_ops", functools.cache),
        (torch._dynamo.config, "fake_tensor_cache_enabled", lambda _: False),
        (torch.fx.config, "do_not_emit_stack_traces", lambda _: True),
        (_fx_passes, "decompose_with_registry", _where_needed),
    ]
    with _ONE_AT_A_TIME, contextlib.ExitStack() as restore:
        for owner, name, instead in spared:
            if hasattr(owner, name):
                before = getattr(owner, name)
                restore.callback(setattr, owner, name, before)
                setattr(owner, name, instead(before))
        yield


@functools.cache
def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which remembers its answers: twice as many as there are in the library."""
    return functools.lru_cache(maxsize=2048)(function)


def _where_needed(decompose: Callable[..., Any]) -> Callable[..., Any]:
    """`decompose`, of programs with operators in place, loops, or what the exporter does not translate."""

    def decompose_if_needed(program: ExportedProgram, registry: Any) -> ExportedProgram:
        known = [functions[0] for functions in registry.functions.values()]
        ours = {each.fx_target for each in known if each.is_custom}
        theirs = {each.fx_target for each in known} - ours
        called = {node.target for node in program.graph.nodes if node.op == "call_function"}
        plain = ours | {each for each in theirs & called if not (in_place(each) or _is_composite(each))}
        done = all(_says_nothing(target) for target in called - plain)
        return program if done else decompose(program, registry)

    return decompose_if_needed


def _is_composite(target: Any) -> bool:
    """Whether torch decomposes an operator whatever the exporter has for it: one made of others, which may
    give back its input."""
    made_of_others = isinstance(target, OpOverload) and torch._C._dispatch_has_kernel_for_dispatch_key(
        target.name(), "CompositeImplicitAutograd"
    )
    return made_of_others and any(argument.alias_info for argument in target._schema.arguments)


def _says_nothing(target: Any) -> bool:
    """Whether a function is no operator, or one that only asserts, which the exporter drops."""
    if isinstance(target, OpOverload):
        return not target._schema.returns
    return not isinstance(target, HigherOrderOperator)


def in_place(target: Any) -> bool:
    """Whether an operator changes what it is given."""
    return isinstance(target, OpOverload) and target._schema.is_mutable


def out_of_place(graph: Graph) -> None:
    """Put an operator that makes a new tensor in the place of each that changes one nobody else reads.

    Formulas of torch's autograd are full of them, on tensors that they have made themselves.
    """
    for node in list(graph.nodes):
        if not in_place(node.target):
            continue
        changed = node.args[0]
        fresh = isinstance(changed.target, OpOverload) and not any(
            returned.alias_info for returned in changed.target._schema.returns
        )
        packet, overload = node.target._schema.name.removeprefix("aten::"), node.target._overloadname
        instead = getattr(getattr(torch.ops.aten, packet.removesuffix("_"), None), overload, None)
        if fresh and len(changed.users) == 1 and _takes_the_same(instead, node.target):
            node.target = instead


def _takes_the_same(one: Any, other: OpOverload) -> bool:
    def kinds(operator: OpOverload) -> list[str]:
        return [str(argument.type) for argument in operator._schema.arguments]

    return isinstance(one, OpOverload) and not in_place(one) and kinds(one) == kinds(other)
