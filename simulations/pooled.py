"""What pooling the data would have given: non-private figures to compare with.

Only the lab can compute these: it holds everybody's rows.
"""

from __future__ import annotations

import numpy as np

from privacy.programs.columns import Columns, Floats, Rows, design
from privacy.programs.segment import inertia, kmeans


def logistic(columns: Columns, names: tuple[str, ...], rows: Rows, label: Floats) -> Floats:
    """Weights of the maximum-likelihood logistic regression, by Newton's method."""
    x = np.stack(design(columns, names, rows), axis=1)
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        chance = 1.0 / (1.0 + np.exp(-np.clip(x @ weights, -30, 30)))
        curve = (x * (chance * (1 - chance))[:, None]).T @ x + 1e-6 * np.eye(len(weights))
        step = np.linalg.solve(curve, x.T @ (chance - label))
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    return weights


def auc(label: Floats, score: Floats) -> float:
    """Area under the ROC curve by mid-ranks (Mann, Whitney 1947)."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive = float(label.sum())
    negative = len(label) - positive
    return float((rank[label == 1].sum() - positive * (positive + 1) / 2) / (positive * negative))


def lloyd(columns: Columns, names: tuple[str, ...], rows: Rows, k: int) -> tuple[Floats, float]:
    """Centres and inertia of the best of eight Lloyd runs on the pooled rows."""
    points = unit_points(columns, names, rows)
    table = np.stack(points, axis=1)
    centres = kmeans(table, np.ones(len(table)), k, starts=8)
    return centres, inertia(points, centres)


def unit_points(columns: Columns, names: tuple[str, ...], rows: Rows) -> list[Floats]:
    """Coordinates in [-1, 1], as the segmentation sees them."""
    return [design(columns, (name,), rows)[0] for name in names]
