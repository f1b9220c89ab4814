"""Empirical epsilon: gates show a canary no more than was charged, and an audit of a faulty gate says so.

Seeds are fixed, so results are. At epsilon 8 a hundred runs of each arm tell much: what takes thousands at
epsilon 1. The whole audit is ``tallystick-lab attack epsilon``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from client import table
from client.summing import exact_sum
from client.tasks.noisy_sum import NoisySumTask
from privacy import accounting
from privacy.noisy_sum.encoding import SENSITIVITY, Integers
from protos import console
from server.tasks.noisy_sum import Memory
from simulations import cli
from simulations.alliances import Alliance
from simulations.attacks import epsilon
from simulations.attacks.bounds import counted, epsilon_of, rate_at_most, separation
from simulations.attacks.canaries import World
from simulations.attacks.canary_tables import DELTA
from simulations.attacks.planted import PLANTED, Silent, at
from simulations.room import Room
from tests.conftest import job

EPSILON = 8.0
STEPS = 5

# ---------------------------------------------------------------------- bounds


def test_a_rate_is_bounded_as_clopper_and_pearson_do() -> None:
    for errors, runs in ((0, 20), (3, 20), (20, 20), (1700, 5000), (4999, 5000)):
        exact = stats.beta.ppf(0.975, errors + 1, runs - errors) if errors < runs else 1.0
        assert rate_at_most(errors, runs, 0.025) == pytest.approx(exact, rel=1e-9)


def test_bounds_exceed_the_truth_as_seldom_as_they_say() -> None:
    """2,000 audits of a canary that is worth all that was accounted for: 5 % and .1 % of them err."""
    rng, mu, runs, audits = np.random.default_rng(19), 0.84, 200, 2000
    over = {0.95: 0, 0.999: 0}
    by_count = 0
    for number in range(audits):
        without, with_it = rng.normal(0.0, 3.0, runs), rng.normal(3.0 * mu, 3.0, runs)
        apart = separation(without, with_it)
        for confidence in over:
            over[confidence] += apart.at_least(confidence) > mu
        if number < 400:
            middle = 1.5 * mu
            errors = int((without > middle).sum()), int((with_it <= middle).sum())
            by_count += counted(*errors, runs, 0.95) > mu
    assert 0.04 < over[0.95] / audits < 0.06
    assert over[0.999] <= stats.binom.ppf(1 - 1e-6, audits, 0.001)
    assert by_count <= stats.binom.ppf(1 - 1e-6, 400, 0.05)


def test_more_is_shown_by_more_runs() -> None:
    rng, lows = np.random.default_rng(3), []
    for runs in (100, 1000, 10_000):
        apart = separation(rng.normal(0, 1, runs), rng.normal(1, 1, runs))
        lows.append(apart.at_least(0.95))
    assert lows == sorted(lows)
    assert 0.95 < lows[-1] < 1.0
    assert epsilon_of(-1.0, DELTA) == 0.0
    assert epsilon_of(1e9, DELTA) > 1000.0


# ---------------------------------------------------------------------- the canary


@pytest.mark.parametrize("kind", epsilon.PROGRAMS)
def test_a_canary_reaches_every_clip(kind: str, tmp_path: Path) -> None:
    """A canary that is worth less than was charged would make every gate look good."""
    world = World(kind, EPSILON, tmp_path, steps=STEPS)
    mu2 = accounting.mu_of(world.accounted, DELTA) ** 2
    for present in (False, True):
        look = world.run(present=present)
        assert 0.999 * mu2 < look.information <= mu2
    assert world.accounted == pytest.approx(EPSILON, rel=1e-6)


def test_a_seed_gives_the_same_runs_again(tmp_path: Path) -> None:
    looks = [World("query", EPSILON, tmp_path / n, seed=5).run(present=True) for n in ("a", "b")]
    other = World("query", EPSILON, tmp_path / "c", seed=6).run(present=True)
    assert looks[0] == looks[1]
    assert looks[0] != other


# ---------------------------------------------------------------------- gates as they are


@pytest.mark.parametrize("kind", epsilon.PROGRAMS)
def test_no_gate_shows_more_than_was_charged(kind: str, tmp_path: Path) -> None:
    world = World(kind, EPSILON, tmp_path, steps=STEPS)
    found = epsilon.audit(world, 60)
    assert not found.above, epsilon.render([found], False)
    assert not found.quiet, epsilon.render([found], False)
    assert found.share > 0.5  # or the audit saw too little to say so


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "runs"), [("query", 1500), ("segment", 1000), ("evaluate", 3000)])
def test_no_gate_shows_more_than_was_charged_in_many_runs(
    kind: str, runs: int, tmp_path: Path
) -> None:
    [found] = epsilon.sound(tmp_path, runs, programs=[kind])
    assert not epsilon.failed([found]), epsilon.render([found], False)
    assert found.share >= epsilon.GOAL


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_training_of_usual_length_shows_more_than_was_charged(tmp_path: Path) -> None:
    """All 42 releases, under states of the coordinator's choice."""
    [found] = epsilon.sound(tmp_path, 300, epsilon=EPSILON, programs=["propensity"])
    assert found.releases == 42
    assert not epsilon.failed([found]), epsilon.render([found], False)
    assert found.share >= epsilon.GOAL


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str, tmp_path: Path) -> None:
    """Six by the canary, the seventh by the variance that is delivered."""
    [found] = epsilon.faulty(tmp_path, 50, epsilon=EPSILON, programs=["query"], faults=[fault])
    assert epsilon.caught(found), epsilon.render([found], False)


@pytest.mark.slow
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_in_a_training(fault: str, tmp_path: Path) -> None:
    faults = [fault]
    [found] = epsilon.faulty(tmp_path, 100, epsilon=EPSILON, programs=["propensity"], faults=faults)
    assert epsilon.caught(found), epsilon.render([found], False)


def test_partners_are_found_by_variance_where_a_canary_cannot_see_them(tmp_path: Path) -> None:
    """The silent ones are the adversary's: what it shows is unchanged, and noise is missing all the same."""
    silent = at(Silent, (3, 4))
    world = World("query", EPSILON, tmp_path, parties=5, colluders=2, share=silent)
    found = epsilon.audit(world, 50)
    assert found.quiet
    assert not found.above


# ---------------------------------------------------------------------- noise, end to end


def delivered(made: Alliance) -> tuple[float, int]:
    """Mean square of the noise in the totals of one job of whole gates, in variances that the coordinator
    states; of how many numbers."""
    asked = job(
        name="ask", kind="query", epsilon=1.0,
        query={"measures": ["histogram(age, 1000)", "histogram(spend, 1000)"]},
    )  # fmt: skip
    totals = Memory()
    with Room(made, patience=20.0) as room:
        room.run(asked, checkpoint=totals)
    program, columns = asked.program(made.contract), made.contract.declared_columns()
    tables = [
        table.read(home.source(), columns, ["age", "spend"])[0] for home in made.partners.values()
    ]
    squares: list[float] = []
    for index, total, deviation in totals.totals():
        release = program.plan()[index]
        exact = np.sum([exact_sum(program, index, release, rows) for rows in tables], axis=0)
        noise = total - exact * (release.clip / SENSITIVITY)
        squares += list(np.square(noise / deviation))
    return float(np.mean(squares)), len(squares)


def test_the_stated_noise_is_delivered_by_whole_gates(
    make_alliance: Callable[..., Alliance],
) -> None:
    noise, numbers = delivered(make_alliance(5))
    assert numbers == 2000
    assert abs(noise - 1.0) < 5 * (2 / numbers) ** 0.5


def test_two_of_five_whole_gates_without_noise_are_found(
    make_alliance: Callable[..., Alliance], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = NoisySumTask._noise

    def silent(self: NoisySumTask, index: int, variance: int, bound_to: bytes) -> Integers:
        drawn = sound(self, index, variance, bound_to)
        return drawn * 0 if self.at.me in ("shop", "telecom") else drawn

    monkeypatch.setattr(NoisySumTask, "_noise", silent)
    noise, numbers = delivered(make_alliance(5))
    assert noise < 1.0 - 5 * (2 / numbers) ** 0.5
    assert noise == pytest.approx(0.6, abs=0.1)


# ---------------------------------------------------------------------- the command


def test_the_command_says_how_many_runs(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["attack", "epsilon", "--runs", "40", "--program", "evaluate"]
    assert console.run(cli.app, asked) == 0
    text = capsys.readouterr().out
    assert "runs an arm" in text
    assert "  40  " in text
    assert console.run(cli.app, [*asked, "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["audits"]
    assert (found["program"], found["runs"], found["above"]) == ("evaluate", 40, False)
    assert 0.0 <= found["strict"] <= found["low"] <= found["estimate"]


def test_an_audit_that_misses_a_fault_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty runs at epsilon 1 find little."""
    twice = ["a person at two partners"]
    missed = epsilon.faulty(tmp_path, 20, epsilon=1.0, programs=["query"], faults=twice)
    assert epsilon.failed(missed)
    monkeypatch.setattr(epsilon, "faulty", lambda *_, **__: missed)
    assert console.run(cli.app, ["attack", "epsilon", "--planted"]) == 1
    assert "MISSED" in capsys.readouterr().out
    assert console.run(cli.app, ["attack", "epsilon", "--program", "nothing"]) == 2
