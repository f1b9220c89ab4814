"""The table of attacks: each is run against real gates as often as it says, and judged by what it did.

A row says who attacks, what success is and how often guessing succeeds. Success is an effect (a file gone, a
bit learnt, a charge missing), never an error message. Rows of the residual list say which assumption they
break; each other row must not be above chance (:mod:`simulations.attacks.rates`). What is not a row here
is a test in ``tests/attacks`` only: :data:`ELSEWHERE` names it and says why.
"""

from __future__ import annotations

import importlib
import json
import logging
import pkgutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from privacy.errors import ConfigError
from protos.console import table
from simulations.attacks import rows as rooms
from simulations.attacks.lab import Lab
from simulations.attacks.rates import COVERAGE, FALSE_ALARM, above, interval

NEEDED = ("numba", "pyarrow")
"""What attacks on the fast lane and on tables load."""
ELSEWHERE = {
    "20": "bounds of tails, clips and draws are proved and tried by brute force: test_cut, test_noise",
    "21": "what a neighbour is: docs/security.md",
}
"""Rows that no trial of a lab stands for, and where they are held."""


@dataclass(frozen=True)
class Attack:
    """One attack. ``row``: of docs/security.md, "R" for a residual one; ``chance``: of success by guessing;
    ``breaks``: the assumption without which it works, empty if it must not."""

    row: str
    name: str
    who: str
    success: str
    attempt: Callable[[Lab, Random], bool]
    chance: float = 0.0
    trials: int = 20
    breaks: str = ""


@dataclass(frozen=True)
class Measured:
    """How an attack went."""

    attack: Attack
    successes: int
    trials: int
    seconds: float

    @property
    def interval(self) -> tuple[float, float]:
        """Of the rate, at 95 %."""
        return interval(self.successes, self.trials)


def attacks() -> list[Attack]:
    """Every attack there is, those of the residual list last. Raises ConfigError where an extra is missing
    without which some could not be run: a table with rows left out would look like a whole one."""
    found: list[Attack] = []
    try:
        for each in sorted(pkgutil.iter_modules(rooms.__path__), key=lambda each: each.name):
            found += importlib.import_module(f"{rooms.__name__}.{each.name}").ATTACKS
        for name in NEEDED:
            importlib.import_module(name)
    except ImportError as missing:
        raise ConfigError(
            "attack table", f"needs {missing.name}: install the extras `fast` and `mask`"
        ) from None
    return sorted(found, key=lambda each: (bool(each.breaks), _number(each.row), each.row))


def is_named(attack: Attack, wanted: Sequence[str]) -> bool:
    """Whether an attack is of one of these rows, or has one of these in its name; all are of none."""
    return not wanted or any(word == attack.row or word in attack.name for word in wanted)


def _number(row: str) -> int:
    return int("".join(c for c in row if c.isdigit()) or "0")


def run(
    chosen: Iterable[Attack],
    seed: int,
    folder: Path,
    *,
    trials: float = 1.0,
    say: Callable[[Measured], None] = lambda measured: None,
) -> list[Measured]:
    """Run attacks. ``trials``: times as many as each says; ``folder``: for worlds, which are removed."""
    level = logging.getLogger("tallystick").level
    logging.getLogger("tallystick").setLevel(logging.CRITICAL)  # thousands of refusals
    done: list[Measured] = []
    try:
        for number, attack in enumerate(chosen):
            root, started = folder / str(number), time.monotonic()
            root.mkdir(parents=True)
            count = max(1, round(attack.trials * trials))
            with closing(Lab(root)) as lab:
                successes = sum(
                    attack.attempt(lab, Random(f"{seed}/{attack.name}/{trial}"))
                    for trial in range(count)
                )
            done.append(Measured(attack, successes, count, time.monotonic() - started))
            say(done[-1])
    finally:
        logging.getLogger("tallystick").setLevel(level)
    return done


def broken(done: Sequence[Measured]) -> list[Measured]:
    """Those that are above chance and must not be."""
    held = [each for each in done if not each.attack.breaks]
    return [
        each for each in held if above(each.successes, each.trials, each.attack.chance, len(held))
    ]


def render(done: Sequence[Measured], seed: int, when: datetime) -> str:
    """The table as it is pasted into docs/security.md."""
    held = [each for each in done if not each.attack.breaks]
    residual = [each for each in done if each.attack.breaks]
    found = broken(done)
    head = (
        f"tallystick {version('tallystick')}, {when:%Y-%m-%d}, seed {seed}, {len(done)} attacks,"
        f" {sum(each.trials for each in done)} trials, {sum(each.seconds for each in done):.0f} s"
    )
    parts = [head]
    if held:
        parts.append(table(
            ["row", "attack", "by", "success is", "succeeded", "rate", "95 % interval", "chance"],
            [[*_line(each), _percent(each.attack.chance)] for each in held],
        ))  # fmt: skip
    if residual:
        parts.append(table(
            ["row", "residual attack", "by", "success is", "succeeded", "rate", "95 % interval",
             "chance", "breaks"],
            [[*_line(each), _percent(each.attack.chance), each.attack.breaks] for each in residual],
        ))  # fmt: skip
    named = ", ".join(each.attack.name for each in found)
    verdict = (
        f"ABOVE CHANCE: {named}" if found else "nothing above chance outside the residual list"
    )
    parts.append(
        f"{verdict}\nintervals: Clopper and Pearson, {COVERAGE:.0%}; above chance: exact binomial test,"
        f" one-sided, {FALSE_ALARM:.1%} false alarms in a whole table"
    )
    return "\n\n".join(parts)


def _line(each: Measured) -> list[Any]:
    low, high = each.interval
    attack = each.attack
    return [
        attack.row, attack.name, attack.who, attack.success, f"{each.successes} of {each.trials}",
        _percent(each.successes / each.trials), f"{_percent(low)} to {_percent(high)}",
    ]  # fmt: skip


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"


def as_json(done: Sequence[Measured], seed: int, when: datetime) -> str:
    """The same for machines."""
    rows = []
    for each in done:
        plain = {k: v for k, v in asdict(each.attack).items() if k not in ("attempt", "trials")}
        plain |= {"successes": each.successes, "trials": each.trials, "interval": each.interval}
        plain |= {"above_chance": each in broken(done), "seconds": round(each.seconds, 2)}
        rows.append(plain)
    about = {"version": version("tallystick"), "date": f"{when:%Y-%m-%d}", "seed": seed}
    return json.dumps({**about, "attacks": rows}, indent=2)


def now() -> datetime:
    """The date that is printed."""
    return datetime.now(UTC)
