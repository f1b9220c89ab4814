"""Noise for the size of a match.

Both sides put the same public dummies in play. The sender includes a secret number z of them, drawn
from rounded Gaussian noise shifted by B and cut off at +-B; the receiver sees size + z. Before the
size is told to anyone the receiver adds noise of its own, since the sender knows z.

Rounding a Gaussian after adding it to an integer is post-processing, so one size costs
mu^2 = 1/sigma^2 at each side; the noise is drawn on a grid 2^18 times finer than one person and
charged like any discrete release. Cutting off costs 2 Phi(-B/sigma) of delta at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from privacy import accounting
from privacy.noisy_sum.encoding import SENSITIVITY
from privacy.noisy_sum.noise import discrete_gaussian
from privacy.randomness import Randomness

CUT = 7.0
"""Deviations at which the shifted noise is cut off: delta under 2.6e-12."""


@dataclass(frozen=True)
class SizeNoise:
    """Public parameters of one noisy size. ``variance`` in grid units; ``bound`` is B, in people."""

    variance: int
    bound: int

    @property
    def deviation(self) -> float:
        """One side's sigma, in people."""
        return math.sqrt(self.variance) / SENSITIVITY

    @property
    def dummies(self) -> int:
        """Public dummies in play: 2B."""
        return 2 * self.bound

    @property
    def mu2(self) -> float:
        """mu^2 to charge at each side."""
        return accounting.charge_of(SENSITIVITY, self.variance, 1)

    @property
    def delta(self) -> float:
        """Charged for the cut, plus that of discrete noise."""
        tail = math.erfc(self.bound / self.deviation / math.sqrt(2.0))
        return tail + accounting.DISCRETE_DELTA

    @classmethod
    def for_mu2(cls, mu2: float) -> SizeNoise:
        """Noise for a share of mu^2. Raises ParameterError if it cannot be honoured."""
        variance = accounting.share_variance(SENSITIVITY, mu2, 1)
        return cls(variance, math.ceil(CUT * variance**0.5 / SENSITIVITY) + 1)

    def draw(self, randomness: Randomness) -> int:
        """One rounded draw, in people."""
        value = int(discrete_gaussian(randomness, self.variance, 1)[0])
        return (value + SENSITIVITY // 2) // SENSITIVITY

    def draw_shifted(self, randomness: Randomness) -> int:
        """z in [0, 2B]: a draw cut off at +-B, shifted by B."""
        return min(max(self.draw(randomness), -self.bound), self.bound) + self.bound
