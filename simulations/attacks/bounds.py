"""Lower bounds of epsilon from two arms of runs: what an attack has shown, and with what confidence.

Two ways. :func:`separation` takes both arms for normal with one deviation, as the test statistic of Gaussian
mechanisms is: their standardised distance estimates mu (as in Andrew et al. 2024, "One-shot empirical
privacy estimation for federated learning", where epsilon is that of two fitted Gaussians). :func:`counted`
assumes nothing of the statistic: exact bounds (Clopper, Pearson 1934) of the two error rates of a test whose
threshold was fixed before, turned into mu by the trade-off curve of Gaussian differential privacy (Nasr et
al. 2023, "Tight auditing of differentially private machine learning"). The first is tighter; for it a few
hundred runs must be normal enough. mu becomes epsilon at delta by :mod:`privacy.accounting`.

A bound at 95 % exceeds the truth by chance in one of 20 audits, one at 99.9 % in one of 1,000: an audit of a
canary that is worth all that was accounted for raises a false alarm that often, and no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from privacy import accounting
from privacy.programs.columns import Floats

USUAL, STRICT = 0.95, 0.999
"""Confidence of what is reported, and of an alarm."""
LARGEST_MU = 100.0
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Separation:
    """``mu``: estimated; ``error``: its standard error."""

    mu: float
    error: float

    def at_least(self, confidence: float) -> float:
        """One-sided lower bound of mu."""
        return self.mu - _NORMAL.inv_cdf(confidence) * self.error


def separation(without: Floats, with_it: Floats) -> Separation:
    """Distance of two arms of as many runs in pooled deviations.

    Standard error: sqrt(2/n + d^2/(4n)) (Hedges, Olkin 1985, "Statistical methods for meta-analysis",
    ch. 5, for two samples of n).
    """
    runs = len(without)
    spread = math.sqrt((without.var(ddof=1) + with_it.var(ddof=1)) / 2)
    gap = float(with_it.mean() - without.mean())
    mu = gap / max(spread, 1e-12 * abs(gap), 1e-300)
    return Separation(mu, math.sqrt(2 / runs + mu * mu / (4 * runs)))


def counted(false_alarms: int, misses: int, runs: int, confidence: float) -> float:
    """Lower bound of mu from the errors of one fixed test in two arms of ``runs``: both rates are bounded at
    half of what may go wrong, and mu >= Phi^-1(1 - alpha) - Phi^-1(beta)."""
    each = (1 - confidence) / 2
    alpha, beta = (rate_at_most(errors, runs, each) for errors in (false_alarms, misses))
    if alpha >= 1.0 or beta >= 1.0:
        return 0.0
    return _NORMAL.inv_cdf(1 - alpha) - _NORMAL.inv_cdf(beta)


def rate_at_most(errors: int, runs: int, wrong: float) -> float:
    """Clopper and Pearson's upper bound of a rate: where so few errors have probability ``wrong``."""
    if errors >= runs:
        return 1.0
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, runs + 1)))])
    k = np.arange(errors + 1)
    choose = logs[runs] - logs[k] - logs[runs - k]
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        few = float(np.exp(choose + k * math.log(p) + (runs - k) * math.log1p(-p)).sum())
        low, high = (p, high) if few > wrong else (low, p)
    return high


def epsilon_of(mu: float, delta: float) -> float:
    """Epsilon at delta of a mu that may be negative, or beyond what is accounted for."""
    return accounting.epsilon_of(min(max(mu, 0.0), LARGEST_MU), delta)
