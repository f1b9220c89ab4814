"""Rules over columns, such as ``propensity >= 0.7 and region == "north"``.

A small language: comparisons of a column with a constant, ``and``, ``or``, ``not``, parentheses.
Python's own parser reads it; anything else in the tree is refused, so nothing is ever executed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ParameterError
from privacy.programs.columns import Category, Columns, Floats, Rows

Mask = NDArray[np.bool_]
LONGEST_RULE = 500

_COMPARE: dict[type[ast.cmpop], Callable[[Floats, float], Mask]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}


@dataclass(frozen=True)
class Rule:
    """A parsed rule. ``names``: the columns and scores it reads."""

    text: str
    tree: ast.expr
    names: frozenset[str]

    def select(self, rows: Rows, columns: Columns, count: int) -> Mask:
        """Which of ``count`` rows satisfy the rule. A value that is not finite never does."""
        return _evaluate(self.tree, rows, columns, count)


def parse(text: str) -> Rule:
    """Parse a rule. Raises ParameterError that says which part is not allowed."""
    if len(text) > LONGEST_RULE:
        raise ParameterError(f"rule is longer than {LONGEST_RULE} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ParameterError(f"rule does not parse: {text!r}") from None
    names: set[str] = set()
    _check(tree, names, 0)
    return Rule(text, tree, frozenset(names))


def _constant(node: ast.expr) -> float | str:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _constant(node.operand)
        if isinstance(value, float):
            return -value
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        if abs(node.value) > 1e300:
            raise ParameterError("rule: number out of range")
        return float(node.value)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ParameterError("rule: compare a column with a number or a text")


def _check(node: ast.expr, names: set[str], depth: int) -> None:
    if depth > 20:
        raise ParameterError("rule is nested too deeply")
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            _check(value, names, depth + 1)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check(node.operand, names, depth + 1)
    elif isinstance(node, ast.Compare):
        if not isinstance(node.left, ast.Name) or len(node.ops) != 1:
            raise ParameterError("rule: write each comparison as COLUMN OPERATOR CONSTANT")
        if type(node.ops[0]) not in _COMPARE:
            raise ParameterError("rule: operators are == != < <= > >=")
        _constant(node.comparators[0])
        names.add(node.left.id)
    else:
        raise ParameterError("rule: only comparisons, and, or, not")


def _evaluate(node: ast.expr, rows: Rows, columns: Columns, count: int) -> Mask:
    if isinstance(node, ast.BoolOp):
        parts = [_evaluate(value, rows, columns, count) for value in node.values]
        joined = parts[0]
        for part in parts[1:]:
            joined = joined & part if isinstance(node.op, ast.And) else joined | part
        return joined
    if isinstance(node, ast.UnaryOp):
        return ~_evaluate(node.operand, rows, columns, count)
    if not isinstance(node, ast.Compare) or not isinstance(node.left, ast.Name):
        raise ParameterError("rule: only comparisons, and, or, not")
    name = node.left.id
    if name not in rows:
        raise ParameterError(f"rule: {name} is neither a column nor a score")
    values = rows[name]
    constant = _constant(node.comparators[0])
    if isinstance(constant, str):
        column = columns.get(name)
        if not isinstance(column, Category) or constant not in column.values:
            raise ParameterError(f"rule: {name} has no value {constant!r} in the contract")
        constant = float(column.values.index(constant))
    return _COMPARE[type(node.ops[0])](values, constant) & np.isfinite(values)
