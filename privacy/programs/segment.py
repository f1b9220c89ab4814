"""Segmentation: k-means over declared columns from noisy sums.

For up to three columns, half of mu^2 buys one histogram over a public grid; k-means on the noisy
cells gives the start at no further cost (post-processing). Then relative Lloyd rounds: each person
sends the offset from the nearest centre, clipped to a radius, and a count, so that the sensitivity
is the radius and not the width of the domain (Diaa, Humphries, Kerschbaum 2025, "FastLloyd",
section 4). With more columns the start is a spread of public points and there are more rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ParameterError
from privacy.programs.columns import Columns, Floats, Rows, number, one_hot
from privacy.programs.program import LARGEST_FIGURE, Release, check_within, finite_state

GRID = {1: 64, 2: 20, 3: 8}
"""Cells per axis of the public grid, by number of columns."""
GRID_SHARE = 0.5
COUNT_SHARE = 0.4
"""Of each round's squared norm: what the count takes; offsets take the rest."""
SMALLEST_RADIUS = 0.02
"""Of a state. The smallest that a program makes is 2/50, for one column and 50 segments."""


class Segment:
    """k segments over ``names``.

    State: centres in [-1, 1] (k*d), the radius in [0.02, 4 sqrt(d)], sizes in [0, 1e15] (k).
    """

    def __init__(self, columns: Columns, names: Sequence[str], k: int, mu2: float) -> None:
        if not 2 <= k <= 50:
            raise ParameterError("segments: k must be between 2 and 50")
        if not 1 <= len(names) <= 20 or len(set(names)) != len(names):
            raise ParameterError("segments: between 1 and 20 distinct columns")
        self.columns = [number(columns, name) for name in names]
        self.k, self.d = k, len(names)
        self.cells = GRID.get(self.d, 0)
        self.rounds = 3 if self.cells else 6
        self.centres = spread(k, self.d)
        self.radius = 2.0 * float(np.sqrt(self.d)) / k ** (1.0 / self.d)
        self.sizes = np.zeros(k)
        rest = mu2 * (1 - GRID_SHARE) if self.cells else mu2
        plan = []
        if self.cells:
            plan.append(Release("grid", 0, self.cells**self.d, 1.0, mu2 * GRID_SHARE))
        for t in range(self.rounds):
            plan.append(Release(f"lloyd {t}", len(plan), k * (self.d + 1), 1.0, rest / self.rounds))
        self._plan = tuple(plan)

    def plan(self) -> Sequence[Release]:
        return self._plan

    def points(self, rows: Rows) -> list[Floats]:
        """Coordinates in [-1, 1], one (n,) array per column."""
        return [2.0 * column.unit(rows[column.name]) - 1.0 for column in self.columns]

    def contribution(self, index: int, rows: Rows) -> Floats:
        points = self.points(rows)
        count = len(points[0])
        if self.cells and index == 0:
            cell = np.zeros(count)
            for axis in points:
                step = np.floor((axis + 1.0) / 2.0 * self.cells)
                cell = cell * self.cells + np.clip(step, 0, self.cells - 1)
            return one_hot(cell, self.cells**self.d, np.ones(count))
        nearest = assign(points, self.centres)
        offsets = [axis - self.centres[nearest, j] for j, axis in enumerate(points)]
        norm = np.sqrt(weigh_squares(offsets))
        shrink = np.sqrt(1 - COUNT_SHARE) / np.maximum(norm, self.radius)
        block = np.zeros((count, self.k, self.d + 1))
        at = np.arange(count)
        for j, offset in enumerate(offsets):
            block[at, nearest, j] = offset * shrink
        block[at, nearest, self.d] = np.sqrt(COUNT_SHARE)
        return block.reshape(count, -1)

    def absorb(self, index: int, total: Floats, deviation: float) -> None:
        if self.cells and index == 0:
            self._start(total, deviation)
            return
        table = total.reshape(self.k, self.d + 1)
        counts = table[:, self.d] / np.sqrt(COUNT_SHARE)
        noise = deviation / float(np.sqrt(COUNT_SHARE))
        step = table[:, : self.d] / np.sqrt(1 - COUNT_SHARE) * self.radius
        heavy = counts > 3.0 * noise
        moved = self.centres + step / np.maximum(counts, 1.0)[:, None]
        self.centres = np.where(heavy[:, None], np.clip(moved, -1.0, 1.0), self.centres)
        self.sizes = np.clip(counts, 0.0, LARGEST_FIGURE)
        if not self.cells:
            self._reseed(heavy, index)
            self.radius = max(0.1, self.radius * 0.75)

    def _start(self, total: Floats, deviation: float) -> None:
        """Weighted k-means on the cells that stand out of the noise."""
        kept = total > 3.5 * deviation
        if int(kept.sum()) < self.k:
            return
        axes = np.meshgrid(*[np.arange(self.cells)] * self.d, indexing="ij")
        cell = np.stack([axis.ravel() for axis in axes], axis=1)
        points = (cell[kept] + 0.5) / self.cells * 2.0 - 1.0
        weights = total[kept]
        self.centres = kmeans(points, weights, self.k, starts=8)
        gap = points - self.centres[assign(list(points.T), self.centres)]
        spread_ = float(np.sqrt((weights * (gap**2).sum(axis=1)).sum() / weights.sum()))
        self.radius = min(max(0.1, 1.7 * spread_), self._largest_radius())

    def _reseed(self, heavy: NDArray[np.bool_], index: int) -> None:
        """Move a centre that holds nobody next to the fullest one (post-processing)."""
        if index >= self.rounds - 1 or not heavy.any():
            return
        order = np.argsort(-self.sizes)
        jitter = spread(self.k, self.d) * 0.15
        for rank, j in enumerate(np.flatnonzero(~heavy)):
            near = self.centres[order[rank % max(1, int(heavy.sum()))]]
            self.centres[j] = np.clip(near + jitter[j], -1.0, 1.0)

    def _largest_radius(self) -> float:
        """Beyond the widest that :meth:`_start` finds: 1.7 times the diameter 2 sqrt(d)."""
        return 4.0 * float(np.sqrt(self.d))

    def state(self) -> Floats:
        return np.concatenate([self.centres.ravel(), [self.radius], self.sizes])

    def restore(self, state: Floats) -> None:
        values = finite_state(state, self.k * (self.d + 1) + 1)
        radius = float(values[self.k * self.d])
        check_within(values[: self.k * self.d], -1.0, 1.0, "centres")
        check_within(radius, SMALLEST_RADIUS, self._largest_radius(), "radius")
        check_within(values[self.k * self.d + 1 :], 0.0, LARGEST_FIGURE, "sizes")
        self.centres = values[: self.k * self.d].reshape(self.k, self.d)
        self.radius = radius
        self.sizes = values[self.k * self.d + 1 :]

    def result(self) -> dict[str, Any]:
        order = np.argsort(-self.sizes, kind="stable")
        centres = self.centres[order]
        natural = {
            column.name: [float(v) for v in column.value((centres[:, j] + 1.0) / 2.0)]
            for j, column in enumerate(self.columns)
        }
        deviation = float(
            1.0 / np.sqrt(self._plan[-1].mu2 * COUNT_SHARE),
        )
        return {
            "segments": self.k,
            "centres": natural,
            "sizes": [float(v) for v in self.sizes[order]],
            "size_deviation": deviation,
            "model": {
                "kind": "segment",
                "columns": [column.name for column in self.columns],
                "centres": [[float(v) for v in row] for row in centres],
            },
        }

    def expected_error(self) -> dict[str, float]:
        last = self._plan[-1]
        return {"people in a segment": 1.0 / float(np.sqrt(last.mu2 * COUNT_SHARE))}


def spread(k: int, d: int) -> Floats:
    """k public points of [-1, 1]^d far apart: greedy farthest choice among fixed candidates."""
    candidates = np.random.default_rng(0).uniform(-0.8, 0.8, (400, d))
    chosen = [candidates[0]]
    for _ in range(k - 1):
        gaps = np.min([((candidates - c) ** 2).sum(axis=1) for c in chosen], axis=0)
        chosen.append(candidates[int(gaps.argmax())])
    return np.array(chosen)


def weigh_squares(columns: list[Floats]) -> Floats:
    """Sum of squares, element by element in a fixed order."""
    total = np.zeros(len(columns[0]))
    for column in columns:
        total = total + column * column
    return total


def assign(points: list[Floats], centres: Floats) -> NDArray[np.intp]:
    """Index of the nearest centre for each point; ties go to the lower index."""
    best = np.full(len(points[0]), np.inf)
    nearest = np.zeros(len(points[0]), dtype=np.intp)
    for c, centre in enumerate(centres):
        distance = weigh_squares([axis - centre[j] for j, axis in enumerate(points)])
        closer = distance < best
        best = np.where(closer, distance, best)
        nearest[closer] = c
    return nearest


def inertia(points: list[Floats], centres: Floats) -> float:
    """Sum of squared distances to the nearest centre. For the lab: it reads raw points."""
    nearest = assign(points, centres)
    return float(weigh_squares([a - centres[nearest, j] for j, a in enumerate(points)]).sum())


def kmeans(points: Floats, weights: Floats, k: int, *, starts: int = 8, seed: int = 0) -> Floats:
    """Weighted Lloyd from several k-means++ starts (Arthur, Vassilvitskii 2007), best kept.

    ``points`` (n, d), ``weights`` (n,); on public or already noisy points, or in the lab.
    """
    rng = np.random.default_rng(seed)
    axes = [np.ascontiguousarray(axis) for axis in points.T]
    best, best_cost = points[:k], np.inf
    for _ in range(starts):
        centres = points[[rng.choice(len(points), p=weights / weights.sum())]]
        for _ in range(k - 1):
            gaps = np.min([((points - c) ** 2).sum(axis=1) for c in centres], axis=0) * weights
            chance = gaps / gaps.sum() if gaps.sum() > 0 else weights / weights.sum()
            centres = np.concatenate([centres, points[[rng.choice(len(points), p=chance)]]])
        for _ in range(100):
            nearest = assign(axes, centres)
            mass = np.bincount(nearest, weights, k)
            moved = centres.copy()
            for j, axis in enumerate(axes):
                sums = np.bincount(nearest, weights * axis, k)
                moved[:, j] = np.where(mass > 0, sums / np.maximum(mass, 1e-300), centres[:, j])
            if np.abs(moved - centres).max() < 1e-9:
                break
            centres = moved
        nearest = assign(axes, centres)
        cost = float((weights * ((points - centres[nearest]) ** 2).sum(axis=1)).sum())
        if cost < best_cost:
            best, best_cost = centres, cost
    return best
