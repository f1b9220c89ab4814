"""Residual attacks of a party of a match that runs other code."""

from __future__ import annotations

from random import Random
from typing import Any
from unittest import mock

from privacy.identifiers import labels
from privacy.matching import overlap
from simulations.attacks.deviating import (
    HEARD,
    Act,
    Listening,
    OwnExponents,
    SecretOfSender,
    WithoutDummies,
    beyond_bounds,
    deviate,
)
from simulations.attacks.lab import WHO, Lab, World, at_once, matching, people, with_or_without
from simulations.attacks.rows.matches import BOTH, NAMES, finish, frozen_world
from simulations.attacks.table import Attack

CODE = "a party runs this code"


def _match(world: World, wanted: Any, act: Act) -> dict[str, Any]:
    """What the gates say of a match in which the shop does ``act``."""
    with world.room() as (room, hostile):
        opened = hostile.new(wanted)
        for name in NAMES:
            hostile.hello(name, opened)
        deviate(room, "shop", opened, act)
        replies = at_once(hostile, opened, NAMES)
        finish(hostile, opened)
        return replies


def _alone(world: World, there: bool) -> None:
    world.table(with_or_without(there))
    world.table([WHO], "shop")


def _without_dummies(lab: Lab, rng: Random) -> bool:
    """One identifier against a noisy size of the smallest price; no rule, no audience."""
    there, act = rng.random() < 0.5, WithoutDummies()
    with lab.world("two") as world:
        _alone(world, there)
        _match(world, matching("size", 0.05, parties=["shop", "bank"]), act)
    return act.size >= 0 and (act.size == 1) == there


def _without_dummies_frozen(lab: Lab, rng: Random) -> bool:
    """The same over a frozen audience of both; no use of it is counted."""
    there, act = rng.random() < 0.5, WithoutDummies()
    with lab.world("two") as world:
        world.table(with_or_without(there))
        world.table([WHO, *people(5_000, 60)], "shop")
        frozen_world(world)
        _match(world, matching("size", 0.05, parties=["shop", "bank"], **BOTH), act)
        return act.size >= 0 and (act.size == 1) == there


def _exponents(lab: Lab, rng: Random) -> bool:
    there, act = rng.random() < 0.5, OwnExponents()
    with lab.world("two") as world:
        _alone(world, there)
        _match(world, matching("size", 0.05, parties=["shop", "bank"]), act)
    return act.found == there


def _sum(lab: Lab, rng: Random) -> bool:
    there = rng.random() < 0.5
    with lab.world("two") as world:
        _alone(world, there)
        wanted = matching("sum", 0.5, parties=["bank", "shop"], value="spend")
        replies = _match(world, wanted, beyond_bounds)
        figures = {figure.name: figure for figure in replies["bank"].match.figures}
        if "sum" not in figures:
            return rng.random() < 0.5
        return bool(figures["sum"].value > 4.0 * figures["sum"].deviation) == there


def _together(lab: Lab, rng: Random) -> bool:
    """The matcher of an overlap and the third party: is their common customer the shop's too?"""
    there = rng.random() < 0.5
    with lab.world("three") as world:
        shops = people(3_000, 80)
        world.table([*shops[:79], WHO] if there else shops, "shop")
        world.table([WHO, *people(0, 60)])
        world.table([WHO], "telecom")
        names = ["bank", "shop", "telecom"]
        with world.room() as (_, hostile), mock.patch.object(overlap, "Ring", Listening):
            opened = hostile.new(matching("overlap", 0.05, parties=names))
            for name in names:
                hostile.hello(name, opened)
            at_once(hostile, opened, names)
        session = bytes.fromhex(opened.id)
        counts, dummies = HEARD.pop((session, 0)), HEARD.pop((session, 2))
        return bool(counts[0, 1, 2] - dummies[0, 1, 2] == 1) == there


def _fast(lab: Lab, rng: Random) -> bool:
    """56 people known to be in both, then all 240 others tested offline; success is no mistake."""
    with lab.world("fast") as world:
        who = people(0)
        rng.shuffle(who)
        world.table(who[:110])
        frozen_world(world)
        known = labels("email", [person["mail"] for person in who[:60]])[0]
        act = SecretOfSender(known)
        _match(world, matching("list", parties=["shop", "bank"], **BOTH), act)
    asked = who[60:] + people(7_000, 180)
    truth = [number < 50 for number in range(len(asked))]
    said = act.has(labels("email", [person["mail"] for person in asked])[0])
    return [bool(each) for each in said] == truth


ATTACKS = [
    Attack("R", "a receiver leaves the dummies out", "partner", "is a person there", _without_dummies,
           0.5, 20, CODE),
    Attack("R", "the same over frozen audiences", "partner", "is a person there",
           _without_dummies_frozen, 0.5, 20, CODE),
    Attack("R", "another exponent for an item", "partner", "is a person there", _exponents, 0.5, 20, CODE),
    Attack("R", "a value beyond a sum's bounds", "partner, coordinator", "is a person there", _sum, 0.5,
           20, CODE),
    Attack("R", "the matcher of an overlap colludes", "two partners", "is a person there", _together, 0.5,
           20, "no collusion with the matcher"),
    Attack("R", "spoiled codes in the fast lane", "partner", "240 people told right, offline", _fast, 0.0,
           10, CODE),
]  # fmt: skip
