"""Rows 8, 9, 10 and residual ones: the ledger edited, cut, rolled back, or renewed by a clock.

The judge keeps its own account of every noisy answer that the attacker got. Success is an answer that a
partner's ledger does not show, or a period that begins anew.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from random import Random

from privacy.errors import RoundFailed, TallystickError
from protos import wire
from simulations.attacks.disk import copy_of, edit, put_back
from simulations.attacks.hostile import Hostile, count
from simulations.attacks.lab import TARGET, Lab, World
from simulations.attacks.table import Attack

DAY = 86_400.0
EXACT = 1e-6
"""Of a charge, for rounding in a head."""


def _answer(hostile: Hostile, epsilon: float, heads: Iterable[wire.Signed] = ()) -> float:
    """What a fresh answer of the bank should have cost, in mu^2; 0 where there was none."""
    opened = hostile.new(count(epsilon=epsilon))
    heads = list(heads)
    try:
        for name in hostile.gates:
            reply = hostile.hello(name, opened, heads if name == TARGET else ())
            opened.hellos.append(reply.hello)
        ask = wire.Prepare(hellos=opened.hellos)
        for name in hostile.gates:
            reply = hostile.send(name, opened.id, prepare=ask)
            opened.prepared.append(reply.prepared.statement)
            opened.shares.extend(reply.prepared.shares)
        answered = hostile.release(TARGET, opened, [0]).HasField("masked")
    except TallystickError:
        answered = False
    for name in hostile.gates:
        hostile.send(name, opened.id, cancel=wire.Cancel())
    return opened.job.mu2(hostile.contract) if answered else 0.0


def _mu2(hostile: Hostile) -> float:
    return hostile.gates[TARGET].ledger.total()[0]


def _fooled(world: World, truth: float, rng: Random, heads: Iterable[wire.Signed] = ()) -> bool:
    """Whether the bank gives an answer while its ledger says less than what it gave."""
    try:
        with world.room(patience=5.0) as (_, hostile):
            cost = 0.0
            for _ in range(rng.randint(1, 3)):
                cost += _answer(hostile, rng.choice([0.05, 0.5]), heads)
            return cost > 0.0 and _mu2(hostile) < (truth + cost) * (1.0 - EXACT)
    except TallystickError:
        return False  # the gate does not start


def _restored(lab: Lab, rng: Random) -> bool:
    """A backup is put back, and the coordinator leaves out, or invents, what the peers know of it."""
    with lab.world() as world:
        home = world.bank
        with world.room() as (room, hostile):
            for number in range(rng.randint(0, 2)):
                room.run(count(name=f"a{number}", epsilon=0.1))
            backup = copy_of(home)
            for number in range(rng.randint(1, 2)):
                room.run(count(name=f"b{number}", epsilon=rng.choice([0.3, 2.0])))
            truth = _mu2(hostile)
        put_back(home, backup)
        if rng.random() < 0.5:
            home.mark.unlink()
        heads: list[wire.Signed] = []
        if rng.random() < 0.5:  # a longer fork that spent nothing
            try:
                with world.room() as (_, hostile):
                    for number in range(rng.randint(3, 12)):
                        opened = hostile.new(count(name=f"c{number}", epsilon=0.01))
                        hostile.hello(TARGET, opened)
                        said = hostile.send(TARGET, opened.id, cancel=wire.Cancel())
                        heads = [said.finish.head]
            except TallystickError:
                return False
            put_back(home, backup)
        return _fooled(world, truth, rng, heads)


EDITS = [
    "UPDATE journal SET body = CAST(replace(CAST(body AS TEXT), 'mu2\":', 'mu2\":0.0000') AS BLOB)"
    " WHERE kind = 'charge'",
    "DELETE FROM journal WHERE kind = 'charge'",
    "UPDATE journal SET kind = 'note' WHERE kind = 'charge'",
    "UPDATE journal SET time = 0 WHERE kind = 'charge'",
    "DELETE FROM journal WHERE sequence > 2",
    "DELETE FROM journal WHERE sequence > (SELECT MAX(sequence) - 4 FROM journal)",
    "DELETE FROM journal",
    "INSERT INTO carried VALUES (0, '', 'x', -0.5, 0.0)",
    "DELETE FROM heads",
    "DELETE FROM releases",
    "UPDATE jobs SET state = 'open'",
    "DELETE FROM replies",
    "DELETE FROM vouched",
]


def _edited(lab: Lab, rng: Random) -> bool:
    """One to three statements of SQL while the gate is down, or while it runs."""
    with lab.world() as world:
        statements = rng.sample(EDITS, rng.randint(1, 3))
        with world.room() as (room, hostile):
            room.run(count(epsilon=2.0))
            room.run(count(name="second", epsilon=0.1))
            truth = _mu2(hostile)
            if rng.random() < 0.3:
                edit(world.bank, *statements)
                cost = _answer(hostile, 0.5)
                return cost > 0.0 and _mu2(hostile) < (truth + cost) * (1.0 - EXACT)
        edit(world.bank, *statements)
        if rng.random() < 0.5:
            world.bank.mark.unlink()
        return _fooled(world, truth, rng)


def _clock(lab: Lab, rng: Random) -> bool:
    """The bank's clock and up to c others are off by days, or a colluder states another time."""
    with lab.world("three") as world:
        with world.room() as (room, hostile):
            room.run(count(epsilon=2.0))
            truth = hostile.spent(TARGET)
        off = rng.choice([-800, -400, 1, 2, 366, 400, 800]) * DAY + rng.uniform(-DAY, DAY)
        return _with_clock(world, off, rng, lies=rng.random() < 0.5, truth=truth)


def _with_clock(world: World, off: float, rng: Random, *, lies: bool, truth: float) -> bool:
    heads: list[wire.Signed] = []
    if lies:
        head = wire.JournalHead(
            contract=world.alliance.contract.digest(), sequence=1 << 20, digest=bytes(32),
            time=int(time.time() + off),
        )  # fmt: skip
        heads = [wire.state(world.alliance.partners["shop"].identity(), "shop", head)]
    try:
        with world.room(clock=lambda: time.time() + off, patience=5.0) as (room, hostile):
            for name, gate in room.gates.items():
                if name != TARGET:
                    gate.clock = time.time  # the others' are right
                    gate.heads._clock = time.time
            _answer(hostile, 0.1, heads)
            return hostile.spent(TARGET) < truth * (1.0 - EXACT)
    except TallystickError:
        return False


def _all_clocks(lab: Lab, rng: Random) -> bool:
    """K = 2: the other partner's clock and this machine's are set ahead together."""
    with lab.world("two") as world:
        with world.room() as (room, hostile):
            room.run(count(epsilon=2.0))
            truth = hostile.spent(TARGET)
        off = rng.uniform(370, 800) * DAY
        with world.room(clock=lambda: time.time() + off) as (room, hostile):
            try:
                room.run(count(name="again", epsilon=0.1))
                room.run(count(name="more", epsilon=0.1))
            except RoundFailed:
                return False
            return hostile.spent(TARGET) < truth * (1.0 - EXACT)


def _all_restore(lab: Lab, rng: Random) -> bool:
    """All partners put their backups back together."""
    with lab.world() as world:
        with world.room() as (room, hostile):
            room.run(count(epsilon=0.1))
            backups = {n: copy_of(home) for n, home in world.alliance.partners.items()}
            room.run(count(name="second", epsilon=rng.uniform(0.5, 3.0)))
            truth = _mu2(hostile)
        for name, home in world.alliance.partners.items():
            put_back(home, backups[name])
        return _fooled(world, truth, rng)


def _whole_state(lab: Lab, rng: Random) -> bool:
    """All of ``state`` is put back in the middle of a job, over another table, and the coordinator asks
    again; success are two different answers for one charge."""
    with lab.world() as world:
        home, kept = world.bank, world.root / "kept"
        with world.room() as (_, hostile):
            opened = hostile.open(count())
        shutil.copytree(home.state, kept, ignore=shutil.ignore_patterns("*.sock"))
        vectors, charged = [], []
        for turn in range(2):
            if turn:
                shutil.rmtree(home.state)
                shutil.copytree(kept, home.state)
                lines = (world.root / f"{TARGET}.csv").read_text().splitlines()
                del lines[1 + rng.randrange(len(lines) - 1)]
                (world.root / f"{TARGET}.csv").write_text("\n".join(lines) + "\n")
            with world.room() as (_, hostile):
                reply = hostile.release(TARGET, opened, [0])
                vectors.append(
                    bytes(reply.masked.vectors[0].vector) if reply.masked.vectors else b""
                )
                charged.append(hostile.charged(TARGET))
        return all(vectors) and vectors[0] != vectors[1] and charged == [1, 1]


def _old_head(lab: Lab, rng: Random) -> bool:
    """An honest backup is put back, and the coordinator brings a head of a job that was open then and was
    cancelled since: its whole price is charged."""
    with lab.world() as world:
        with world.room() as (_, hostile):
            backup = copy_of(world.bank)
            opened = hostile.open(count(epsilon=rng.uniform(0.5, 3.0)))
            wire_head = hostile.gates[TARGET].heads.own()
            hostile.send(TARGET, opened.id, cancel=wire.Cancel())
        put_back(world.bank, backup)
        with world.room() as (_, hostile):
            before = _mu2(hostile)
            hostile.hello(TARGET, hostile.new(count(epsilon=0.01)), [wire_head])
            return _mu2(hostile) > before + opened.job.mu2(hostile.contract) * 0.99


def _liar(lab: Lab, rng: Random) -> bool:
    """One of three states a wrong time; success: the others' gates refuse an honest job."""
    with lab.world() as world:
        off = rng.choice([-1, 1]) * rng.uniform(3, 400) * DAY
        with world.room() as (room, _):
            room.run(count(epsilon=1.0))
        with world.room(patience=5.0) as (room, _):
            room.gates["shop"].heads._clock = lambda: time.time() + off
            try:
                room.run(count(name="after", epsilon=0.1))
            except RoundFailed:
                return True
            return False


ATTACKS = [
    Attack("8", "a backup put back, heads left out", "insider, coordinator", "an answer not charged",
           _restored, trials=40),
    Attack("9", "charges edited, journal cut", "insider, coordinator", "an answer not charged",
           _edited, trials=40),
    Attack("10", "clocks off by days, one liar", "insider, partner", "the period is renewed",
           _clock, trials=40),
    Attack("R", "both clocks ahead, K = 2", "insider, partner", "the period is renewed", _all_clocks,
           trials=10, breaks="c + 1 others confirm the time"),
    Attack("R", "all restore together", "K insiders", "an answer not charged", _all_restore,
           trials=10, breaks="one other partner keeps its journal"),
    Attack("R", "all of state put back in a job", "insider, coordinator", "two draws, one charge",
           _whole_state, trials=10, breaks="the disk is not rolled back as a whole"),
    Attack("R", "an old head after an honest restore", "coordinator", "charged for a cancelled job",
           _old_head, trials=10, breaks="none: conservative"),
    Attack("R", "one partner states a wrong time", "partner", "the others refuse", _liar, trials=10,
           breaks="availability only"),
]  # fmt: skip
