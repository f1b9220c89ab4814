"""Audience algebra: ``a & b - c`` over the parties of a match.

    expression = term { "|" term }     term = part { ("&" | "-") part }     part = NAME | "(" ... ")"

``-`` takes away and must stand apart, since names may hold it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ParameterError

Members = NDArray[np.bool_]
_TOKEN = re.compile(r"\s*(?:([a-z][a-z0-9_-]*)|([&|()])|(-)(?=\s))")
DEEPEST = 50


@dataclass(frozen=True)
class Audience:
    """A parsed expression."""

    operator: Literal["name", "and", "or", "minus"]
    name: str = ""
    left: Audience | None = None
    right: Audience | None = None

    @property
    def names(self) -> set[str]:
        """Every party it mentions."""
        if self.left is None or self.right is None:
            return {self.name}
        return self.left.names | self.right.names

    def select(self, members: Mapping[str, Members]) -> Members:
        """Who is in it, given who is in each party's set."""
        if self.left is None or self.right is None:
            return members[self.name]
        left, right = self.left.select(members), self.right.select(members)
        if self.operator == "and":
            return left & right
        return left | right if self.operator == "or" else left & ~right


def parse(text: str) -> Audience:
    """Raises ParameterError that says where the text stops making sense."""
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ParameterError(f"audience: cannot read from character {at + 1} on")
        found.append(match.group().strip())
        at = match.end()
    audience, rest = _expression(found, 0)
    if rest:
        raise ParameterError(f"audience: {rest[0]!r} was not expected")
    return audience


def _expression(found: Sequence[str], depth: int) -> tuple[Audience, Sequence[str]]:
    if depth > DEEPEST:
        raise ParameterError("audience: nested too deeply")
    left, rest = _term(found, depth)
    while rest and rest[0] == "|":
        right, rest = _term(rest[1:], depth)
        left = Audience("or", left=left, right=right)
    return left, rest


def _term(found: Sequence[str], depth: int) -> tuple[Audience, Sequence[str]]:
    left, rest = _part(found, depth)
    while rest and rest[0] in "&-":
        operator: Literal["and", "minus"] = "and" if rest[0] == "&" else "minus"
        right, rest = _part(rest[1:], depth)
        left = Audience(operator, left=left, right=right)
    return left, rest


def _part(found: Sequence[str], depth: int) -> tuple[Audience, Sequence[str]]:
    if not found:
        raise ParameterError("audience: ends too early")
    first, rest = found[0], found[1:]
    if first == "(":
        inner, rest = _expression(rest, depth + 1)
        if not rest or rest[0] != ")":
            raise ParameterError("audience: a bracket is not closed")
        return inner, rest[1:]
    if first in "&|-)":
        raise ParameterError(f"audience: {first!r} was not expected")
    return Audience("name", name=first), rest
