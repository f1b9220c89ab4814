"""Exact discrete Gaussian noise, vectorised, from a source of random bytes.

Rejection from a discrete Laplace: Canonne, Kamath, Steinke 2020, "The discrete Gaussian for
differential privacy", Algorithms 2 and 3. Their Bernoulli(exp(-gamma)) is decided lazily: one
uniform 53-bit number is compared with exp(-gamma) in floating point, and only a comparison that
rounding could have tipped (about one in 2^35) is finished with 256 bits of the same uniform number
and 90 decimal digits of the exponential. The result is off an exact sampler by under 2^-250.

How long a draw takes depends on what is drawn (how often a coin came up, which comparisons had to be
finished exactly). So no draw is made alone: a batch has at least 1024, of which the caller gets the
first, and the time tells of all of them together.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ParameterError
from privacy.randomness import Randomness, below, words

LARGEST_VARIANCE = 1 << 56
"""Products of the sampler stay within 64 bits up to a deviation of 2^28 grid units."""

SMALLEST_BATCH = 1024
"""Fewest numbers that are drawn together."""

Exact = Callable[[int], tuple[int, int]]


def _accept(randomness: Randomness, gamma: NDArray[np.float64], exact: Exact) -> NDArray[np.bool_]:
    """Bernoulli(exp(-gamma_i)) for each i; ``exact(i)`` gives gamma_i as a fraction."""
    draw = words(randomness, len(gamma))
    uniform = (draw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    chance = np.exp(-gamma)
    accepted: NDArray[np.bool_] = uniform < chance
    margin = chance * 2.0**-36 + 2.0**-52
    for i in np.flatnonzero(np.abs(uniform - chance) <= margin):
        numerator, denominator = exact(int(i))
        tail = int.from_bytes(randomness(24), "little")
        full = (int(draw[i]) << 192) | tail
        with localcontext() as context:
            context.prec = 90
            threshold = (-(Decimal(numerator) / Decimal(denominator))).exp()
            accepted[i] = Decimal(full) / Decimal(1 << 256) < threshold
    return accepted


def _laplace(randomness: Randomness, scale: int, count: int) -> NDArray[np.int64]:
    """Up to ``count`` discrete Laplace draws P(x) ~ exp(-|x|/scale) (CKS 2020, Algorithm 2)."""
    low = below(randomness, scale, count)
    keep = _accept(randomness, low / scale, lambda i: (int(low[i]), scale))
    low = low[keep]
    high = np.zeros(len(low), dtype=np.int64)
    running = np.arange(len(low))
    while len(running):
        more = _accept(randomness, np.ones(len(running)), lambda i: (1, 1))
        running = running[more]
        high[running] += 1
    size = low + scale * high
    negative = (words(randomness, len(size)) & np.uint64(1)).astype(bool)
    keep = ~(negative & (size == 0))
    signed: NDArray[np.int64] = np.where(negative, -size, size)[keep]
    return signed


def discrete_gaussian(randomness: Randomness, variance: int, count: int) -> NDArray[np.int64]:
    """``count`` draws of the discrete Gaussian P(x) ~ exp(-x^2 / (2*variance)) over the integers.

    Work is done for at least SMALLEST_BATCH draws, whatever ``count`` is. Raises ParameterError for a
    variance outside [1, 2^56].
    """
    if not 1 <= variance <= LARGEST_VARIANCE:
        raise ParameterError("noise variance out of range")
    scale = int(variance**0.5) + 1
    found: list[NDArray[np.int64]] = []
    have, wanted = 0, max(count, SMALLEST_BATCH)
    while have < wanted:
        draw = _laplace(randomness, scale, max(2 * (wanted - have) + 16, SMALLEST_BATCH))
        draw = draw[
            np.abs(draw) <= 64 * scale
        ]  # products stay under 2^63; the Gaussian has e^-2048 beyond
        offset = np.abs(draw) * scale - variance
        gamma = offset.astype(np.float64) ** 2 / (2.0 * variance * scale * scale)

        def exact(i: int, offset: NDArray[np.int64] = offset) -> tuple[int, int]:
            return int(offset[i]) ** 2, 2 * variance * scale * scale

        kept = draw[_accept(randomness, gamma, exact)]
        found.append(kept)
        have += len(kept)
    return np.concatenate(found)[:count]
