"""Propensity: logistic regression from noisy gradient sums, then calibrated probabilities.

Releases: the number of people (2 % of mu^2), ``STEPS`` full-batch gradients (93 %), one table of
score bin by label (5 %). Each person's gradient (sigmoid(x.w) - y) x is clipped to ``CLIP``.
Momentum descent (Polyak 1964), the second half of the iterates averaged (Polyak, Juditsky 1992).
Clipping biases probabilities, so a Platt map (Platt 1999) is fitted on the noisy table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from privacy.errors import ParameterError
from privacy.programs.columns import (
    Columns,
    Floats,
    Label,
    Rows,
    design,
    features,
    one_hot,
    weighted,
)
from privacy.programs.program import LARGEST_FIGURE, Release, check_within, finite_state

STEPS = 40
CLIP = 1.5
MOMENTUM = 0.9
RATE = 2.0
COUNT_SHARE, CALIBRATION_SHARE = 0.02, 0.05
SCORE_BINS = 24
SCORE_LOW, SCORE_HIGH = -6.0, 4.0
LARGEST_WEIGHT, LARGEST_VELOCITY, LARGEST_PLATT = 50.0, 1e12, 20.0
"""Bounds of the state, which every step keeps to."""


def sigmoid(scores: Floats) -> Floats:
    """1 / (1 + exp(-z)), with z clipped to +-30."""
    return 1.0 / (1.0 + np.exp(-np.clip(scores, -30.0, 30.0)))


class Propensity:
    """A linear propensity model of ``label`` from ``names``.

    ``holdout``: share of people (by the public hash of their key, column ``fold``) left out of
    training so that an evaluation can use them. State: weights and running average (within 50),
    velocity between them (within 1e12), people (from 0 to 1e15), Platt slope and offset (within 20).
    """

    def __init__(
        self,
        columns: Columns,
        names: Sequence[str],
        label: str,
        mu2: float,
        *,
        holdout: float = 0.0,
        steps: int = STEPS,
        clip: float = CLIP,
        rate: float = RATE,
    ) -> None:
        if not isinstance(columns.get(label), Label):
            raise ParameterError(f"{label} is not a label column of the contract")
        if label in names or not names or len(set(names)) != len(names):
            raise ParameterError("features must be distinct and must not hold the label")
        if not 0.0 <= holdout <= 0.5 or not 5 <= steps <= 500:
            raise ParameterError("holdout is at most 0.5, steps between 5 and 500")
        self.columns, self.names, self.label = columns, tuple(names), label
        self.holdout, self.steps, self.clip, self.rate = holdout, steps, clip, rate
        self.features = features(columns, self.names)
        if "fold" in self.names:
            raise ParameterError("fold is not a feature")
        d = len(self.features)
        self.weights, self.velocity, self.average = np.zeros(d), np.zeros(d), np.zeros(d)
        self.people, self.platt = 0.0, np.array([1.0, 0.0])
        each = mu2 * (1 - COUNT_SHARE - CALIBRATION_SHARE) / steps
        self._plan = (
            Release("people", 0, 1, 1.0, mu2 * COUNT_SHARE),
            *(Release(f"gradient {t}", 1 + t, d, clip, each) for t in range(steps)),
            Release("calibration", steps + 1, 2 * SCORE_BINS, 1.0, mu2 * CALIBRATION_SHARE),
        )

    def plan(self) -> Sequence[Release]:
        return self._plan

    def contribution(self, index: int, rows: Rows) -> Floats:
        training = (rows["fold"] >= self.holdout).astype(np.float64)
        if index == 0:
            return training[:, None]
        columns = design(self.columns, self.names, rows)
        if index <= self.steps:
            residual = sigmoid(weighted(columns, self.weights)) - np.clip(
                rows[self.label], 0.0, 1.0
            )
            residual = residual * training
            return np.stack([column * residual for column in columns], axis=1)
        score = weighted(columns, self.average)
        cell = 2 * score_bin(score) + np.clip(rows[self.label], 0.0, 1.0)
        return one_hot(cell, 2 * SCORE_BINS, training)

    def absorb(self, index: int, total: Floats, deviation: float) -> None:
        if index == 0:
            self.people = min(max(1.0, float(total[0])), LARGEST_FIGURE)
        elif index <= self.steps:
            velocity = MOMENTUM * self.velocity + total / max(1.0, self.people)
            self.velocity = np.clip(velocity, -LARGEST_VELOCITY, LARGEST_VELOCITY)
            self.weights = _bounded(self.weights - self.rate * self.velocity)
            half = self.steps // 2
            if index > half:
                self.average = _bounded(self.average + self.weights / (self.steps - half))
        else:
            self.platt = fit_platt(total.reshape(SCORE_BINS, 2), deviation)

    def state(self) -> Floats:
        return np.concatenate(
            [self.weights, self.velocity, self.average, [self.people], self.platt]
        )

    def restore(self, state: Floats) -> None:
        d = len(self.features)
        values = finite_state(state, 3 * d + 3)
        check_within(values[:d], -LARGEST_WEIGHT, LARGEST_WEIGHT, "weights")
        check_within(values[d : 2 * d], -LARGEST_VELOCITY, LARGEST_VELOCITY, "velocity")
        check_within(values[2 * d : -3], -LARGEST_WEIGHT, LARGEST_WEIGHT, "average")
        check_within(values[-3], 0.0, LARGEST_FIGURE, "people")
        check_within(values[-2:], -LARGEST_PLATT, LARGEST_PLATT, "Platt map")
        self.weights, self.velocity, self.average = (
            values[:d],
            values[d : 2 * d],
            values[2 * d : -3],
        )
        self.people, self.platt = float(values[-3]), values[-2:]

    def result(self) -> dict[str, Any]:
        return {
            "people": self.people,
            "weights": dict(zip(self.features, map(float, self.average), strict=True)),
            "model": {
                "kind": "propensity",
                "columns": list(self.names),
                "label": self.label,
                "weights": [float(w) for w in self.average],
                "platt": [float(v) for v in self.platt],
            },
        }

    def expected_error(self) -> dict[str, float]:
        gradient = self._plan[1]
        return {
            "gradient x people": gradient.clip / float(np.sqrt(gradient.mu2)),
            "people": 1.0 / float(np.sqrt(self._plan[0].mu2)),
        }


def score_bin(scores: Floats) -> Floats:
    """Public bin of each raw score, a whole number: 24 bins over [-6, 4], ends included."""
    scaled = np.floor((scores - SCORE_LOW) / (SCORE_HIGH - SCORE_LOW) * SCORE_BINS)
    return np.clip(scaled, 0, SCORE_BINS - 1)


def _bounded(weights: Floats) -> Floats:
    return np.clip(weights, -LARGEST_WEIGHT, LARGEST_WEIGHT)


def fit_platt(table: Floats, deviation: float) -> Floats:
    """Slope and offset of the weighted logistic fit of label on bin middle, (24, 2) -> (2,).

    Newton with a small ridge; cells under two deviations count as empty. Falls back to (1, 0) when
    nothing is left.
    """
    kept = np.where(table > 2.0 * deviation, table, 0.0)
    middle = SCORE_LOW + (np.arange(SCORE_BINS) + 0.5) * (SCORE_HIGH - SCORE_LOW) / SCORE_BINS
    mass = kept.sum(axis=1)
    if mass.sum() <= 0 or kept[:, 0].sum() <= 0 or kept[:, 1].sum() <= 0:
        return np.array([1.0, 0.0])
    fitted = np.array([1.0, 0.0])
    ridge = 1e-3 * mass.sum()
    for _ in range(50):
        chance = sigmoid(fitted[0] * middle + fitted[1])
        gap = mass * chance - kept[:, 1]
        gradient = np.array([(gap * middle).sum() + ridge * (fitted[0] - 1.0), gap.sum()])
        curve = mass * chance * (1 - chance) + 1e-9
        a, b, c = (curve * middle**2).sum() + ridge, (curve * middle).sum(), curve.sum() + 1e-9
        step = np.array([c * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]])
        fitted = fitted - step / max(a * c - b * b, 1e-9)
        fitted = np.clip(fitted, -LARGEST_PLATT, LARGEST_PLATT)
    return np.array([max(fitted[0], 1e-3), fitted[1]])
