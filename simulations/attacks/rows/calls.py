"""Row 30: the coordinator's log of calls, cut, rewritten, grown again or taken away by who has its disk."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from random import Random
from typing import Any

from server import doctor
from server.app import drive
from server.calls import GENESIS, CallLog
from server.cli import submit
from server.home import Home
from server.store import Store
from simulations.attacks.bent import BentTransport
from simulations.attacks.hostile import count
from simulations.attacks.lab import Lab
from simulations.attacks.table import Attack


def _log(home: Home, calls: int, rng: Random) -> None:
    log = CallLog(home.calls)
    for _ in range(calls):
        log.append(
            {"actor": {"ip_address": f"198.51.100.{rng.randrange(256)}"}, "call": rng.random()}
        )
    log.close()


def _rewritten(path: Path, lines: list[bytes]) -> None:
    """A log that holds together: every line has the hash of the one before."""
    previous, made = GENESIS, b""
    for line in lines:
        plain: dict[str, Any] = json.loads(line) | {"prev": previous}
        data = json.dumps(plain, sort_keys=True).encode()
        previous, made = hashlib.sha256(data).hexdigest(), made + data + b"\n"
    path.write_bytes(made)


def _hidden(lab: Lab, rng: Random) -> bool:
    """After a job, at which partners saw the log's head; success: ``doctor`` has nothing against the log."""
    with lab.world("two") as world, world.room() as (room, _):
        home = world.alliance.coordinator
        home.state.mkdir(exist_ok=True)
        _log(home, rng.randint(4, 12), rng)
        row = submit(home, count(epsilon=0.1))
        store = Store(home.database, time.time)
        drive(home, store, BentTransport(world.alliance, room.gates, None), row.id)
        store.close()
        lines = home.calls.read_bytes().splitlines()
        how = rng.randrange(5)
        if how == 0:
            _rewritten(home.calls, lines[: -rng.randint(1, 3)])
        elif how == 1:
            at = rng.randrange(len(lines))
            _rewritten(
                home.calls, [*lines[:at], lines[at].replace(b"198.51", b"203.0"), *lines[at + 1 :]]
            )
        elif how == 2:
            at = rng.randrange(len(lines))
            _rewritten(home.calls, [*lines[:at], *lines[at + 1 :], lines[-1]])
        elif how == 3:
            _rewritten(home.calls, lines[:-2])
            _log(home, 20, rng)
        else:
            home.calls.unlink()
        found = [good for good, subject, _ in doctor.examine(home) if subject == "call log"]
        return not found or all(found)


ATTACKS = [
    Attack("30", "the call log cut or rewritten", "insider (coordinator)", "doctor finds nothing", _hidden,
           trials=30),
]  # fmt: skip
