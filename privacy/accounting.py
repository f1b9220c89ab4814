"""Gaussian differential privacy: what a sequence of noisy sums costs.

A release with L2 sensitivity D and Gaussian noise of deviation s is mu-GDP with mu = D/s; releases
compose as mu^2 = sum of mu_r^2, adaptively too (Dong, Roth, Su 2022, "Gaussian differential
privacy", Cor. 3.3; as a filter: Smith, Thakurta 2022). A mu-GDP mechanism is (epsilon, delta)-DP
for (op. cit., Cor. 2.13)

    delta(epsilon) = Phi(-epsilon/mu + mu/2) - exp(epsilon) * Phi(-epsilon/mu - mu/2).

Our noise is discrete. For shares of at least 64 grid units the sum of m discrete Gaussians of
deviation s is charged mu^2 = D^2 / (m*s^2 - 16) with 1e-100 added to delta (Peikert 2010,
convolution; Kairouz, Liu, Steinke 2021, gap <= 10 (m-1) exp(-pi^2 s^2)).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from privacy.errors import ParameterError

DISCRETE_SLACK = 16
"""Subtracted from the variance in grid units when a discrete release is charged."""
DISCRETE_DELTA = 1e-100
"""Added to delta for each discrete release."""
SMALLEST_SHARE = 64
"""Smallest deviation of one partner's noise share, in grid units."""


def _log_ndtr(x: float) -> float:
    """log Phi(x); asymptotic series below -37, where erfc underflows (Abramowitz-Stegun 7.1.23)."""
    if x > -37.0:
        return math.log(math.erfc(-x / math.sqrt(2.0)) / 2.0)
    return -x * x / 2 - math.log(-x) - math.log(2 * math.pi) / 2 + math.log1p(-1 / (x * x))


def delta_of(mu: float, epsilon: float) -> float:
    """delta(epsilon) of a mu-GDP mechanism (formula in the module's docstring)."""
    if not (math.isfinite(mu) and math.isfinite(epsilon)) or mu < 0 or epsilon < 0:
        raise ParameterError("mu and epsilon must be finite and not negative")
    if mu == 0.0:
        return 0.0
    first = math.exp(_log_ndtr(-epsilon / mu + mu / 2))
    second = math.exp(min(0.0, epsilon + _log_ndtr(-epsilon / mu - mu / 2)))
    return max(0.0, first - second)


def _bisect(low: float, high: float, above: Callable[[float], bool]) -> float:
    """Smallest point, from the safe side, where ``above`` turns true; ``above`` is monotone."""
    for _ in range(200):
        middle = (low + high) / 2
        if above(middle):
            high = middle
        else:
            low = middle
        if high - low <= 1e-13 * high:
            break
    return high


def epsilon_of(mu: float, delta: float) -> float:
    """Smallest epsilon, rounded up, at which a mu-GDP mechanism is (epsilon, delta)-DP.

    Raises ParameterError unless 0 < delta < 1 and 0 <= mu <= 100.
    """
    if not 0.0 < delta < 1.0:
        raise ParameterError("delta must lie strictly between 0 and 1")
    if not 0.0 <= mu <= 100.0:
        raise ParameterError("mu must lie between 0 and 100")
    if delta_of(mu, 0.0) <= delta:
        return 0.0
    high = 1.0
    while delta_of(mu, high) > delta:
        high *= 2
    return _bisect(0.0, high, lambda e: delta_of(mu, e) <= delta)


def mu_of(epsilon: float, delta: float) -> float:
    """Largest mu, rounded down, for which mu-GDP implies (epsilon, delta)-DP.

    Raises ParameterError unless epsilon > 0 and 0 < delta < 1.
    """
    if not (math.isfinite(epsilon) and 0.0 < epsilon <= 1000.0):
        raise ParameterError("epsilon must lie between 0 and 1000")
    if not 0.0 < delta < 1.0:
        raise ParameterError("delta must lie strictly between 0 and 1")
    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        if delta_of(middle, epsilon) <= delta:
            low = middle
        else:
            high = middle
        if high - low <= 1e-13 * high:
            break
    return low


def discrete_tail(least: int, variance: int) -> float:
    """Bound on P[|X| >= least] for the discrete Gaussian X of this variance, both in grid units.

    P[X >= m] <= P[N >= m - 1] with N Gaussian of the same variance (Canonne, Kamath, Steinke 2020,
    Prop. 25), and X is symmetric: 2 Phi(-(least - 1)/sigma). Raises ParameterError unless least >= 1.
    """
    if least < 1 or variance < 1:
        raise ParameterError("a tail begins at 1 or above, and a variance is positive")
    # rounded up: erfc is good to a few ulp here
    return math.erfc((least - 1) / math.sqrt(2.0 * variance)) * (1 + 1e-12)


def share_variance(sensitivity: int, mu2: float, honest: int) -> int:
    """Variance, in grid units squared, of one partner's noise share.

    ``sensitivity`` is the L2 bound in grid units, ``mu2`` the release's share of mu^2 and
    ``honest`` = K - c - d the shares that are certainly present. The result s2 satisfies
    sensitivity^2 / (honest*s2 - 16) <= mu2.

    Raises ParameterError if a bound is not positive or the share falls under 64 grid units.
    """
    if sensitivity < 1 or honest < 1 or not (math.isfinite(mu2) and mu2 > 0.0):
        raise ParameterError("sensitivity, honest partners and mu^2 must be positive")
    wanted = sensitivity * sensitivity / mu2 * (1 + 1e-12)
    if not wanted < 2.0**200:
        raise ParameterError("mu^2 is too small for any noise: ask for a larger epsilon")
    total = math.ceil(wanted) + DISCRETE_SLACK
    variance = -(-total // honest)
    if variance < SMALLEST_SHARE**2:
        raise ParameterError("noise share under 64 grid units: ask for a smaller epsilon")
    return variance


def charge_of(sensitivity: int, variance: int, honest: int) -> float:
    """mu^2 charged for one release: sensitivity^2 / (honest*variance - 16), in grid units.

    Raises ParameterError if the share is under 64 grid units.
    """
    if variance < SMALLEST_SHARE**2 or honest < 1 or sensitivity < 1:
        raise ParameterError("noise share under 64 grid units")
    return sensitivity * sensitivity / (honest * variance - DISCRETE_SLACK)
