"""Rows 3, 4, 14, 15 and 18: what a coordinator and the other party learn of a match."""

from __future__ import annotations

import csv
import math
from functools import partial
from random import Random
from typing import Any

from client import freezing
from privacy import accounting
from privacy.errors import TallystickError
from protos import wire
from simulations.attacks.hostile import Hostile, Opened
from simulations.attacks.lab import (
    TARGET,
    Lab,
    Stage,
    World,
    at_once,
    matching,
    people,
    told_apart,
    with_or_without,
)
from simulations.attacks.table import Attack
from simulations.attacks.worlds import Tap
from simulations.audiences import EVERYONE, define, freeze_all
from simulations.room import Room

NAMES = ("bank", "shop")
RULES = ("age >= 18", 'region == "east" and age == 43', "age == 43 and spend <= 77", "spend == 77",
         'region == "nowhere"', "age > 89")  # fmt: skip
BOTH: dict[str, Any] = {"audiences": {"bank": EVERYONE, "shop": EVERYONE}}


def tapped(room: Room) -> Tap:
    """All frames of a room's matches."""
    tap = Tap()
    for name, gate in room.gates.items():
        gate._open_stream = partial(tap.open, name)
    return tap


def _seen(stage: Stage, wanted: Any) -> tuple[Any, ...]:
    """All that the coordinator and the peer see of a match, but for noise, the order of frames, and the
    length of handshakes: they hold a journal's head, with more anchors the more jobs went before."""
    tap, hostile = tapped(stage.room), stage.hostile
    opened, seen = hostile.new(wanted), list[Any]()
    for name in NAMES:
        reply = hostile.hello(name, opened)
        seen.append((name, reply.WhichOneof("body"), reply.refusal.code))
    if all(kind == "hello" for _, kind, _ in seen):
        replies = at_once(hostile, opened, NAMES)
        seen += [(n, r.WhichOneof("body"), r.refusal.code) for n, r in replies.items()]
    seen += sorted((ways, sorted(map(_frame, frames))) for ways, frames in tap.frames.items())
    finish(hostile, opened)
    return tuple(seen)


def _frame(frame: tuple[str, int]) -> tuple[str, int]:
    kind, length = frame
    return kind, length if kind == "sealed" else 0


def finish(hostile: Hostile, opened: Opened) -> None:
    """Close a job at both."""
    for name in NAMES:
        hostile.send(name, opened.id, finish=wire.Finish())


def _by_rule(lab: Lab, rng: Random) -> bool:
    """A size over a rule of the coordinator's that selects few, one or nobody."""

    def start() -> dict[bool, Stage]:
        return {t: lab.stays("declared", with_or_without(t)) for t in (False, True)}

    worlds, there = lab.once("rules", start), rng.random() < 0.5
    wanted = matching("size", 0.5, rules={"bank": rng.choice(RULES)})
    references = [
        lab.once((t, wanted.canonical()), partial(_seen, worlds[t], wanted)) for t in (False, True)
    ]
    return told_apart(_seen(worlds[there], wanted), references, rng) == there


def _padded(lab: Lab, rng: Random) -> bool:
    """The relay reads the padded size of 64 or 65 people; guessing is as good as what was paid for it."""

    def start() -> dict[bool, Stage]:
        return {t: lab.stays("small", people(0, 64 + t)) for t in (False, True)}

    worlds, more = lab.once("padded", start), rng.random() < 0.5
    usual = lab.once("usual sizes", lambda: [_sent(worlds[t]) for t in (False, True) * 3])
    return (_sent(worlds[more]) > sum(usual) / len(usual)) == more


def _sent(stage: Stage) -> int:
    """Bytes that the bank sends in a match, but for its handshake."""
    tap, opened = tapped(stage.room), stage.hostile.new(_SIZE)
    for name in NAMES:
        stage.hostile.hello(name, opened)
    at_once(stage.hostile, opened, NAMES)
    finish(stage.hostile, opened)
    return sum(length for _, length in map(_frame, tap.frames.get(("bank", "shop"), [])))


_SIZE = matching("size", 0.5)


def _paid() -> float:
    """The best guess that an honest padding's price allows: Phi(mu / 2)."""
    with_mu = _SIZE.match.padding_noise(accounting.mu_of(0.5, 1e-5) ** 2)
    mu = math.sqrt(with_mu.mu2) if with_mu else 0.0
    return 0.5 * (1.0 + math.erf(mu / 2.0 / math.sqrt(2.0)))


def frozen_world(world: World, uses: int = 9) -> None:
    """Freeze everybody at both."""
    for home in world.alliance.partners.values():
        define(home, uses=uses)
        freeze_all(home)


def listed(world: World, name: str, job_id: str) -> set[str]:
    """Who is in a list that a partner got, by its own keys."""
    found: set[str] = set()
    for path in world.alliance.partners[name].audiences.glob(f"*{job_id[:8]}*.csv"):
        with path.open(newline="") as file:
            found |= {row["person"] for row in csv.DictReader(file)}
    return found


def _foreign(lab: Lab, rng: Random) -> bool:
    """Shop and coordinator want one column of one shared customer of the bank: lists, pseudonyms and caches
    with rules, with and without audiences."""

    def start() -> dict[bool, Stage]:
        made = {}
        for there in (False, True):
            rows = people(0)
            rows[80] = rows[80] | {"returned": "yes" if there else "no"}
            made[there] = lab.stays("declared", rows)
            frozen_world(made[there].world)
        return made

    worlds, there = lab.once("foreign", start), rng.random() < 0.5
    stage, hostile = worlds[there], worlds[there].hostile
    rule = rng.choice(
        ["returned", 'returned == "yes"', "returned == 1", "returned == 1 and age < 200"]
    )
    named = rng.choice([BOTH, {}, {"audiences": {"shop": EVERYONE}}, {"audiences": {"bank": "x"}},
                        {"audiences": {"bank": EVERYONE}}])  # fmt: skip
    try:
        wanted = matching(
            rng.choice(["list", "lists", "ids", "cache"]), parties=["shop", "bank"],
            rules={"bank": rule}, **named,
        )  # fmt: skip
        opened = hostile.new(wanted)
        said = [hostile.hello(name, opened).HasField("hello") for name in NAMES]
        if all(said):
            at_once(hostile, opened, NAMES)
            got = listed(stage.world, "shop", opened.id)
            return (people(80, 1)[0]["id"] in got) == there
    except TallystickError:
        return rng.random() < 0.5
    return rng.random() < 0.5


def _opens(lab: Lab, wanted: Any) -> bool:
    """Whether the bank opens a match where not both sides declared that it may."""
    stage: Stage = lab.once("undeclared", lambda: lab.stays("undeclared"))
    lab.once("frozen", lambda: frozen_world(stage.world))
    opened = stage.hostile.new(wanted)
    reply = stage.hostile.hello(TARGET, opened)
    if reply.HasField("hello"):
        finish(stage.hostile, opened)
    return reply.HasField("hello")


def _fast(lab: Lab, rng: Random) -> bool:
    """The fast lane, chosen by the contract, where at most one side's own rules declare it."""
    parties = rng.choice([["shop", "bank"], ["bank", "shop"]])
    identifier = rng.choice(["email", "phone", ["phone", "email"]])
    return _opens(lab, matching("list", parties=parties, identifier=identifier, **BOTH))


def _ruled(lab: Lab, rng: Random) -> bool:
    """A noisy size or sum over a rule of the job's."""
    result = rng.choice(["size", "sum"])
    more: dict[str, Any] = {"value": "spend"} if result == "sum" else {}
    return _opens(lab, matching(result, 0.05, rules={rng.choice(NAMES): rng.choice(RULES)}, **more))


def _epochs(lab: Lab, rng: Random) -> bool:
    """The recipient of two lists compares two epochs; success is to say who came."""
    with lab.world("two") as world:
        got = []
        came = rng.choice(people(100, 20))["id"]
        for turn in range(2):
            world.table([p for p in people(0) if turn or p["id"] != came])
            if turn:
                with freezing.owner(world.bank) as at:
                    freezing.freeze(at, EVERYONE, lambda _: True)
            else:
                frozen_world(world)
            with world.room() as (room, _):
                job = matching("list", parties=["shop", "bank"], **BOTH)
                got.append(listed(world, "shop", room.run(job).job_id))
        return got[1] - got[0] == {came}


ATTACKS = [
    Attack("3", "sizes over a rule for one person", "coordinator", "is a person there", _by_rule, 0.5, 100),
    Attack("4", "exact results with a foreign rule", "coordinator, partner", "a customer's cell",
           _foreign, 0.5, 200),
    Attack("14", "the fast lane, not declared by both", "coordinator, partner", "a match that starts",
           _fast, trials=40),
    Attack("15", "noise over a rule, not declared", "coordinator, partner", "a match that starts", _ruled,
           trials=60),
    Attack("18", "64 people or 65 by padded size", "coordinator", "which, more often than paid for",
           _padded, _paid(), 120),
    Attack("R", "two epochs compared", "recipient", "who came", _epochs, trials=10,
           breaks="none: disclosed to recipients"),
]  # fmt: skip
