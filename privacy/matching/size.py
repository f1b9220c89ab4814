"""Noise for the size of a match, and for how many elements a set is padded to.

Both sides put the same public dummies in play. The sender includes a secret number z of them, drawn
from rounded Gaussian noise shifted by B and cut off at +-B; the receiver sees size + z. Before the
size is told to anyone the receiver adds noise of its own, since the sender knows z. A padded size is the
set's, plus a draw of its own shifted and cut off alike, rounded up to the contract's bucket.

Rounding a Gaussian after adding it to an integer is post-processing, so one size costs
mu^2 = 1/sigma^2 at each side; the noise is drawn on a grid 2^18 times finer than one person and
charged like any discrete release.

**Cutting off** costs P(|Z| >= B) of delta, Z the rounded draw, and no more. Let M(s) = s + Z cut off at
+-B, U(s) = s + Z, and s' = s +- 1. For any set of outcomes S and any epsilon

    P(M(s) in S) <= P(U(s) in S, |Z| < B) + P(|Z| >= B),

since M and U differ only where |Z| >= B. An outcome o with |o - s| < B has |o - s'| <= B, and there M(s')
is at least as likely as U(s'): equal inside, and at the two ends it holds the whole tail. So with
T = {o in S: |o - s| < B}

    P(U(s) in T) <= e^epsilon P(U(s') in T) + delta_mu(epsilon)
                 <= e^epsilon P(M(s') in S) + delta_mu(epsilon):

(epsilon, delta_mu(epsilon) + P(|Z| >= B)) for every epsilon, with no factor e^epsilon on the tail. The
comparison is outcome by outcome, so it holds for products too, and the tails of composed releases add up.

**The tail.** Z = floor(X / 2^18 + 1/2) with X the discrete Gaussian on the grid. Z >= B means
X >= (B - 1/2) 2^18, Z <= -B means X < -(B - 1/2) 2^18, and P[X >= m] <= P[N >= m - 1] (Canonne, Kamath,
Steinke 2020, Prop. 25): P(|Z| >= B) <= 2 Phi(-((B - 1/2) 2^18 - 1) / sigma), in grid units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from privacy import accounting
from privacy.noisy_sum.encoding import SENSITIVITY
from privacy.noisy_sum.feasible import check_variance
from privacy.noisy_sum.noise import discrete_gaussian
from privacy.randomness import Randomness

CUT = 7.0
"""Deviations at which the shifted noise is cut off: delta under 2.6e-12."""


@dataclass(frozen=True)
class CutNoise:
    """Public parameters of one rounded, cut off Gaussian. ``variance`` in grid units; ``bound`` is B, in
    people."""

    variance: int
    bound: int

    @property
    def deviation(self) -> float:
        """One side's sigma, in people."""
        return math.sqrt(self.variance) / SENSITIVITY

    @property
    def mu2(self) -> float:
        """mu^2 to charge at the side that draws."""
        return accounting.charge_of(SENSITIVITY, self.variance, 1)

    @property
    def delta(self) -> float:
        """Charged for the cut, plus that of discrete noise. The proof is in the module's docstring."""
        least = self.bound * SENSITIVITY - SENSITIVITY // 2
        return accounting.discrete_tail(least, self.variance) + accounting.DISCRETE_DELTA

    @classmethod
    def for_mu2(cls, mu2: float) -> Self:
        """Noise for a share of mu^2. Raises ParameterError if it cannot be honoured."""
        variance = accounting.share_variance(SENSITIVITY, mu2, 1)
        check_variance("the noise of a size", variance)
        return cls(variance, math.ceil(CUT * variance**0.5 / SENSITIVITY) + 1)

    def rounded(self, randomness: Randomness) -> int:
        """One rounded draw, in people, not cut off."""
        value = int(discrete_gaussian(randomness, self.variance, 1)[0])
        return (value + SENSITIVITY // 2) // SENSITIVITY

    def shifted(self, randomness: Randomness) -> int:
        """A rounded draw cut off at +-B and shifted by B, in [0, 2B]."""
        return min(max(self.rounded(randomness), -self.bound), self.bound) + self.bound


@dataclass(frozen=True)
class SizeNoise(CutNoise):
    """Noise of one size: dummies at the sender, a draw of its own at the receiver."""

    @property
    def dummies(self) -> int:
        """Public dummies in play: 2B."""
        return 2 * self.bound

    def draw(self, randomness: Randomness) -> int:
        """One rounded draw, in people."""
        return self.rounded(randomness)

    def draw_shifted(self, randomness: Randomness) -> int:
        """z in [0, 2B]: a draw cut off at +-B, shifted by B."""
        return self.shifted(randomness)


@dataclass(frozen=True)
class PaddingNoise(CutNoise):
    """Noise of how many elements a set is padded to."""

    @property
    def most(self) -> int:
        """The largest draw: 2B."""
        return 2 * self.bound

    def draw(self, randomness: Randomness) -> int:
        """Elements to add, in [0, 2B]."""
        return self.shifted(randomness)
