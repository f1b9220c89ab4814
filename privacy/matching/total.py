"""A sum over the people two audiences share: R brings an audience, S a value for each of its people.

    1.-4. as in :mod:`privacy.matching.sizes`: R knows which places m_j of S's secret order matched
    5. correlated oblivious transfer on every place: R gets y_j = x_j + m_j v_j, S keeps x_j
    6. S -> R   eta - sum x_j      S's noise goes in before anything is opened
    7. R        sum y_j + that + R's own noise, before it tells anyone

After Ion, Kreuter, Nergiz, Patel, Saxena, Seth, Raykova, Shanahan, Yung 2020 ("On Deploying Secure
Computation", section 4), with oblivious transfer (Gilboa 1999) in place of additively homomorphic
encryption. S learns nothing of m; R learns the noisy size and the noisy sum. Dummies and padding have
the value 0. Semi-honest.

Values are clipped to the contract's bounds and cut, towards zero, to a grid of 2^18 steps for the
largest of them, the sum's sensitivity.

**A sender that deviates.** R cuts the opened total off at what honest values and S's noise can be, before
its own noise goes in. For an honest S that changes nothing that is seen (12 deviations: 4e-33), and it
costs nothing: |cut(x, b) - cut(x', b')| <= max(|x - x'|, |b - b'|), and one person of R moves x by at most
the largest value and b by exactly that, so the sensitivity stays. Without it S could give each of R's
possible people a power of two of its own and read off some (64 - log2 sigma) memberships at once above the
noise. With it S can still give one person all the weight there is: value 0 for everybody else and
matched * 2^18 + 12 sigma for that one, which is as good as a yes or no in each match; in all a total
tells at most log2(2 (matched mu + 12) + 1) bits above R's noise. What S's values are nobody checks: caps,
frequency and the charge bound how often it may ask (Miao et al. 2020 is the way to more).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy import accounting
from privacy.errors import ParameterError, ProtocolError
from privacy.matching import sizes
from privacy.matching.deck import NO_ROW
from privacy.matching.intersection import Positions
from privacy.matching.oblivious import CorrelatedReceiver, CorrelatedSender
from privacy.matching.terms import Side
from privacy.noisy_sum.encoding import LARGEST_CLIP, SENSITIVITY, SMALLEST_CLIP
from privacy.noisy_sum.feasible import check_variance
from privacy.noisy_sum.noise import discrete_gaussian
from privacy.programs.columns import Floats
from privacy.randomness import Randomness

OPENING = 14
"""Kind of message 6."""
PLAUSIBLE = 12.0
"""Deviations of S's noise that R takes for noise."""
_WORD = 1 << 64


@dataclass(frozen=True)
class SumNoise:
    """``largest``: the most that one person changes the sum, and no value is above it; ``variance``
    in grid units."""

    largest: float
    variance: int

    @classmethod
    def for_mu2(cls, largest: float, mu2: float) -> SumNoise:
        """Noise for a share of mu^2. Raises ParameterError if it cannot be honoured."""
        if not SMALLEST_CLIP <= largest <= 2 * LARGEST_CLIP:
            raise ParameterError("the largest value must lie between 1e-100 and 2e100")
        variance = accounting.share_variance(SENSITIVITY, mu2, 1)
        check_variance("the noise of a sum", variance)
        return cls(largest, variance)

    @property
    def mu2(self) -> float:
        """mu^2 to charge at each side."""
        return accounting.charge_of(SENSITIVITY, self.variance, 1)

    @property
    def delta(self) -> float:
        """Charged for discrete noise; nothing is cut off here."""
        return accounting.DISCRETE_DELTA

    @property
    def deviation(self) -> float:
        """One side's sigma, in the values' unit."""
        return float(self.variance**0.5 * self.largest / SENSITIVITY)

    def units(self, values: Floats) -> NDArray[np.int64]:
        """Values on the grid, none above the sensitivity; what is not a number is 0."""
        clipped = np.clip(np.where(np.isnan(values), 0.0, values), -self.largest, self.largest)
        return np.trunc(clipped / self.largest * SENSITIVITY).astype(np.int64)

    def plausible(self, total: int, matched: int) -> int:
        """An opened total, in units, cut off at what ``matched`` honest values and S's noise can be:
        +-(matched * 2^18 + 12 sigma). See the module."""
        most = matched * SENSITIVITY + math.ceil(PLAUSIBLE * math.sqrt(self.variance))
        return min(max(total, -most), most)

    def draw(self, randomness: Randomness) -> int:
        """One side's noise, in units."""
        return int(discrete_gaussian(randomness, self.variance, 1)[0])


def receive(side: Side, noise: SumNoise) -> tuple[Positions, float]:
    """R's part: matched places, dummies among them, and the sum with both sides' noise."""
    places = sizes.receive(side)
    chosen = np.zeros(side.theirs, np.bool_)
    chosen[places] = True
    share = CorrelatedReceiver(side.channel, side.secrets.source("transfer")).share(chosen)
    kind, index, data = side.channel.receive()
    if kind != OPENING or index or len(data) != 8:
        raise ProtocolError("the opening of a sum is malformed")
    total = (share + int.from_bytes(data, "little")) % _WORD
    signed = noise.plausible(total - _WORD if total >= _WORD // 2 else total, len(places))
    signed += noise.draw(side.secrets.source("sum noise"))
    return places, signed * noise.largest / SENSITIVITY


def send(side: Side, noise: SumNoise, values: Floats) -> None:
    """S's part; ``values``: one for each row."""
    sizes.send(side)
    share = CorrelatedSender(side.channel, side.secrets.source("transfer")).share(
        in_order(side, noise.units(values))
    )
    opened = (noise.draw(side.secrets.source("sum noise")) - share) % _WORD
    side.channel.send(OPENING, 0, opened.to_bytes(8, "little"))


def in_order(side: Side, units: NDArray[np.int64]) -> NDArray[np.int64]:
    """A row's value at each place of the deck, 0 for dummies and padding."""
    result = np.zeros(side.deck.distinct, np.int64)
    at = 0
    for _, _, rows in side.deck.chunks():
        real = rows != NO_ROW
        part = result[at : at + len(rows)]
        part[real] = units[rows[real]]
        at += len(rows)
    return result
