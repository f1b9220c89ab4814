"""Declared columns: the only facts about data that a program may assume.

Bounds and vocabularies are public and come from the contract, never from the data.

What programs do with rows goes through this module, and it is total: no value of a row, not a number
or outside its bounds as it may be, raises or warns. A value that is not a number stays one, so that
the gate sets its person to zero (:func:`privacy.noisy_sum.encoding.quantise`); an index never leaves
its range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ParameterError

Floats = NDArray[np.float64]
Rows = Mapping[str, Floats]
"""Columns by name, each (n,): numbers within bounds, category codes, labels 0 or 1."""


LARGEST_BOUND, SMALLEST_WIDTH = 1e100, 1e-100
"""Of a number column: |low| and |high| at most, high - low at least. Within these no difference, square
or quotient of values overflows or vanishes."""


@dataclass(frozen=True)
class Number:
    """A number within [low, high]; ``scale`` "log" maps through sign(x) log(1 + |x|).

    Raises ParameterError unless |low|, |high| <= 1e100 and high - low >= 1e-100, on the column's scale
    too: a log scale that cannot tell low from high has no unit.
    """

    name: str
    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise ParameterError(f"column {self.name}: bounds must be finite with low < high")
        if max(abs(self.low), abs(self.high)) > LARGEST_BOUND:
            raise ParameterError(f"column {self.name}: bounds must lie within -1e100 and 1e100")
        low, high = self._ends()
        if not high - low >= SMALLEST_WIDTH:
            raise ParameterError(
                f"column {self.name}: high must be above low by 1e-100 at least, on its scale too"
            )

    def _ends(self) -> tuple[float, float]:
        """Both bounds on the column's scale."""
        if self.scale == "linear":
            return self.low, self.high
        return float(_log(np.array(self.low))), float(_log(np.array(self.high)))

    def unit(self, values: Floats) -> Floats:
        """Values clipped and mapped to [0, 1], element by element; not a number stays so."""
        low, high = self._ends()
        clipped = np.clip(values, self.low, self.high)
        if self.scale == "linear":
            return (clipped - low) / (high - low)
        # a logarithm may be off by an ulp, and its bounds close together
        return np.clip((_log(clipped) - low) / (high - low), 0.0, 1.0)

    def value(self, unit: Floats) -> Floats:
        """Inverse of :meth:`unit` for points of [0, 1]."""
        low, high = self._ends()
        inner = low + np.asarray(unit) * (high - low)
        return inner if self.scale == "linear" else np.sign(inner) * np.expm1(np.abs(inner))


def _log(values: Floats) -> Floats:
    return np.sign(values) * np.log1p(np.abs(values))


@dataclass(frozen=True)
class Category:
    """One of a declared vocabulary, held as its index."""

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2 or len(set(self.values)) != len(self.values):
            raise ParameterError(f"column {self.name}: needs two or more distinct values")


@dataclass(frozen=True)
class Label:
    """A yes or no, held as 1.0 or 0.0."""

    name: str


Column = Number | Category | Label
Columns = Mapping[str, Column]


def index_of(values: Floats, count: int) -> NDArray[np.intp]:
    """Whole numbers in [0, count) for any values, (n,): cut off at both ends, 0 if not a number."""
    return np.clip(np.where(np.isnan(values), 0.0, values), 0, count - 1).astype(np.intp)


def one_hot(values: Floats, count: int, weights: Floats) -> Floats:
    """(n, count): ``weights`` at each row's index; nothing for a row that is not a number."""
    block = np.zeros((len(values), count))
    block[np.arange(len(values)), index_of(values, count)] = np.where(
        np.isnan(values), 0.0, weights
    )
    return block


def number(columns: Columns, name: str) -> Number:
    """The number column ``name``, or ParameterError."""
    column = columns.get(name)
    if not isinstance(column, Number):
        raise ParameterError(f"{name} is not a number column of the contract")
    return column


def features(columns: Columns, names: tuple[str, ...]) -> list[str]:
    """Names of the features that :func:`design` makes, intercept last."""
    result: list[str] = []
    for name in names:
        column = columns.get(name)
        if column is None:
            raise ParameterError(f"{name} is not a column of the contract")
        if isinstance(column, Category):
            result += [f"{name}={value}" for value in column.values]
        else:
            result.append(name)
    return [*result, "intercept"]


def design(columns: Columns, names: tuple[str, ...], rows: Rows) -> list[Floats]:
    """Feature columns, each (n,): numbers and labels in [-1, 1], categories one-hot, then ones.

    A list, because products with weights are taken column by column: a matrix product would give
    other last bits for other block sizes.
    """
    result: list[Floats] = []
    count = 0
    for name in names:
        column, values = columns[name], rows[name]
        count = len(values)
        if isinstance(column, Number):
            result.append(2.0 * column.unit(values) - 1.0)
        elif isinstance(column, Category):
            result += [(values == code).astype(np.float64) for code in range(len(column.values))]
        else:
            result.append(2.0 * np.clip(values, 0.0, 1.0) - 1.0)
    return [*result, np.ones(count)]


def weighted(columns: list[Floats], weights: Floats) -> Floats:
    """Sum of weight times column, element by element in a fixed order."""
    total = np.zeros(len(columns[0]))
    for column, weight in zip(columns, weights, strict=True):
        total = total + column * weight
    return total
