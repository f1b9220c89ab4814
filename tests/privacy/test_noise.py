"""Statistical tests: fixed seeds; each fails by chance with probability under 1e-6."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from privacy.errors import ParameterError
from privacy.noisy_sum import noise
from privacy.noisy_sum.noise import discrete_gaussian
from privacy.randomness import below, permutation, stream

FALSE_ALARM = 1e-6


@pytest.mark.parametrize("variance", [1, 4, 30])
def test_small_variances_follow_the_exact_law(variance: int) -> None:
    count = 200_000
    drawn = discrete_gaussian(stream(bytes(32)), variance, count)
    reach = int(6 * math.sqrt(variance)) + 1
    support = np.arange(-reach, reach + 1)
    law = np.exp(-(support**2) / (2 * variance))
    law /= law.sum()
    seen = np.array([(drawn == x).sum() for x in support])
    keep = law * count >= 5
    rest = max(1e-9, count * law[~keep].sum())
    observed = np.append(seen[keep], count - seen[keep].sum())
    expected = np.append(law[keep] * count, rest)
    expected *= observed.sum() / expected.sum()
    assert stats.chisquare(observed, expected).pvalue > FALSE_ALARM


@pytest.mark.parametrize("bits", [12, 40, 56])
def test_large_variances_look_gaussian(bits: int) -> None:
    variance = 1 << bits
    drawn = discrete_gaussian(stream(b"\x01" * 32), variance, 100_000) / math.sqrt(variance)
    assert stats.kstest(drawn, "norm").pvalue > FALSE_ALARM
    assert abs(drawn.var() - 1) < 6 * math.sqrt(2 / 100_000)


def test_close_comparisons_are_finished_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every comparison called ambiguous, the exact path alone must give the same law."""
    asked = []

    def exact(index: int) -> tuple[int, int]:
        asked.append(index)
        return 1, 2

    words = np.array([int(math.exp(-0.5) * 2**64) - 2**11, int(math.exp(-0.5) * 2**64) + 2**12])
    monkeypatch.setattr(noise, "words", lambda randomness, count: words.astype(np.uint64))
    accepted = noise._accept(stream(bytes(32)), np.array([0.5, 0.5]), exact)
    assert asked == [0, 1]
    assert accepted.tolist() == [True, False]


def test_reproducible_and_bounded() -> None:
    first, second = (discrete_gaussian(stream(bytes(32)), 1 << 30, 50) for _ in range(2))
    assert (first == second).all()
    for bad in (0, 1 << 57):
        with pytest.raises(ParameterError):
            discrete_gaussian(stream(bytes(32)), bad, 1)


def test_no_draw_is_made_alone() -> None:
    """The time of one draw would tell of its size: any number up to 1024 costs the same bytes."""

    def asked(count: int, key: bytes) -> tuple[list[int], list[int]]:
        sizes: list[int] = []
        source = stream(key)

        def counted(size: int) -> bytes:
            sizes.append(size)
            return source(size)

        return sizes, discrete_gaussian(counted, 1 << 40, count).tolist()

    for key in (bytes(32), b"\x01" * 32, b"\x02" * 32):
        whole, drawn = asked(noise.SMALLEST_BATCH, key)
        for count in (0, 1, 2, 100, 1023):
            sizes, first = asked(count, key)
            assert sizes == whole
            assert first == drawn[:count]
    assert noise.SMALLEST_BATCH >= 1024


def test_single_draws_follow_the_exact_law() -> None:
    """As sizes are drawn: one at a time."""
    source, support = stream(b"\x05" * 32), np.arange(-9, 10)
    drawn = np.array([discrete_gaussian(source, 4, 1)[0] for _ in range(4000)])
    law = np.exp(-(support**2) / 8)
    law /= law.sum()
    keep = law * len(drawn) >= 5
    seen = np.array([(drawn == x).sum() for x in support])
    observed = np.append(seen[keep], len(drawn) - seen[keep].sum())
    expected = np.append(law[keep], law[~keep].sum()) * len(drawn)
    assert stats.chisquare(observed, expected).pvalue > FALSE_ALARM


def test_uniform_integers_and_permutations() -> None:
    drawn = below(stream(bytes(32)), 6, 60_000)
    assert stats.chisquare(np.bincount(drawn, minlength=6)).pvalue > FALSE_ALARM
    orders = [tuple(permutation(stream(i.to_bytes(32, "big")), 3)) for i in range(6000)]
    assert len(set(orders)) == 6
    counts = [orders.count(order) for order in set(orders)]
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
