"""SIGKILL between any two statements of a message: no charge lost, no second draw, no reply without a charge.

Each run is a process of its own that ends itself with SIGKILL before its n-th statement; then a new gate
opens what is there. Linux and macOS (fork)."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from client.gate import Delivery, Gate
from client.home import Home
from client.journal import verify
from client.store import Store
from protos import wire
from simulations.alliances import Alliance
from simulations.room import Room
from tests.attacks.hostile import Hostile, Opened, count
from tests.conftest import SEGMENT, job

WRITES = ("BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE")


class Mortal(sqlite3.Connection):
    """Ends the process before statement number ``left``."""

    left = 1 << 30

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
        if sql.lstrip().startswith(WRITES):
            Mortal.left -= 1
            if Mortal.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(sql, *values)


def handled_until_killed(home: Home, envelope: bytes, after: int) -> bool:
    """Whether a gate that lives for ``after`` statements got through the message."""
    child = os.fork()
    if child == 0:
        try:
            gate = Gate(
                home, randomness=os.urandom, clock=time.time, patience=60.0,
                store=partial(Store, connection=Mortal),
            )  # fmt: skip
            Mortal.left = after
            gate.handle(envelope, Delivery())
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL
    return os.WIFEXITED(status)


def opened_at(home: Home) -> Gate:
    return Gate(home, randomness=os.urandom, clock=time.time, patience=60.0)


class Scene:
    """A job that stands just before a message, to be set up again as often as wanted."""

    def __init__(self, alliance: Alliance, opened: Opened, saved: Path) -> None:
        self.alliance, self.opened, self.saved = alliance, opened, saved
        self.home = alliance.partners["bank"]

    def again(self) -> None:
        shutil.rmtree(self.home.state)
        shutil.copytree(self.saved, self.home.state)


@pytest.fixture
def scene(make_alliance: Callable[..., Alliance], tmp_path: Path) -> Scene:
    alliance = make_alliance()
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        opened = hostile.open(job(**SEGMENT))
    saved = tmp_path / "saved"
    shutil.copytree(alliance.partners["bank"].state, saved)
    return Scene(alliance, opened, saved)


def state_of(opened: Opened, contract: Any) -> bytes:
    return opened.job.program(contract).state().astype("<f8").tobytes()


@pytest.mark.slow
def test_a_release_that_is_killed_anywhere_is_charged_once_and_drawn_once(scene: Scene) -> None:
    opened, home = scene.opened, scene.home
    state = state_of(opened, scene.alliance.contract)
    gate = opened_at(home)
    reference = Hostile(scene.alliance, {"bank": gate}).release("bank", opened, [0], state)
    price = gate.ledger.total()
    gate.close()
    wanted = reference.masked.vectors[0].vector
    killed, seen = 0, set()
    for after in range(400):
        scene.again()
        evil = Hostile(scene.alliance, {"bank": None})  # type: ignore[dict-item]
        release = wire.Release(indexes=[0], state=state, prepared=opened.prepared)
        through = handled_until_killed(
            home, evil.envelope("bank", opened.id, release=release), after
        )
        gate = opened_at(home)
        charged = gate.ledger.standing().releases
        replied = gate.store.rows("SELECT 1 FROM replies WHERE step = 'release 0'") != []
        seen.add((charged, replied))
        assert not replied or charged == 1
        again = Hostile(scene.alliance, {"bank": gate}).release("bank", opened, [0], state)
        assert again.masked.vectors[0].vector == wanted  # no second draw
        assert gate.ledger.total() == price  # no second charge, none lost
        verify(gate.store, gate.identity.public_key().public_bytes_raw())
        gate.close()
        if through:
            break
        killed += 1
    assert killed > 20
    assert seen == {(0, False), (1, False), (1, True)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hello", "prepare", "cancel", "finish"])
def test_any_other_message_that_is_killed_anywhere_can_be_sent_again(
    scene: Scene, make_alliance: Callable[..., Alliance], kind: str
) -> None:
    opened, home = scene.opened, scene.home
    new = Opened(count(), "", os.urandom(16))
    for after in range(400):
        scene.again()
        evil = Hostile(scene.alliance, {"bank": None})  # type: ignore[dict-item]
        if kind == "hello":
            target = evil.new(new.job)
            body = {"hello": wire.Hello(spec=target.job.canonical(), salt=target.salt)}
        else:
            target = opened
            body = {
                "prepare": {"prepare": wire.Prepare(hellos=opened.hellos)},
                "cancel": {"cancel": wire.Cancel()},
                "finish": {"finish": wire.Finish()},
            }[kind]
        through = handled_until_killed(home, evil.envelope("bank", target.id, **body), after)
        gate = opened_at(home)
        hostile = Hostile(scene.alliance, {"bank": gate})
        expected = {"hello": "hello", "prepare": "prepared"}.get(kind, "finish")
        assert hostile.code("bank", target.id, **body) == expected
        verify(gate.store, gate.identity.public_key().public_bytes_raw())
        assert gate.ledger.standing().releases == 0
        if kind in ("cancel", "finish"):
            assert gate.store.rows("SELECT * FROM secrets") == []
            assert list((home.state / "jobkeys").iterdir()) == []
        gate.close()
        if through:
            break
    else:
        pytest.fail("the message never got through")


@pytest.mark.slow
def test_a_gate_that_charges_after_it_answered_would_be_found(scene: Scene) -> None:
    """The planted bug: noise that is drawn afresh, not from the job's key. The same kill finds a second
    draw."""
    opened, home = scene.opened, scene.home
    state = state_of(opened, scene.alliance.contract)
    drawn = set()
    for _ in range(2):
        scene.again()
        gate = opened_at(home)
        gate.store.put_secret(opened.id, "noise", os.urandom(32))  # type: ignore[arg-type]
        found = Hostile(scene.alliance, {"bank": gate}).release("bank", opened, [0], state)
        drawn.add(found.masked.vectors[0].vector)
        gate.close()
    assert len(drawn) == 2
