"""Released models and what a partner computes with them at home."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy.errors import ParameterError
from privacy.programs.columns import Columns, Floats, Number, Rows, design, features, weighted
from privacy.programs.segment import assign

MOST_WEIGHTS = 10_000


@dataclass(frozen=True)
class PropensityModel:
    """Linear weights over :func:`privacy.programs.columns.design` and a Platt map."""

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
        """Index of the nearest centre, (n,), as floats."""
        points = []
        for name in self.names:
            column = self.columns[name]
            if not isinstance(column, Number):
                raise ParameterError(f"{name} is not a number column")
            points.append(2.0 * column.unit(rows[name]) - 1.0)
        return assign(points, self.centres).astype(np.float64)


Model = PropensityModel | SegmentModel


def model_from(columns: Columns, data: Mapping[str, Any]) -> Model:
    """A model from the plain values in a result. Raises ParameterError if anything is off."""
    try:
        names = tuple(str(name) for name in data["columns"])
        if data["kind"] == "propensity":
            weights = np.array(data["weights"], dtype=np.float64)
            platt = np.array(data["platt"], dtype=np.float64)
            expected = len(features(columns, names))
            if weights.shape != (expected,) or platt.shape != (2,):
                raise ParameterError("model has a wrong shape")
            model: Model = PropensityModel(columns, names, weights, platt)
        elif data["kind"] == "segment":
            centres = np.array(data["centres"], dtype=np.float64)
            if centres.ndim != 2 or centres.shape[1] != len(names) or centres.size > MOST_WEIGHTS:
                raise ParameterError("model has a wrong shape")
            if any(not isinstance(columns.get(name), Number) for name in names):
                raise ParameterError("model uses a column that is not a number")
            weights, model = centres, SegmentModel(columns, names, centres)
        else:
            raise ParameterError("model of an unknown kind")
    except (KeyError, TypeError, ValueError):
        raise ParameterError("model does not parse") from None
    if not bool(np.isfinite(weights).all()):
        raise ParameterError("model is not finite")
    return model
