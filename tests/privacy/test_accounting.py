from __future__ import annotations

import math

import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given
from hypothesis import strategies as st

from privacy import accounting
from privacy.errors import ParameterError


@pytest.mark.parametrize("mu", [0.05, 0.268, 1.0, 3.0])
def test_epsilon_agrees_with_googles_accountant(mu: float) -> None:
    pld = privacy_loss_distribution.from_gaussian_mechanism(
        1 / mu, value_discretization_interval=1e-4
    )
    assert accounting.epsilon_of(mu, 1e-5) == pytest.approx(
        pld.get_epsilon_for_delta(1e-5), rel=2e-3
    )


def test_known_value() -> None:
    # epsilon 1 at delta 1e-5 is mu 0.268 (Dong, Roth, Su 2022, Cor. 2.13, solved numerically)
    assert accounting.mu_of(1.0, 1e-5) == pytest.approx(0.26805, abs=1e-5)


@given(st.floats(0.01, 20.0), st.sampled_from([1e-9, 1e-6, 1e-5, 1e-3]))
def test_mu_and_epsilon_are_inverse_and_safe(epsilon: float, delta: float) -> None:
    mu = accounting.mu_of(epsilon, delta)
    assert accounting.delta_of(mu, epsilon) <= delta
    assert accounting.epsilon_of(mu, delta) == pytest.approx(epsilon, rel=1e-6)


@given(st.floats(1e-5, 50.0), st.integers(1, 50))
def test_the_charge_never_exceeds_the_share(mu2: float, honest: int) -> None:
    variance = accounting.share_variance(1 << 18, mu2, honest)
    assert accounting.charge_of(1 << 18, variance, honest) <= mu2


@pytest.mark.parametrize("sensitivity", [1, 16, 64, 200])
def test_discrete_noise_is_within_its_charge(sensitivity: int) -> None:
    """The exact hockey-stick divergence of the discrete Gaussian, summed, at the smallest share."""
    variance = accounting.SMALLEST_SHARE**2
    mu = math.sqrt(accounting.charge_of(sensitivity, variance, 1))
    reach = range(-60 * 64, 60 * 64)
    weight = {x: math.exp(-x * x / (2 * variance)) for x in range(-62 * 64, 62 * 64)}
    mass = math.fsum(weight.values())
    for epsilon in (0.1, 0.5, 1.0, 2.0):
        exact = math.fsum(
            max(0.0, weight[x] - math.exp(epsilon) * weight[x - sensitivity])
            for x in reach
            if x - sensitivity in weight
        )
        assert exact / mass <= accounting.delta_of(mu, epsilon) * (1 + 1e-9) + 1e-15


def test_too_little_noise_is_refused() -> None:
    with pytest.raises(ParameterError, match="64 grid units"):
        accounting.share_variance(64, 100.0, 1)
    with pytest.raises(ParameterError):
        accounting.charge_of(64, 63**2, 3)


@pytest.mark.parametrize("bad", [0.0, 1.0, -1.0, float("nan")])
def test_bad_parameters(bad: float) -> None:
    with pytest.raises(ParameterError):
        accounting.epsilon_of(1.0, bad)
    with pytest.raises(ParameterError):
        accounting.mu_of(1.0, bad)
