"""Rows 7 and 11, and residual ones: what lies on a partner's disk."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import duckdb
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privacy.errors import TallystickError
from protos import wire
from protos.addresses import JobId
from simulations.attacks.disk import copy_of, edit, everything, put_back
from simulations.attacks.hostile import count
from simulations.attacks.killed import ROWS, SELECT, clear, killed
from simulations.attacks.lab import TARGET, Lab, matching
from simulations.attacks.table import Attack
from simulations.audiences import EVERYONE, define, freeze_all

BOTH: dict[str, Any] = {"audiences": {"bank": EVERYONE, "shop": EVERYONE}}


def _killed(lab: Lab, rng: Random) -> bool:
    """SIGKILL at any moment of reading a table; success: a clear key or address in any file."""

    def start() -> Path:
        place = lab.root / "tables"
        place.mkdir()
        with duckdb.connect(str(place / "t.duckdb")) as db:
            db.execute(f"CREATE TABLE people AS {SELECT.format(ROWS)}")
            db.execute(f"COPY people TO '{place / 't.csv'}' (HEADER)")
            db.execute(f"COPY people TO '{place / 't.parquet'}' (FORMAT parquet)")
        return place

    tables = lab.once("tables", start)
    name = rng.choice(["t.csv", "t.parquet", "t.duckdb"])
    how, moment = rng.choice([("read", "part"), ("batches", "part"), ("batches", "batch")])
    with lab.folder() as folder:
        table = "people" if name == "t.duckdb" else ""
        killed(folder, str(tables / name), table, how, moment, 1, rng.uniform(0.0, 0.3))
        return bool(clear(folder))


def _kept_keys(lab: Lab, rng: Random) -> bool:
    """The disk and storage.key after a job ended; success: a key of the job, or one that opens its rows."""
    with lab.world() as world, world.room() as (room, hostile):
        gate, home = room.gates[TARGET], world.bank
        opened = hostile.open(count(epsilon=0.1))
        job = JobId(opened.id)
        secrets = [gate.store.secret(job, name) for name in ("keys", "noise", "sealing")]
        sealed = [bytes(row[0]) for row in gate.store.rows("SELECT sealed FROM secrets")]
        keys = [path.read_bytes() for path in (home.state / "jobkeys").iterdir()]
        if rng.random() < 0.7:
            hostile.release(TARGET, opened, [0])
        end = {"finish": wire.Finish()} if rng.random() < 0.5 else {"cancel": wire.Cancel()}
        hostile.send(TARGET, opened.id, **end)
        left = everything(home.root)
        if any(secret in left for secret in [*secrets, *keys] if secret):
            return True
        return any(_opens(home.storage_key(), row) for row in sealed)


def _opens(key: bytes, sealed: bytes) -> bool:
    try:
        ChaCha20Poly1305(key).decrypt(sealed[:12], sealed[12:], b"")
    except InvalidTag:
        return False
    return True


def _uses(lab: Lab, rng: Random, *, restored: bool) -> bool:
    """More lists than an epoch may serve for, by an edit of its uses or a backup of the database."""
    with lab.world("two") as world:
        for name, home in world.alliance.partners.items():
            define(home, uses=1 if name == TARGET else 9)
            freeze_all(home)
        lists = 0
        backup = copy_of(world.bank)
        for turn in range(2):
            if turn and restored:
                put_back(world.bank, backup)
            elif turn:
                edit(world.bank, "UPDATE epochs SET used = 0", "DELETE FROM disclosures")
            with world.room() as (room, _):
                if turn and restored:  # no peer may have seen a later head
                    room.gates["shop"].store.execute("DELETE FROM heads")
                try:
                    room.run(matching("list", **BOTH))
                    lists += 1
                except TallystickError:
                    continue
        return lists == 2


def _edited(lab: Lab, rng: Random) -> bool:
    return _uses(lab, rng, restored=False)


def _behind(lab: Lab, rng: Random) -> bool:
    return _uses(lab, rng, restored=True)


ATTACKS = [
    Attack("7", "SIGKILL while a table is read", "insider", "a clear row in any file", _killed),
    Attack("11", "keys of a job that ended", "insider", "a key, or what one opens", _kept_keys, trials=30),
    Attack("R", "uses of an epoch edited", "insider", "a list beyond the limit", _edited, trials=10,
           breaks="the partner's own disk"),
    Attack("R", "a database nobody saw a later head of", "insider", "a list beyond the limit", _behind,
           trials=10, breaks="one other partner saw a later head"),
]  # fmt: skip
