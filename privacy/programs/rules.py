"""Rules over columns and models, such as ``model:buyers >= 0.7 and region == "north"``.

A small language: comparisons of a column with a constant, ``and``, ``or``, ``not``, parentheses. A bare
name is a column, always; a model is written ``model:NAME``, or ``model:NAME@JOBPREFIX`` with the first
eight hex digits of the job that made it, so that no model ever takes a column's place.

:func:`_tokens` knows every token there is and reads the whole text, so that what Python's own parser,
which builds the tree, sees outside of texts is ASCII: it would take U+FF41 for an ``a`` (NFKC, PEP 3131).
Anything else in the tree is refused, so nothing is ever executed. Whatever the text, the answer is a
:class:`Rule` or a ParameterError, and no message quotes the text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ParameterError
from privacy.programs.columns import Category, Columns, Floats, Rows

Mask = NDArray[np.bool_]
LONGEST_RULE = 500
DEEPEST = 20

MODEL = re.compile(r"model:(?P<name>[a-z][a-z0-9_-]{0,31})(?:@(?P<job>[0-9a-f]{8}))?")
"""How a rule writes a model, and the key of its scores in :data:`Rows`."""

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
    | (?P<text>"(?:[^"\\\x00-\x1f]|\\["'\\])*"(?!["'])|'(?:[^'\\\x00-\x1f]|\\["'\\])*'(?!["']))
    | (?P<model>model:[a-z][a-z0-9_-]{0,31}(?:@[0-9a-f]{8})?(?![A-Za-z0-9_:@"'-]))
    | (?P<word>(?:[a-z][a-z0-9_]*|True|False)(?![A-Za-z0-9_:@"']))
    | (?P<number>(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.]))
    | (?P<sign>==|!=|<=|>=|<|>|\(|\)|-)
    """,
    re.VERBOSE,
)

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
    """A parsed rule. ``names``: the columns that it reads, and the models as they are written."""

    text: str
    tree: ast.expr
    names: frozenset[str]

    @property
    def columns(self) -> frozenset[str]:
        """Names that are columns."""
        return frozenset(name for name in self.names if model_of(name) is None)

    @property
    def models(self) -> frozenset[str]:
        """Names that are models, ``model:NAME`` or ``model:NAME@JOBPREFIX``."""
        return self.names - self.columns

    def select(self, rows: Rows, columns: Columns, count: int) -> Mask:
        """Which of ``count`` rows satisfy the rule. A value that is not finite never does.

        Raises ParameterError for a name that is not in ``rows`` or a text that is no value of its
        column; both are public.
        """
        return _evaluate(self.tree, rows, columns, count)


def model_of(name: str) -> tuple[str, str | None] | None:
    """(model, job prefix or None) of a name in a rule; None for a column."""
    found = MODEL.fullmatch(name)
    return (found["name"], found["job"]) if found else None


def parse(text: str) -> Rule:
    """Parse a rule. Raises ParameterError that says what is not allowed."""
    if len(text) > LONGEST_RULE:
        raise ParameterError(f"rule is longer than {LONGEST_RULE} characters")
    plain, models = _tokens(text)
    try:
        tree = ast.parse(plain.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        raise ParameterError("rule does not parse") from None
    names: set[str] = set()
    _check(tree, models, names, 0)
    return Rule(text, tree, frozenset(names))


def _tokens(text: str) -> tuple[str, dict[str, str]]:
    """The text with every model replaced by M0, M1, ..., which no column can be called, and which model
    each stands for."""
    parts: list[str] = []
    models: dict[str, str] = {}
    at, depth, before = 0, 0, ""
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ParameterError(
                'rule: write COLUMN or model:NAME, == != < <= > >=, a number or "a text", '
                "joined by and, or, not and parentheses"
            )
        part, kind = found[0], found.lastgroup or ""
        depth += (part == "(") - (part == ")")
        if depth > DEEPEST:  # Python's own limit differs between its versions
            raise ParameterError("rule is nested too deeply")
        if kind == before == "text":  # Python would join them
            raise ParameterError("rule: two texts in a row")
        before = before if kind == "space" else kind
        if kind == "model":
            models[f"M{len(models)}"] = part
            part = f"M{len(models) - 1}"
        parts.append(part)
        at = found.end()
    return "".join(parts), models


def _constant(node: ast.expr, depth: int = 0) -> float | str:
    if depth > DEEPEST:
        raise ParameterError("rule is nested too deeply")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _constant(node.operand, depth + 1)
        if isinstance(value, float):
            return -value
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        if not abs(node.value) <= 1e300:  # compared exactly, whatever a whole number's size
            raise ParameterError("rule: number out of range")
        return float(node.value)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ParameterError("rule: compare a column with a number or a text")


def _check(node: ast.expr, models: dict[str, str], names: set[str], depth: int) -> None:
    """Refuse what is not of the language; give models their names back; collect names."""
    if depth > DEEPEST:
        raise ParameterError("rule is nested too deeply")
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            _check(value, models, names, depth + 1)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check(node.operand, models, names, depth + 1)
    elif isinstance(node, ast.Compare):
        if not isinstance(node.left, ast.Name) or len(node.ops) != 1:
            raise ParameterError("rule: write each comparison as COLUMN OPERATOR CONSTANT")
        if type(node.ops[0]) not in _COMPARE:
            raise ParameterError("rule: operators are == != < <= > >=")
        _constant(node.comparators[0])
        node.left.id = models.get(node.left.id, node.left.id)
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
            raise ParameterError(f"rule: {name} has no value of that name in the contract")
        constant = float(column.values.index(constant))
    return _COMPARE[type(node.ops[0])](values, constant) & np.isfinite(values)
