"""What the audit of 0.3.0 found to hold, kept: sensitivities, composition, the noise that is really there.

Statistical tests have fixed seeds. Each compares a lower confidence bound with what was accounted; on
right code it fails by chance with probability under 1e-6, and beside each a fault is planted that it must
see.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from scipy import stats

from privacy import accounting
from privacy.matching.size import PaddingNoise, SizeNoise
from privacy.noisy_sum import encoding
from privacy.noisy_sum.noise import discrete_gaussian
from privacy.programs.columns import Category, Column, Floats, Label, Number
from privacy.programs.evaluate import Evaluate
from privacy.programs.program import Program
from privacy.programs.propensity import Propensity
from privacy.programs.query import Measure, Query
from privacy.programs.segment import Segment
from privacy.randomness import Randomness, stream
from tests.privacy.whole import Table, exact_sum, programs, some_table

GRID = encoding.SENSITIVITY
Z = float(stats.norm.isf(1e-6))

# ------------------------------------------------------------------ sensitivity


def _neighbours(seeds: range) -> tuple[int, dict[str, float]]:
    """Pairs compared, and the largest norm by program, in sensitivities."""
    pairs, worst = 0, {}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        table = some_table(rng, int(rng.integers(1, 10)), int(rng.choice([1, 1, 3, 40])))
        other = table.without(str(rng.choice(sorted(set(table.keys)))))
        for name, program in programs(rng):
            for index in range(len(program.plan())):
                moved = exact_sum(program, index, table) - exact_sum(program, index, other)
                norm = math.isqrt(sum(int(x) * int(x) for x in moved) * 10**12) / 1e6 / GRID
                worst[name] = max(worst.get(name, 0.0), norm)
                pairs += 1
    return pairs, worst


def test_nobody_moves_a_release_by_more_than_the_sensitivity() -> None:
    """Add or remove one person of up to 40 rows: thousands of pairs, extreme rows and states."""
    pairs, worst = _neighbours(range(120))
    assert pairs > 5000
    assert max(worst.values()) <= 1.0
    assert min(worst.values()) > 0.99  # the bound is reached, so the tables were extreme enough


@pytest.mark.slow
def test_nobody_moves_a_release_by_more_than_the_sensitivity_in_many_tables() -> None:
    pairs, worst = _neighbours(range(1000, 1600))
    assert pairs > 25_000
    assert max(worst.values()) <= 1.0


# ------------------------------------------------------------------ composition


@pytest.mark.parametrize(
    "sigmas", [[1.0], [2.0] * 9, [1.5, 3.0, 7.0], [20.0] * 40 + [4.0], [0.8, 0.9]]
)
@pytest.mark.parametrize("delta", [1e-9, 1e-6, 1e-5, 1e-3])
def test_composition_agrees_with_googles_accountant(sigmas: list[float], delta: float) -> None:
    """mu^2 adds up. Google's answer is pessimistic by its discretisation."""
    whole = None
    for sigma in sorted(set(sigmas)):
        one = privacy_loss_distribution.from_gaussian_mechanism(
            sigma, value_discretization_interval=1e-3
        ).self_compose(sigmas.count(sigma))
        whole = one if whole is None else whole.compose(one)
    assert whole is not None
    ours = accounting.epsilon_of(math.sqrt(sum(s**-2 for s in sigmas)), delta)
    assert ours == pytest.approx(whole.get_epsilon_for_delta(delta), rel=5e-3, abs=1e-3)


# ------------------------------------------------------------------ canaries

EPSILON, DELTA, PARTIES, HONEST = 8.0, 1e-6, 3, 2
CANARY_COLUMNS: dict[str, Column] = {
    **{f"f{i}": Number(f"f{i}", 0.0, 100.0) for i in range(5)},
    "c": Category("c", ("u", "v", "w")),
    "y": Label("y"),
}


def _tables(trains: bool) -> tuple[Table, Table]:
    """Thirty people, and the same with a canary of 200 rows, far out; all its rows are clipped as one."""
    rng = np.random.default_rng(5)
    rows: dict[str, Floats] = {f"f{i}": rng.uniform(20, 80, 30) for i in range(5)}
    rows |= {"c": rng.integers(0, 3, 30).astype(float), "y": rng.integers(0, 2, 30).astype(float)}
    canary = {f"f{i}": np.full(200, 100.0) for i in range(5)}
    canary |= {"c": np.zeros(200), "y": np.zeros(200)}
    keys = [f"p{i:03d}" for i in range(30)]
    for i in range(999):
        both = {name: np.concatenate([rows[name], canary[name]]) for name in rows}
        full = Table.of(both, [*keys, *[f"z{i}"] * 200])
        fold = full.rows["fold"][-1]
        if (fold >= 0.5) if trains else (fold < 0.2):
            return Table.of(rows, keys), full
    raise AssertionError


def _query(mu2: float) -> Program:
    measures = [Measure("count"), Measure("sum", "f0"), Measure("mean", "f1")]
    return Query(CANARY_COLUMNS, [*measures, Measure("histogram", "f2", 5)], None, mu2)


def _segment(mu2: float) -> Program:
    return Segment(CANARY_COLUMNS, ("f0", "f1"), 3, mu2)


def _propensity(mu2: float) -> Program:
    names = ("f0", "f1", "f2", "c")
    return Propensity(CANARY_COLUMNS, names, "y", mu2, holdout=0.2, steps=5)


def _evaluate(mu2: float) -> Program:
    program = Evaluate(CANARY_COLUMNS, ("f0", "f1"), "y", 0.2, mu2)
    program.restore(np.array([1.0, 1.0, 0.0, 1.0, 0.0]))
    return program


def _statistic(
    make: Callable[[float], Program], mu2: float, tables: tuple[Table, Table], source: Randomness,
    *, present: bool, quieter: int = 1,
) -> float:  # fmt: skip
    """The best test there is of a coordinator with one partner who knows all rows but the canary's: the
    likelihood ratio of each total given the state before it, added up. ``quieter``: a planted fault."""
    program, (base, full) = make(mu2), tables
    found = 0.0
    for index, release in enumerate(program.plan()):
        program.restore(program.state())
        variance = accounting.share_variance(GRID, release.mu2, HONEST)
        without = exact_sum(program, index, base)
        part = exact_sum(program, index, full) - without
        drawn = discrete_gaussian(source, variance // quieter, release.length * PARTIES)
        shares = drawn.reshape(PARTIES, -1)  # the last is the colluder's, and known
        total = without + part * present + shares.sum(axis=0)
        seen = (total - shares[2] - without).astype(float)
        found += float(seen @ part) / (variance * HONEST)
        natural = encoding.from_ring(encoding.to_ring(total), release.clip)
        deviation = math.sqrt(PARTIES * variance) * release.clip / GRID
        program.absorb(index, natural, deviation)
    return found


def _epsilon_at_least(without: Floats, with_it: Floats) -> float:
    """Lower bound of epsilon at DELTA, false alarm under 1e-6, from the distance of the two arms (both
    are normal to a good approximation, with mu their distance in deviations)."""
    spread = math.sqrt((without.var(ddof=1) + with_it.var(ddof=1)) / 2)
    distance = (with_it.mean() - without.mean()) / spread
    low = distance - Z * math.sqrt(2 / len(without) + distance**2 / (4 * len(without)))
    return accounting.epsilon_of(max(0.0, low), DELTA)


def _audit(make: Callable[[float], Program], runs: int, quieter: int = 1) -> float:
    mu2 = accounting.mu_of(EPSILON, DELTA) ** 2
    tables, source = _tables(make is not _evaluate), stream(b"\x07" * 32)
    arms = [
        np.array(
            [
                _statistic(make, mu2, tables, source, present=present, quieter=quieter)
                for _ in range(runs)
            ]
        )
        for present in (False, True)
    ]
    return _epsilon_at_least(*arms)


@pytest.mark.parametrize("make", [_query, _evaluate])
def test_a_canary_is_hidden_as_accounted(make: Callable[[float], Program]) -> None:
    found = _audit(make, 300)
    assert 0.4 * EPSILON < found <= EPSILON


def test_an_audit_sees_half_the_noise() -> None:
    assert _audit(_query, 300, quieter=4) > EPSILON


@pytest.mark.slow
@pytest.mark.parametrize("make", [_segment, _propensity])
def test_a_canary_is_hidden_from_adaptive_programs(make: Callable[[float], Program]) -> None:
    assert _audit(make, 300) <= EPSILON


@pytest.mark.slow
@pytest.mark.parametrize("make", [_segment, _propensity, _evaluate])
def test_an_audit_sees_half_the_noise_of_every_program(make: Callable[[float], Program]) -> None:
    assert _audit(make, 300, quieter=4) > EPSILON


@pytest.mark.parametrize("of", [SizeNoise, PaddingNoise])
def test_one_more_in_a_size_is_hidden_as_accounted(
    of: type[SizeNoise] | type[PaddingNoise],
) -> None:
    """A size as the receiver sees it (cut off), as the sender does (it knows z), or as padding."""
    noise, runs = of.for_mu2(accounting.mu_of(EPSILON, DELTA) ** 2), 1500
    source = stream(b"\x08" * 32)
    for draw in (noise.shifted, noise.rounded):
        without = np.array([100.0 + draw(source) for _ in range(runs)])
        with_it = np.array([101.0 + draw(source) for _ in range(runs)])
        assert _epsilon_at_least(without, with_it) <= EPSILON
        twice = with_it + 1.0  # planted: a person who counts twice
        assert _epsilon_at_least(without, twice) > EPSILON
