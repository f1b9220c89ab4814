"""How often an attack succeeded, with an interval, and whether that is more than chance.

Interval: Clopper and Pearson 1934 (Biometrika 26), exact: it covers the true rate in 95 % of runs or more.
Test: binomial, one-sided, exact. A table of n attacks holds n of them: each is judged at FALSE_ALARM / n, so
that a table of attacks that do no better than chance is called broken once in a thousand runs at most
(Bonferroni), however many rows it has. Where chance is 0 one success is enough.
"""

from __future__ import annotations

import math

from simulations.attacks.bounds import rate_at_most

COVERAGE = 0.95
FALSE_ALARM = 0.001
"""Probability that a whole table in which nothing is above chance is said to hold something that is."""


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
    low = 1.0 - rate_at_most(trials - successes, trials, tail)
    return low, rate_at_most(successes, trials, tail)


def above(successes: int, trials: int, chance: float, rows: int) -> bool:
    """Whether a row of a table of ``rows`` is above chance."""
    return at_least(successes, trials, chance) < FALSE_ALARM / rows
