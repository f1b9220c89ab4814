"""Released models and what a partner computes with them at home."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy.errors import ParameterError
from privacy.programs.columns import (
    Columns,
    Floats,
    Label,
    Number,
    Rows,
    design,
    features,
    weighted,
)
from privacy.programs.segment import assign

LARGEST_WEIGHT = 1e6
"""Of a model's weights and Platt map: with features in [-1, 1] every score is finite."""
MOST_COLUMNS, MOST_SEGMENT_COLUMNS = 200, 20
MOST_SEGMENTS = 50


@dataclass(frozen=True)
class PropensityModel:
    """Linear weights over :func:`privacy.programs.columns.design` and a Platt map, all within 1e6."""

    columns: Columns
    names: tuple[str, ...]
    weights: Floats
    platt: Floats

    def logit(self, rows: Rows) -> Floats:
        """Calibrated log odds, (n,)."""
        raw = weighted(design(self.columns, self.names, rows), self.weights)
        slope, offset = float(self.platt[0]), float(self.platt[1])
        return slope * raw + offset

    def score(self, rows: Rows) -> Floats:
        """Calibrated probability, (n,)."""
        return 1.0 / (1.0 + np.exp(-np.clip(self.logit(rows), -30.0, 30.0)))


@dataclass(frozen=True)
class SegmentModel:
    """Centres in [-1, 1] coordinates, (k, d)."""

    columns: Columns
    names: tuple[str, ...]
    centres: Floats

    def score(self, rows: Rows) -> Floats:
        """Index of the nearest centre, (n,), as floats; not a number where a value is not."""
        points = []
        for name in self.names:
            column = self.columns[name]
            if not isinstance(column, Number):
                raise ParameterError(f"{name} is not a number column")
            points.append(2.0 * column.unit(rows[name]) - 1.0)
        known = np.isfinite(np.sum(points, axis=0))
        return np.where(known, assign(points, self.centres).astype(np.float64), np.nan)


Model = PropensityModel | SegmentModel

_KEYS = {
    "propensity": {"kind", "columns", "label", "weights", "platt"},
    "segment": {"kind", "columns", "centres"},
}


def model_from(columns: Columns, data: Mapping[str, Any]) -> Model:
    """A model from the plain values in a result: known keys and columns only, every number finite and
    bounded. Raises ParameterError if anything is off."""
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ParameterError("model of an unknown kind")
    if set(data) != _KEYS[kind]:
        raise ParameterError("model has keys too few or too many")
    names = _names(data["columns"], MOST_COLUMNS if kind == "propensity" else MOST_SEGMENT_COLUMNS)
    if kind == "segment":
        return SegmentModel(columns, names, _centres(columns, names, data["centres"]))
    label = data["label"]
    if not isinstance(label, str) or not isinstance(columns.get(label), Label) or label in names:
        raise ParameterError("model's label is not a label column, or is a feature")
    weights = _numbers(data["weights"], len(features(columns, names)), LARGEST_WEIGHT)
    return PropensityModel(columns, names, weights, _numbers(data["platt"], 2, LARGEST_WEIGHT))


def _names(value: Any, most: int) -> tuple[str, ...]:
    names = tuple(_listed(value))
    if not 1 <= len(names) <= most or not all(isinstance(name, str) for name in names):
        raise ParameterError("model names no columns, or too many")
    if len(set(names)) != len(names):
        raise ParameterError("model names a column twice")
    return names


def _centres(columns: Columns, names: tuple[str, ...], value: Any) -> Floats:
    """Segment centres, (k, d), in [-1, 1]."""
    if not all(isinstance(columns.get(name), Number) for name in names):
        raise ParameterError("model uses a column that is not a number")
    rows = _listed(value)
    if not 2 <= len(rows) <= MOST_SEGMENTS:
        raise ParameterError("model has a wrong shape")
    return np.stack([_numbers(row, len(names), 1.0) for row in rows])


def _numbers(value: Any, count: int, largest: float) -> Floats:
    """``count`` plain numbers of at most ``largest``, (count,)."""
    found = _listed(value)
    if len(found) != count:
        raise ParameterError("model has a wrong shape")
    for number in found:
        # Python compares whole numbers of any size exactly; not a number compares as false
        if type(number) not in (int, float) or not -largest <= number <= largest:
            raise ParameterError("model holds what is not a number, or one out of range")
    return np.array(found, dtype=np.float64)


def _listed(value: Any) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise ParameterError("model does not parse")
    return value
