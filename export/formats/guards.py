"""What a trace decided by sizes: beyond that a graph may refuse, but may not give another number."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sympy
import torch
from torch.export import ExportedProgram

from .sizes import Dims, Sizes

_MOST = 2**15  # a larger size is not tried: who knows what a module makes of it


@dataclass(frozen=True)
class Guards:
    """Conditions on sizes that hold for the example, each with the letters of its symbols."""

    conditions: Sequence[tuple[sympy.Basic, Mapping[sympy.Symbol, str]]] = ()

    @classmethod
    def of(cls, programs: Sequence[ExportedProgram], dims: Dims) -> "Guards":
        """Those of every trace on the way to a graph whose inputs have the dimensions `dims`."""
        conditions = []
        for program in programs:
            nodes = {node.name: node for node in program.graph.nodes}
            inputs = [nodes[str(name)].meta["val"] for name in program.graph_signature.user_inputs]
            letters = {
                size.node.expr: term.partition("+")[0]
                for value, terms in zip(inputs, dims.values(), strict=True)
                for size, term in zip(value.shape, terms, strict=True)
                if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol and isinstance(term, str)
            }
            environments = {id(value.fake_mode): value.fake_mode.shape_env for value in inputs}
            found = {guard.expr: None for each in environments.values() for guard in each.guards}
            conditions += [(expr, letters) for expr in found if expr.free_symbols <= set(letters)]
        return cls(conditions)

    def broken(self, sizes: Sizes) -> str:
        """The first condition that does not hold at `sizes`, as text; empty where all do."""
        for condition, letters in self.conditions:
            if not _holds(condition, letters, sizes):
                return str(condition.xreplace({s: sympy.Symbol(letter) for s, letter in letters.items()}))
        return ""

    def beyond(self, now: Sizes) -> Iterator[dict[str, int]]:
        """Sizes at which a condition no longer holds: one of those now changed, to the next on either side.

        And to the one behind: where two branches meet they often agree.
        """
        seen: list[dict[str, int]] = []
        for condition, letters in self.conditions:
            for letter in sorted({letters[symbol] for symbol in condition.free_symbols}):
                tried = ({**now, letter: size} for size in _edges(condition, letters, now, letter))
                broken = [sizes for sizes in tried if not _holds(condition, letters, sizes)]
                smaller = [sizes for sizes in broken if sizes[letter] < now[letter]]
                larger = [sizes for sizes in broken if sizes[letter] > now[letter]]
                new = [sizes for sizes in (*smaller[-2:], *larger[:2]) if sizes not in seen]
                seen += new
                yield from new


def _edges(condition: sympy.Basic, letters: Mapping[sympy.Symbol, str], now: Sizes, letter: str) -> list[int]:
    """Sizes about the numbers and the other sizes in a condition, and about the size that there is."""
    numbers = {abs(int(number)) for number in condition.atoms(sympy.Integer)}
    numbers |= {now[letters[symbol]] for symbol in condition.free_symbols}
    about = {number + step for number in {1, *numbers} for step in (-2, -1, 0, 1, 2)}
    return sorted(size for size in about if 1 <= size <= _MOST)


def _holds(condition: sympy.Basic, letters: Mapping[sympy.Symbol, str], sizes: Sizes) -> bool:
    values = {symbol: sympy.Integer(sizes[letters[symbol]]) for symbol in condition.free_symbols}
    try:
        return bool(condition.xreplace(values) != sympy.false)
    except (ArithmeticError, AssertionError):  # a size that it cannot have
        return True
