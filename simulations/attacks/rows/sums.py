"""Rows 2, 3 and 19: questions for noisy sums that tell two tables apart by anything but noise, or that are
charged and then refused."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Any

import numpy as np

from privacy.errors import RoundFailed, TallystickError
from privacy.noisy_sum.encoding import SENSITIVITY
from protos import wire
from simulations.attacks.hostile import Hostile, Opened, count, job
from simulations.attacks.lab import TARGET, Lab, Stage, people, told_apart, with_or_without
from simulations.attacks.table import Attack

ODD = [
    5e-324, -0.0, 0.0, -1.0, 1e-300, 1e300, 1.7e308, -1.7e308, np.nan, np.inf, -np.inf, 2.0**53,
    1e12, 1e154, 1e-154,
]  # fmt: skip
SEGMENT = {"kind": "segment", "segment": {"columns": ["age", "spend"], "segments": 3}}
PROPENSITY = {
    "kind": "propensity",
    "propensity": {"features": ["age", "spend", "region"], "label": "returned", "steps": 5},
}
Seen = tuple[Any, ...]


def _four(lab: Lab) -> dict[bool, tuple[Stage, Stage]]:
    """By whether the person is there: the gate that is attacked, and the attacker's own."""

    def start() -> dict[bool, tuple[Stage, Stage]]:
        rows = {there: with_or_without(there) for there in (False, True)}
        return {t: (lab.stays(rows=rows[t]), lab.stays(rows=rows[t])) for t in (False, True)}

    return lab.once("four", start)


def low_order(hostile: Hostile, opened: Opened, party: str = "shop") -> None:
    """A colluding partner signs mask keys of low order."""
    for number, signed in enumerate(opened.prepared):
        if signed.party == party:
            message = wire.parse(wire.Prepared, signed.body)
            keys = len(message.mask_keys)
            del message.mask_keys[:]
            message.mask_keys.extend([bytes(32)] * keys)
            key = hostile.alliance.partners[party].identity()
            opened.prepared[number] = wire.state(key, party, message)


def _seen(stage: Stage, settings: dict[str, Any], state: bytes, index: int, low: bool) -> Seen:
    """All that a coordinator and its colluder see of one question, but for noise."""
    hostile = stage.hostile
    before = hostile.charged(TARGET)
    try:
        opened = hostile.open(job(**settings))
    except RoundFailed as refused:
        return ("hello", str(refused))
    if low:
        low_order(hostile, opened)
    reply = hostile.release(TARGET, opened, [index], state)
    for name in stage.room.gates:
        hostile.send(name, opened.id, cancel=wire.Cancel())
    kind = reply.WhichOneof("body")
    return (kind, reply.refusal.code, reply.ByteSize(), hostile.charged(TARGET) - before)


def _guessed(lab: Lab, rng: Random, settings: dict[str, Any], *question: Any) -> bool:
    """Whether the attacker says rightly if the person is a customer."""
    four, there = _four(lab), rng.random() < 0.5
    seen = _seen(four[there][0], settings, *question)
    asked = (repr(settings), *question)
    references = [
        lab.once((t, asked), partial(_seen, four[t][1], settings, *question)) for t in (False, True)
    ]
    return told_apart(seen, references, rng) == there


def _state(lab: Lab, rng: Random) -> bool:
    """One number of a program's state is odd; half of the time with a mask key of low order."""
    plain = {"name": "ask", "epsilon": 0.02, **rng.choice([SEGMENT, PROPENSITY])}
    contract = _four(lab)[True][0].world.alliance.contract
    state = job(**plain).program(contract).state()
    if rng.random() < 0.8:
        state[rng.randrange(len(state))] = rng.choice(ODD)
    index, low = rng.choice([0, 1, 1]), rng.random() < 0.3
    return _guessed(lab, rng, plain, state.astype("<f8").tobytes(), index, low)


def _cohort(lab: Lab, rng: Random) -> bool:
    """A question that one person, few or nobody answers to."""
    where = rng.choice([
        'region == "east" and age == 43', "age == 43 and spend <= 77", "spend == 77", "age > 89",
        'age == 43 and returned == "yes"', 'region == "nowhere"', 'not (age == 43)', "rare == 1",
    ])  # fmt: skip
    measures = rng.choice([["count"], ["mean(spend)"], ["histogram(age, 4)", "sum(visits)"]])
    plain = {"name": "ask", "kind": "query", "epsilon": 0.02,
             "query": {"measures": measures, "where": where}}  # fmt: skip
    return _guessed(lab, rng, plain, b"", 0, False)


def _infeasible(lab: Lab, rng: Random) -> bool:
    """Small prices in many steps, at K = 2; success is a charge without an answer."""
    hostile = lab.once("two", lambda: lab.stays("two")).hostile
    kind = rng.choice(["propensity", "query", "segment"])
    epsilon = 10 ** rng.uniform(-6, 0)
    if kind == "propensity":
        steps = rng.choice([5, 8, 100, 500])
        spec: dict[str, Any] = PROPENSITY["propensity"] | {"steps": steps}  # type: ignore[operator]
    elif kind == "segment":
        spec = SEGMENT["segment"] | {"segments": rng.choice([2, 8])}  # type: ignore[operator]
    else:
        spec = {"measures": [f"histogram(age, {n})" for n in range(2, 2 + rng.choice([1, 20]))]}
    before = hostile.charged(TARGET)
    answered, opened = False, None
    try:
        asked = job(name="ask", kind=kind, epsilon=epsilon, **{kind: spec})
        opened = hostile.open(asked)
        state = asked.program(hostile.contract).state().astype("<f8").tobytes()
        answered = hostile.release(TARGET, opened, [0], state).HasField("masked")
    except TallystickError:
        answered = False  # not quoted, or refused at hello
    for name in hostile.gates if opened else ():
        hostile.send(name, opened.id, cancel=wire.Cancel())  # type: ignore[union-attr]
    return hostile.charged(TARGET) > before and not answered


def _spied(lab: Lab, rng: Random) -> bool:
    """The coordinator and one colluder read the bank's masked vector: 120 customers, or 3. Without the other
    partner's mask it must look random; unmasked the noise would hide neither."""

    def start() -> dict[bool, Stage]:
        return {many: lab.stays(rows=people(0, 120 if many else 3)) for many in (False, True)}

    worlds, many = lab.once("spied", start), rng.random() < 0.5
    hostile = worlds[many].hostile
    opened = hostile.open(count(epsilon=0.5))
    reply = hostile.release(TARGET, opened, [0])
    for name in hostile.gates:
        hostile.send(name, opened.id, cancel=wire.Cancel())
    word = int(np.frombuffer(reply.masked.vectors[0].vector, "<i8")[0])
    plausible = abs(word) < 10**4 * SENSITIVITY
    return (word > 60 * SENSITIVITY) == many if plausible else rng.random() < 0.5


ATTACKS = [
    Attack("2", "odd states, low-order mask keys", "coordinator, partner", "is a person there",
           _state, 0.5, 120),
    Attack("3", "few people, by refusals", "coordinator", "is a person there", _cohort, 0.5, 200),
    Attack("2", "one masked vector, read alone", "coordinator, partner", "120 customers or 3", _spied, 0.5,
           150),
    Attack("19", "plans that cannot be honoured", "coordinator", "charged, not answered",
           _infeasible, trials=150),
]  # fmt: skip
