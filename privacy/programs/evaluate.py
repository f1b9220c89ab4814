"""Evaluation on held-out people: AUC, log loss and calibration from one noisy table.

The release counts people by bin of the model's score and by label: clip 1. The AUC of the binned
scores is (sum over i > j of P_i N_j + sum of P_i N_i / 2) / (P N), bilinear in the cells, so zero-mean
noise leaves its numerator unbiased.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from privacy.errors import ParameterError
from privacy.programs.columns import Columns, Floats, Label, Rows, features, one_hot
from privacy.programs.program import Release, check_within, finite_state
from privacy.programs.scoring import LARGEST_WEIGHT, PropensityModel

BINS = 40
LOW, HIGH = -5.0, 5.0


class Evaluate:
    """Evaluate a propensity model on people whose fold is under ``holdout``.

    State: the model's weights, then its Platt slope and offset, all within 1e6.
    """

    def __init__(
        self, columns: Columns, names: Sequence[str], label: str, holdout: float, mu2: float
    ) -> None:
        if not isinstance(columns.get(label), Label) or label in names:
            raise ParameterError(f"{label} is not a label column of the contract, or is a feature")
        if len(set(names)) != len(names):
            raise ParameterError("features must be distinct")
        if not 0.0 < holdout <= 0.5:
            raise ParameterError("holdout must be above 0 and at most 0.5")
        self.columns, self.names, self.label, self.holdout = columns, tuple(names), label, holdout
        size = len(features(columns, self.names))
        self.model = PropensityModel(columns, self.names, np.zeros(size), np.array([1.0, 0.0]))
        self.table, self.deviation = np.zeros((BINS, 2)), 0.0
        self._plan = (Release("score by label", 0, 2 * BINS, 1.0, mu2),)

    def plan(self) -> Sequence[Release]:
        return self._plan

    def contribution(self, index: int, rows: Rows) -> Floats:
        held = (rows["fold"] < self.holdout).astype(np.float64)
        score = self.model.logit(rows)
        cell = np.clip(np.floor((score - LOW) / (HIGH - LOW) * BINS), 0, BINS - 1)
        return one_hot(2 * cell + np.clip(rows[self.label], 0.0, 1.0), 2 * BINS, held)

    def absorb(self, index: int, total: Floats, deviation: float) -> None:
        self.table, self.deviation = total.reshape(BINS, 2), deviation

    def state(self) -> Floats:
        return np.concatenate([self.model.weights, self.model.platt])

    def restore(self, state: Floats) -> None:
        values = finite_state(state, len(self.model.weights) + 2)
        check_within(values, -LARGEST_WEIGHT, LARGEST_WEIGHT, "weights or Platt map")
        self.model = PropensityModel(self.columns, self.names, values[:-2], values[-2:])

    def result(self) -> dict[str, Any]:
        negative, positive = self.table[:, 0], self.table[:, 1]
        people, buyers = float(self.table.sum()), float(positive.sum())
        middle = LOW + (np.arange(BINS) + 0.5) * (HIGH - LOW) / BINS
        chance = 1.0 / (1.0 + np.exp(-middle))
        total = max(people, 1.0)
        loss = -(positive * np.log(chance) + negative * np.log1p(-chance)).sum() / total
        mass = np.maximum(negative + positive, 0.0)
        seen = mass > 3.0 * self.deviation
        observed = np.where(seen, positive / np.maximum(negative + positive, 1.0), chance)
        gap = float((mass * np.abs(observed - chance))[seen].sum() / max(mass[seen].sum(), 1.0))
        return {
            "people": people,
            "label_rate": float(np.clip(buyers / total, 0.0, 1.0)),
            "auc": binned_auc(positive, negative),
            "auc_deviation": self._auc_deviation(),
            "log_loss": float(loss),
            "calibration_gap": gap,
        }

    def _auc_deviation(self) -> float:
        """One deviation of the AUC from noise alone, to first order in the cells."""
        positive, negative = self.table[:, 1], self.table[:, 0]
        auc = binned_auc(positive, negative)
        below = np.cumsum(negative) - negative / 2
        above = positive.sum() - np.cumsum(positive) + positive / 2
        top, bottom = max(float(positive.sum()), 1.0), max(float(negative.sum()), 1.0)
        by_positive = (below / bottom - auc) / top
        by_negative = (above / top - auc) / bottom
        spread = np.sqrt((by_positive**2).sum() + (by_negative**2).sum())
        return float(self.deviation * spread)

    def expected_error(self) -> dict[str, float]:
        return {"people in a cell": 1.0 / float(np.sqrt(self._plan[0].mu2))}


def binned_auc(positive: Floats, negative: Floats) -> float:
    """AUC of binned scores, bins in rising order, ties counted half; 0.5 if a class is missing."""
    top, bottom = float(positive.sum()), float(negative.sum())
    if top <= 0 or bottom <= 0:
        return 0.5
    below = np.cumsum(negative) - negative / 2
    return float(np.clip((positive * below).sum() / (top * bottom), 0.0, 1.0))
