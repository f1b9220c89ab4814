"""Empirical epsilon beside the accounted one: how much a canary shows, and never more than was paid for.

Two arms of runs, without and with the canary (:mod:`simulations.attacks.canaries`), give a lower bound of
epsilon (:mod:`simulations.attacks.bounds`). It says two things. Above the accounted epsilon, with 99.9 %
confidence, there is a fault: noise too small, a clip or a composition forgotten. Far below it the audit saw
little and proves little: a good canary of many runs comes to at least .7 of the accounted epsilon at 95 %.

Beside that the variance of the noise that is delivered is compared with what the coordinator states: that
noise of partners is missing need not show in a canary.

How many runs is part of every result. The estimate of mu has a standard error of about sqrt(2/runs): .02
with 5,000 runs, which is a twelfth of mu at epsilon 1 and a fortieth at epsilon 4. A gate that is wrong at
one epsilon is wrong at every other, so the usual audit is at 4, where the same runs see an excess of a tenth.

Not handled: what a gate's answers tell by their time, keys and store (the other tests of ``tests/attacks``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from protos import console
from simulations.attacks.bounds import STRICT, USUAL, counted, epsilon_of, separation
from simulations.attacks.canaries import Look, World
from simulations.attacks.canary_tables import DELTA, JOBS
from simulations.attacks.planted import PARTIES, PLANTED

PROGRAMS = tuple(JOBS)
RUNS, PLANTED_RUNS = 5000, 1200
EPSILON = 4.0
GOAL = 0.7
"""Of the accounted epsilon: what an audit must show to be worth something."""
PLANTED_IN = ("query", "propensity")
PLANTED_STEPS = 5
"""Of a training with a fault."""


@dataclass(frozen=True)
class Audit:
    """What the runs of one program showed. ``runs``: of each arm. ``estimate``, ``low``, ``strict``: epsilon
    by the Gaussian statistic, its lower bounds at 95 % and 99.9 %; ``counted``: the one at 95 % by counted
    errors. ``noise``: delivered variance over the stated one, ``noise_error`` its standard error."""

    program: str
    fault: str
    partners: int
    releases: int
    runs: int
    accounted: float
    estimate: float
    low: float
    strict: float
    counted: float
    noise: float
    noise_error: float
    seconds: float

    @property
    def above(self) -> bool:
        """Whether the canary shows more than was accounted for, at 99.9 %."""
        return self.strict > self.accounted

    @property
    def quiet(self) -> bool:
        """Whether less noise is delivered than is stated, at 99.9 %."""
        return self.noise + NormalDist().inv_cdf(STRICT) * self.noise_error < 1.0

    @property
    def share(self) -> float:
        """The lower bound at 95 % over the accounted epsilon."""
        return self.low / self.accounted

    @property
    def verdict(self) -> str:
        """In words."""
        found = [w for w, so in (("ABOVE", self.above), ("TOO LITTLE NOISE", self.quiet)) if so]
        if found:
            return ", ".join(found)
        return "holds" if self.share >= GOAL else f"holds, but under {GOAL:g}: more runs"

    def line(self) -> str:
        """One line, while others still run."""
        what = f"{self.program}, {self.fault}" if self.fault else self.program
        return (
            f"{what}, {self.runs:,} runs an arm: accounted {self.accounted:.2f}, shown {self.estimate:.2f}, "
            f"at least {self.low:.2f} at 95 %, {self.strict:.2f} at 99.9 %; {self.seconds:.0f} s"
        )

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "share": self.share, "above": self.above, "quiet": self.quiet}


def audit(world: World, runs: int, fault: str = "") -> Audit:
    """Run a world ``runs`` times without and as often with its canary."""
    started = time.monotonic()
    arms = [[world.run(present=present) for _ in range(runs)] for present in (False, True)]
    without, with_it = (np.array([look.statistic for look in arm]) for arm in arms)
    apart = separation(without, with_it)
    # the likelihood ratio's own threshold, even odds, fixed before any run
    false_alarms = sum(_suspected(look) for look in arms[0])
    misses = runs - sum(_suspected(look) for look in arms[1])
    looks = [look for arm in arms for look in arm]
    entries = sum(look.entries for look in looks)
    return Audit(
        world.job.kind,
        fault,
        len(world.names),
        len(world.job.program(world.contract).plan()),
        runs,
        world.accounted,
        epsilon_of(apart.mu, DELTA),
        epsilon_of(apart.at_least(USUAL), DELTA),
        epsilon_of(apart.at_least(STRICT), DELTA),
        epsilon_of(counted(false_alarms, misses, runs, USUAL), DELTA),
        sum(look.noise * look.entries for look in looks) / entries,
        math.sqrt(2 / entries),
        time.monotonic() - started,
    )


def _suspected(look: Look) -> bool:
    return look.statistic > look.information / 2


def sound(
    folder: Path,
    runs: int = RUNS,
    *,
    epsilon: float = EPSILON,
    seed: int = 1,
    programs: Sequence[str] = PROGRAMS,
    say: Callable[[Audit], None] = lambda audit: None,
) -> list[Audit]:
    """The gates as they are: three partners, one of them the coordinator's."""
    found = []
    for kind in programs:
        world = World(kind, epsilon, folder / kind, seed=seed)
        found.append(audit(world, runs))
        say(found[-1])
    return found


def faulty(
    folder: Path,
    runs: int = PLANTED_RUNS,
    *,
    epsilon: float = EPSILON,
    seed: int = 1,
    programs: Sequence[str] = PLANTED_IN,
    faults: Sequence[str] = tuple(PLANTED),
    say: Callable[[Audit], None] = lambda audit: None,
) -> list[Audit]:
    """Gates with a planted fault each: five partners, one of them the coordinator's."""
    found = []
    for kind in programs:
        for number, fault in enumerate(faults):
            planted = PLANTED[fault]
            world = World(
                kind, epsilon, folder / f"{kind}{number}", parties=PARTIES, steps=PLANTED_STEPS,
                seed=seed, share=planted.share, customer_of=planted.customer_of,
            )  # fmt: skip
            found.append(audit(world, runs, fault))
            say(found[-1])
    return found


def caught(found: Audit) -> bool:
    """Whether a planted fault was found by what has to find it."""
    return found.quiet if PLANTED[found.fault].by_variance else found.above


def failed(audits: Sequence[Audit]) -> bool:
    """Whether a sound gate shows a fault, or a planted one is missed."""
    return any(not caught(each) if each.fault else each.above or each.quiet for each in audits)


def render(audits: Sequence[Audit], as_json: bool) -> str:
    """The report's text."""
    if as_json:
        return console.json_text({"delta": DELTA, "audits": [each.plain() for each in audits]})
    planted = any(each.fault for each in audits)
    head = [
        "program", "releases", "runs an arm", "accounted", "shown", "low, 95 %", "of accounted",
        "low, 99.9 %", "counted, 95 %", "noise delivered", "found" if planted else "verdict",
    ]  # fmt: skip
    rows = [
        [
            each.program,
            each.releases,
            f"{each.runs:,}",
            f"{each.accounted:.2f}",
            f"{each.estimate:.2f}",
            f"{each.low:.2f}",
            f"{each.share:.2f}",
            f"{each.strict:.2f}",
            f"{each.counted:.2f}",
            f"{each.noise:.3f} +- {2 * each.noise_error:.3f}",
            _finders(each) if planted else each.verdict,
        ]
        for each in audits
    ]
    if planted:
        head.insert(0, "planted fault")
        rows = [[each.fault, *row] for each, row in zip(audits, rows, strict=True)]
    seconds = sum(each.seconds for each in audits)
    return "\n".join(
        [
            f"epsilon at delta {DELTA:g}: accounted, and shown by a canary to a coordinator with 1 of "
            f"{audits[0].partners} partners, whose noise is subtracted ({seconds:,.0f} s)",
            "",
            console.table(head, rows),
            "",
            "low: lower bounds by the Gaussian statistic; counted: by counted errors. A sound gate is called",
            "ABOVE by chance in at most one of 1,000 audits of a program, TOO LITTLE NOISE as often.",
        ]
    )


def _finders(found: Audit) -> str:
    by = [name for name, so in (("canary", found.above), ("variance", found.quiet)) if so]
    return ("by " + " and ".join(by) if by else "no") + ("" if caught(found) else ": MISSED")
