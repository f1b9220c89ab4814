"""How often an attack succeeded, with an interval, and whether that is more than chance.

Interval: Clopper and Pearson 1934 (Biometrika 26), exact: it covers the true rate in 95 % of runs or more.
Test: binomial, one-sided, exact. A table of n attacks holds n of them: each is judged at FALSE_ALARM / n, so
that a table of attacks that do no better than chance is called broken once in a thousand runs at most
(Bonferroni), however many rows it has. Where chance is 0 one success is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable

COVERAGE = 0.95
FALSE_ALARM = 0.001
"""Probability that a whole table in which nothing is above chance is said to hold something that is."""
HALVINGS = 60


def at_least(successes: int, trials: int, rate: float) -> float:
    """P(X >= successes) of a binomial law."""
    if successes <= 0:
        return 1.0
    if rate <= 0.0:
        return 0.0
    if rate >= 1.0:
        return 1.0
    log, other = math.log(rate), math.log1p(-rate)
    return min(1.0, math.fsum(
        math.exp(math.log(math.comb(trials, k)) + k * log + (trials - k) * other)
        for k in range(successes, trials + 1)
    ))  # fmt: skip


def interval(successes: int, trials: int) -> tuple[float, float]:
    """Clopper and Pearson's, at 95 %."""
    tail = (1.0 - COVERAGE) / 2.0
    low, high = 0.0, 1.0
    if successes:
        low = _root(lambda rate: at_least(successes, trials, rate) - tail)
    if successes < trials:
        high = _root(lambda rate: at_least(successes + 1, trials, rate) - (1.0 - tail))
    return low, high


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if rising(middle) > 0.0 else (middle, high)
    return (low + high) / 2.0


def above(successes: int, trials: int, chance: float, rows: int) -> bool:
    """Whether a row of a table of ``rows`` is above chance."""
    return at_least(successes, trials, chance) < FALSE_ALARM / rows
