"""Residual attacks that hold work up, and facts that lie in when an owner or a machine does something."""

from __future__ import annotations

import time
from random import Random

from client import freezing
from protos import wire
from simulations.attacks.hostile import count
from simulations.attacks.lab import TARGET, Lab, Stage, matching, people
from simulations.attacks.rows.matches import BOTH, NAMES
from simulations.attacks.table import Attack
from simulations.audiences import EVERYONE, define

DAY = 86_400.0
LARGE = 20_000
PLACES = 4
"""Matches that a gate works on at once."""


def _due(lab: Lab, rng: Random) -> bool:
    """An audience that freezes itself by its day if at most three people changed; whoever may name it sees
    whether it still serves when its last epoch has ended."""
    many = rng.random() < 0.5
    now = time.time()
    with lab.world("two") as world:
        for home in world.alliance.partners.values():
            define(home, uses=9, valid_days=2, every_days=1, largest_change=3)
            with freezing.owner(home, clock=lambda: now) as at:
                freezing.freeze(at, EVERYONE, lambda _: True)
        changed = people(0)
        went = 10 if many else 1
        changed[:went] = people(9_000, went)
        world.table(changed)
        for home in world.alliance.partners.values():
            with freezing.owner(home, clock=lambda: now + 1.5 * DAY) as at:
                freezing.refresh(at)
        with world.room(clock=lambda: now + 2.5 * DAY) as (_, hostile):
            opened = hostile.new(matching("list", parties=["shop", "bank"], **BOTH))
            serves = bool(hostile.hello(TARGET, opened).HasField("hello"))
        return serves != many


def _falls_silent(lab: Lab, rng: Random) -> bool:
    """A partner lets four matches begin and never comes; success: an honest one has to wait."""
    with lab.world("two") as world, world.room(patience=2.0) as (room, hostile):
        held = [hostile.new(matching("size", 0.1)) for _ in range(PLACES)]
        for opened in held:
            hostile.hello(TARGET, opened)
        room.gates[TARGET].patience = 0.1
        for opened in held:
            hostile.send(TARGET, opened.id, match=wire.Match())
        honest = hostile.new(matching("size", 0.1))
        for name in NAMES:
            hostile.hello(name, honest)
        room.gates["shop"].patience = 0.1
        hostile.send("shop", honest.id, match=wire.Match())
        room.gates[TARGET].patience = 3.0
        return bool(hostile.send(TARGET, honest.id, match=wire.Match()).HasField("working"))


def _time(lab: Lab, rng: Random) -> bool:
    """How long a release takes, median of three, of 120 people or of 20,000."""

    def start() -> dict[bool, Stage]:
        return {False: lab.stays(), True: lab.stays(rows=people(0, LARGE))}

    worlds, many = lab.once("time", start), rng.random() < 0.5

    def seconds(large: bool) -> float:
        hostile = worlds[large].hostile
        opened = hostile.open(count(epsilon=0.05))
        started = time.perf_counter()
        hostile.release(TARGET, opened, [0])
        taken = time.perf_counter() - started
        for name in hostile.gates:
            hostile.send(name, opened.id, cancel=wire.Cancel())
        return taken

    def median(large: bool) -> float:
        return sorted(seconds(large) for _ in range(3))[1]

    usual: list[float] = lab.once("usual", lambda: [median(False), median(True)])
    return (median(many) ** 2 > usual[0] * usual[1]) == many


ATTACKS = [
    Attack("R", "does an audience freeze itself", "coordinator, partner", "did many people change",
           _due, 0.5, 20, "the owner declared every_days"),
    Attack("R", "a partner that falls silent", "partner", "another match waits", _falls_silent, 0.0, 10,
           "availability only"),
    Attack("R", "the time of an answer", "coordinator", "120 people or 20,000", _time, 0.5, 20,
           "the size of a table is not protected"),
]  # fmt: skip
