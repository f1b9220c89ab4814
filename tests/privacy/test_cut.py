"""What cutting off costs: the proof in privacy/matching/size.py against exact sums of probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from privacy import accounting
from privacy.errors import ParameterError
from privacy.matching.size import CUT, CutNoise, PaddingNoise, SizeNoise
from privacy.noisy_sum.encoding import SENSITIVITY, Floats
from privacy.noisy_sum.noise import LARGEST_VARIANCE
from privacy.randomness import stream

EPSILONS = [0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 7.0, 12.0, 20.0, 40.0, 80.0]


def _rounded(sigma: float, reach: int) -> Floats:
    """P(Z = k) for |k| <= reach: the discrete Gaussian on the grid, summed over each person's cell."""
    variance = round((sigma * SENSITIVITY) ** 2)
    within = np.arange(-SENSITIVITY // 2, SENSITIVITY // 2, dtype=np.float64)
    mass = np.array(
        [
            np.exp(-((within + k * SENSITIVITY) ** 2) / (2.0 * variance)).sum()
            for k in range(-reach, reach + 1)
        ]
    )
    return mass / mass.sum()


def _divergence(p: Floats, q: Floats, epsilon: float) -> float:
    return float(np.maximum(0.0, p - math.exp(epsilon) * q).sum())


def _cut(law: Floats, reach: int, bound: int, shift: int) -> Floats:
    """The law of shift + Z cut off at +-bound, on -reach - 1 .. reach + 1."""
    kept = np.zeros(2 * reach + 3)
    for k in range(-reach, reach + 1):
        kept[reach + 1 + shift + min(max(k, -bound), bound)] += law[reach + k]
    return kept


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.3])
def test_the_cut_mechanism_is_within_its_curve_by_brute_force(sigma: float) -> None:
    """Every epsilon, both directions, cuts from absurd to the one in use. With 1e-15 for summing."""
    variance = round((sigma * SENSITIVITY) ** 2)
    in_use = math.ceil(CUT * sigma) + 1
    reach = in_use + 12
    law = _rounded(sigma, reach)
    for bound in sorted({1, 2, 3, math.ceil(sigma), math.ceil(3 * sigma), in_use}):
        noise = CutNoise(variance, bound)
        mu = math.sqrt(noise.mu2)
        zero = _cut(law, reach, bound, 0)
        for shift in (-1, 1):
            other = _cut(law, reach, bound, shift)
            for epsilon in EPSILONS:
                claimed = accounting.delta_of(mu, epsilon) + noise.delta
                assert _divergence(zero, other, epsilon) <= claimed + 1e-15, (bound, epsilon)
                assert _divergence(other, zero, epsilon) <= claimed + 1e-15, (bound, epsilon)


@pytest.mark.parametrize(("sigma", "bound"), [(1.0, 8), (0.4, 4), (2.3, 10)])
def test_the_tail_is_that_of_the_rounded_draw_and_the_earlier_bound_was_short(
    sigma: float, bound: int
) -> None:
    law = _rounded(sigma, bound + 40)
    middle = bound + 40
    exact = float(law[: middle - bound + 1].sum() + law[middle + bound :].sum())
    noise = CutNoise(round((sigma * SENSITIVITY) ** 2), bound)
    assert exact <= noise.delta
    assert noise.delta < 1.01 * exact  # and not much above it
    assert math.erfc(bound / sigma / math.sqrt(2.0)) < exact / 1.5  # 2 Phi(-B / sigma): 0.3.0


@pytest.mark.parametrize("variance", [1, 2, 7, 30, 1000])
def test_the_tail_of_the_discrete_gaussian_is_bounded(variance: int) -> None:
    reach = int(40 * math.sqrt(variance)) + 2
    weight = [math.exp(-x * x / (2 * variance)) for x in range(reach)]
    mass = weight[0] + 2 * math.fsum(weight[1:])
    for least in range(1, int(8 * math.sqrt(variance))):
        exact = 2 * math.fsum(weight[least:]) / mass
        assert exact <= accounting.discrete_tail(least, variance)
    with pytest.raises(ParameterError):
        accounting.discrete_tail(0, 1)


@pytest.mark.parametrize("of", [SizeNoise, PaddingNoise])
@pytest.mark.parametrize("mu2", [1e-5, 0.0718, 1.0, 50.0])
def test_noise_is_cut_at_seven_deviations_and_priced(
    of: type[SizeNoise] | type[PaddingNoise], mu2: float
) -> None:
    noise = of.for_mu2(mu2)
    assert noise.bound == math.ceil(CUT * noise.deviation) + 1
    assert noise.mu2 <= mu2
    assert 0 < noise.delta < 2.6e-12
    source = stream(bytes(32))
    drawn = [noise.shifted(source) for _ in range(50)]
    assert min(drawn) >= 0
    assert max(drawn) <= 2 * noise.bound
    assert noise.shifted(stream(bytes(32))) == drawn[0]


@pytest.mark.parametrize("of", [SizeNoise, PaddingNoise])
@pytest.mark.parametrize("mu2", [0.0, 9e-7, 1e-300, 5e-324, float("nan"), 1e9])
def test_noise_that_cannot_be_drawn_is_refused(
    of: type[SizeNoise] | type[PaddingNoise], mu2: float
) -> None:
    with pytest.raises(ParameterError):
        of.for_mu2(mu2)
    assert of.for_mu2(1e-6).variance <= LARGEST_VARIANCE
