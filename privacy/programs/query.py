"""Counts, sums, means and histograms, each one noisy sum, all in one stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from privacy.errors import ParameterError
from privacy.programs.columns import Category, Columns, Floats, Label, Number, Rows, number, one_hot
from privacy.programs.program import Release, finite_state
from privacy.programs.rules import Rule


@dataclass(frozen=True)
class Measure:
    """One figure: ``count``, or ``sum``/``mean``/``histogram`` of ``column``."""

    kind: Literal["count", "sum", "mean", "histogram"]
    column: str | None = None
    bins: int = 10

    @property
    def name(self) -> str:
        """How results name it, such as ``mean(spend)``."""
        return f"{self.kind}({self.column})" if self.column else self.kind


class Query:
    """Measures over the rows that ``where`` selects. Shares of mu^2 are equal.

    count: clip 1. sum: clip max(|low|, |high|). mean: the vector ((x - middle)/half, 1) with clip
    sqrt(2), so that mean = middle + half * total_0 / total_1. histogram: one-hot, clip 1. No state.
    """

    def __init__(
        self, columns: Columns, measures: Sequence[Measure], where: Rule | None, mu2: float
    ) -> None:
        if not 1 <= len(measures) <= 50:
            raise ParameterError("a query has between 1 and 50 measures")
        if (
            where is not None
        ):  # a text that is no value of its column is refused here, not over rows
            where.select(dict.fromkeys(where.names, np.empty(0)), columns, 0)
        self.columns, self.measures, self.where, self.mu2 = columns, tuple(measures), where, mu2
        self._totals: dict[int, tuple[Floats, float]] = {}
        self._plan = tuple(self._release(i) for i in range(len(self.measures)))

    def _cells(self, measure: Measure) -> int:
        column = self.columns.get(measure.column or "")
        if isinstance(column, Category):
            return len(column.values)
        if isinstance(column, Label):
            return 2
        if isinstance(column, Number) and 2 <= measure.bins <= 1000:
            return measure.bins
        raise ParameterError(f"{measure.name}: needs a declared column and 2 to 1000 bins")

    def _release(self, index: int) -> Release:
        measure = self.measures[index]
        length, clip = 1, 1.0
        if measure.kind == "sum":
            column = number(self.columns, measure.column or "")
            clip = max(abs(column.low), abs(column.high))
        elif measure.kind == "mean":
            number(self.columns, measure.column or "")
            length, clip = 2, float(np.sqrt(2.0))
        elif measure.kind == "histogram":
            length = self._cells(measure)
        return Release(f"{index}:{measure.name}", 0, length, clip, self.mu2 / len(self.measures))

    def plan(self) -> Sequence[Release]:
        return self._plan

    def contribution(self, index: int, rows: Rows) -> Floats:
        measure = self.measures[index]
        count = len(next(iter(rows.values())))
        chosen = self.where.select(rows, self.columns, count) if self.where else np.ones(count)
        chosen = chosen.astype(np.float64)
        if measure.kind == "count":
            return chosen[:, None]
        column = self.columns[measure.column or ""]
        values = rows[measure.column or ""]
        if measure.kind == "histogram":
            cells = self._cells(measure)
            if isinstance(column, Number):
                values = np.floor(column.unit(values) * cells)
            return one_hot(values, cells, chosen)
        bounds = number(self.columns, measure.column or "")
        clipped = np.clip(values, bounds.low, bounds.high)
        if measure.kind == "sum":
            return (clipped * chosen)[:, None]
        middle, half = (bounds.low + bounds.high) / 2, (bounds.high - bounds.low) / 2
        return np.stack([(clipped - middle) / half * chosen, chosen], axis=1)

    def absorb(self, index: int, total: Floats, deviation: float) -> None:
        self._totals[index] = (total, deviation)

    def state(self) -> Floats:
        return np.zeros(0)

    def restore(self, state: Floats) -> None:
        finite_state(state, 0)

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for index, measure in enumerate(self.measures):
            total, deviation = self._totals[index]
            if measure.kind == "mean":
                bounds = number(self.columns, measure.column or "")
                middle, half = (bounds.low + bounds.high) / 2, (bounds.high - bounds.low) / 2
                people = max(float(total[1]), 1.0)
                ratio = float(np.clip(total[0] / people, -1.0, 1.0))
                found[measure.name] = {
                    "value": middle + half * ratio,
                    "deviation": float(half * deviation * np.hypot(1.0, ratio) / people),
                }
            elif measure.kind == "histogram":
                found[measure.name] = {
                    "labels": self._labels(measure),
                    "value": [float(v) for v in total],
                    "deviation": deviation,
                }
            else:
                found[measure.name] = {"value": float(total[0]), "deviation": deviation}
        return found

    def _labels(self, measure: Measure) -> list[str]:
        column = self.columns[measure.column or ""]
        if isinstance(column, Category):
            return list(column.values)
        if isinstance(column, Label):
            return ["no", "yes"]
        edges = column.value(np.linspace(0, 1, measure.bins + 1))
        return [f"{low:g} to {high:g}" for low, high in pairwise(edges)]

    def expected_error(self) -> dict[str, float]:
        errors: dict[str, float] = {}
        for release, measure in zip(self._plan, self.measures, strict=True):
            sigma = release.clip / float(np.sqrt(release.mu2))
            if measure.kind == "mean":
                bounds = number(self.columns, measure.column or "")
                sigma *= (bounds.high - bounds.low) / 2
                errors[f"{measure.name} x people"] = sigma
            else:
                errors[measure.name] = sigma
        return errors
