"""How a kind of personal data looks in running text.

A word boundary does not exist beside Chinese characters, and the engine of polars has no look-around:
patterns stand between half boundaries over ASCII, which Chinese text does not disturb, or between groups
that take their neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import polars as pl

Accepts = Callable[[pl.Series], pl.Series]
"""Which texts, (n,), pass the check of a kind."""
START, END = r"(?-u:\b{start-half})", r"(?-u:\b{end-half})"
"""No ASCII letter, digit or underscore before; none behind."""


@dataclass(frozen=True)
class Pattern:
    """How a kind looks in running text. ``core``: a pattern without groups that capture, of both regex
    engines where it has a check; ``touching``: ASCII letters may stand beside it, and only digits may not;
    ``anywhere``: anything may; ``before``, ``after``: what stands beside it, and stays; ``hint``: what every
    row that holds one contains, cheaper to look for."""

    kind: str
    core: str
    hint: str
    accepts: Accepts | None = None
    touching: bool = False
    anywhere: bool = False
    before: str = ""
    after: str = ""

    @property
    def bounded(self) -> str:
        """Between anything but ASCII letters, digits and underscores."""
        if self.anywhere:
            return self.core
        return rf"{START}(?:{self.core}){END}"

    @property
    def grouped(self) -> bool:
        """Whether it is found by :attr:`shape`, in a group of its own."""
        return bool(self.before or self.after)

    @property
    def shape(self) -> str:
        """Between its neighbours, or anything but digits: groups 1, 2, 3."""
        if self.grouped:
            return f"({self.before})({self.core})({self.after})"
        return f"(^|[^0-9])({self.core})([^0-9]|$)"

    @property
    def compiled(self) -> re.Pattern[str]:
        """For Python, which has look-around."""
        near = "0-9" if self.touching else "0-9A-Za-z_"
        return _compiled(f"(?<![{near}])(?:{self.core})(?![{near}])")


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
