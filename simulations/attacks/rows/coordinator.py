"""Rows 22 and 23: a partner whose statements and values end the coordinator's work, or blame another."""

from __future__ import annotations

import json
import time
from random import Random
from typing import Any

from privacy.errors import TallystickError
from server.app import drive
from server.cli import app as coordinator_app
from server.cli import submit
from server.store import Store
from simulations.attacks.bent import EVIL, BentTransport
from simulations.attacks.hostile import count, job
from simulations.attacks.lab import Lab, World, matching
from simulations.attacks.rows.screens import _harmless, shown_by
from simulations.attacks.table import Attack
from simulations.room import Room

LARGE = 8 << 20
"""Bytes by which a coordinator's store may grow over one job."""


class Died(Exception):
    """The coordinator's worker ended by an exception."""


def _driven(world: World, room: Room, wanted: Any, rng: Random | None) -> Any:
    """A job as the coordinator's worker drives it, and its row afterwards. Raises Died."""
    home = world.alliance.coordinator
    row = submit(home, wanted)
    store = Store(home.database, time.time)
    try:
        drive(home, store, BentTransport(world.alliance, room.gates, rng), row.id)
        return store.job(row.id)
    except TallystickError as error:
        raise Died from error
    except Exception as error:
        raise Died from error
    finally:
        store.close()


def _blames_another(world: World, row: Any) -> bool:
    """A job that failed for a reason which names an honest partner, and not the one that lied."""
    others = [name for name in world.alliance.partners if name != EVIL]
    return row.state != "done" and EVIL not in row.reason and any(n in row.reason for n in others)


def _statements(lab: Lab, rng: Random) -> bool:
    """Any field of any reply and statement to its limits; afterwards the partner is honest again. Success:
    the worker dies, an honest partner is blamed, a later honest job fails without naming who lied, or the
    store grows by 8 MB."""
    asked = [count(epsilon=0.1), job(name="s", kind="segment", epsilon=0.1,
                                     segment={"columns": ["age"], "segments": 2})]  # fmt: skip
    return _spoiled(lab, rng, rng.choice(["three", "four"]), rng.choice(asked))


def _values(lab: Lab, rng: Random) -> bool:
    """Figures, progress and names of engines of a match; success besides: raw controls on the screen of
    ``results``, or JSON that is none."""
    return _spoiled(lab, rng, "two", matching("size", 0.5, parties=["shop", "bank"]))


def _spoiled(lab: Lab, rng: Random, kind: str, wanted: Any) -> bool:
    with lab.world(kind) as world:
        home = world.alliance.coordinator
        try:
            with Room(world.alliance, patience=5.0) as room:
                _driven(world, room, count(name="first", epsilon=0.1), None)
                size = home.database.stat().st_size
                row = _driven(world, room, wanted, rng)
                if _blames_another(world, row):
                    return True
                if home.database.stat().st_size - size > LARGE:
                    return True
                screen = shown_by(
                    coordinator_app, ["results", row.id[:8], "--home", str(home.root)]
                )
                if not _harmless(screen) or (row.state == "done" and not _is_json(screen)):
                    return True
            with Room(world.alliance, patience=5.0) as room:
                after = _driven(world, room, count(name="after", epsilon=0.1), None)
            return after.state != "done" and EVIL not in after.reason
        except Died:
            return True


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return False
    return True


def _no_constant(name: str) -> Any:
    raise ValueError(name)


ATTACKS = [
    Attack("22", "statements bent and signed", "partner", "worker dead, another blamed", _statements,
           trials=60),
    Attack("23", "figures, progress, texts bent", "partner", "worker dead, controls, no JSON", _values,
           trials=40),
]  # fmt: skip
