"""Small statistics that reports share."""

from __future__ import annotations

import math


def wilson(hits: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Score interval for a proportion (Wilson 1927), 95 % for the default z; (0, 1) for no trials."""
    if trials <= 0:
        return 0.0, 1.0
    share, square = hits / trials, z * z / trials
    centre = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return (0.0 if hits == 0 else low), (1.0 if hits == trials else high)
