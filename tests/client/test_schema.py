"""A partner's database of 0.3.0, and of versions to come."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client import schema
from client.gate import Gate
from client.home import Home
from client.journal import CARRIED, verify
from client.store import Store
from privacy.errors import ConfigError
from simulations.alliances import Alliance

V030 = Path(__file__).parent.parent / "vectors" / "v030"
FROZEN: dict[str, Any] = json.loads((V030 / "frozen.json").read_text())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The frozen partner, with the modes that a clone does not keep."""
    shutil.copytree(V030 / "partner", tmp_path / "bank")
    for key in (tmp_path / "bank" / "keys").iterdir():
        key.chmod(0o600)
    return Home(tmp_path / "bank")


def test_a_database_of_030_goes_on_with_its_ledger_and_its_journal(home: Home) -> None:
    gate = Gate(home, randomness=os.urandom, clock=time.time)
    assert gate.store.row("PRAGMA user_version") == (schema.VERSION,)
    standing, was = gate.ledger.standing(), FROZEN["spent"]
    assert standing.epsilon == pytest.approx(was["epsilon"])
    assert standing.person == pytest.approx(was["person"])
    assert standing.releases == was["releases"]
    found = verify(gate.store, gate.identity.public_key().public_bytes_raw())
    entries = FROZEN["journal"]["entries"]
    assert found.entries == entries + 1  # one that takes the charges in
    assert gate.journal.at(entries) == bytes.fromhex(FROZEN["journal"]["digest"])
    assert gate.store.rows("SELECT kind FROM journal WHERE sequence > ?", entries) == [(CARRIED,)]
    gate.close()
    again = Gate(home, randomness=os.urandom, clock=time.time)
    assert again.ledger.standing().releases == was["releases"]  # once
    again.close()


def test_what_cannot_go_on_is_over_and_its_secrets_are_gone(home: Home) -> None:
    gate = Gate(home, randomness=os.urandom, clock=time.time)
    states = dict(gate.store.rows("SELECT id, state FROM jobs"))
    assert states[FROZEN["open_job"]] == "abandoned"
    assert set(states.values()) == {"abandoned", "done"}
    for table in ("secrets", "replies", "releases"):
        assert gate.store.rows(f"SELECT * FROM {table}") == []
    assert list(home.matches.iterdir()) == []
    gate.close()


def test_a_model_of_030_is_for_its_owner_and_not_for_rules(home: Home) -> None:
    gate = Gate(home, randomness=os.urandom, clock=time.time)
    assert gate.models.find("segment", unverified=True).verified is False
    with pytest.raises(ConfigError, match=r"of 0\.3\.0"):
        gate.models.find("model:segment")
    gate.close()


class Interrupted(sqlite3.Connection):
    """Fails at statement number ``left`` of the migration."""

    left = 0

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
        if not sql.startswith(("PRAGMA", "ROLLBACK")):
            Interrupted.left -= 1
            if Interrupted.left < 0:
                raise KeyboardInterrupt
        return super().execute(sql, *values)


@pytest.mark.parametrize("after", [0, 1, 5, 12, 20, 30, 38])
def test_an_interrupted_migration_leaves_what_was_there(home: Home, after: int) -> None:
    with sqlite3.connect(home.database) as direct:
        before = list(direct.iterdump())
    Interrupted.left = after
    with pytest.raises(KeyboardInterrupt):
        Store(home.database, home.storage_key(), os.urandom, connection=Interrupted)
    with sqlite3.connect(home.database) as direct:
        assert list(direct.iterdump()) == before
    gate = Gate(home, randomness=os.urandom, clock=time.time)
    assert gate.ledger.standing().releases == FROZEN["spent"]["releases"]
    gate.close()


def test_a_database_of_a_later_version_is_left_alone(
    make_alliance: Callable[..., Alliance],
) -> None:
    home = make_alliance().partners["bank"]
    Store(home.database, home.storage_key(), os.urandom).close()
    with sqlite3.connect(home.database) as direct:
        direct.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        before = list(direct.iterdump())
    with pytest.raises(ConfigError, match="later version"):
        Store(home.database, home.storage_key(), os.urandom)
    with sqlite3.connect(home.database) as direct:
        assert list(direct.iterdump()) == before


def test_a_database_of_040_goes_on(make_alliance: Callable[..., Alliance]) -> None:
    home = make_alliance().partners["bank"]
    home.prepare()
    with sqlite3.connect(home.database) as direct:
        direct.executescript(schema.TABLES)
        direct.execute("PRAGMA user_version = 1")
        direct.execute("INSERT INTO vouched VALUES ('shop', 7, 9)")
    direct.close()
    gate = Gate(home, randomness=os.urandom, clock=time.time)
    assert gate.store.row("PRAGMA user_version") == (schema.VERSION,)
    assert gate.store.rows("SELECT * FROM vouched") == [("shop", 7, 9)]
    assert gate.store.rows("SELECT 1 FROM calls UNION ALL SELECT 1 FROM calls_noted") == []
    gate.close()
    Gate(home, randomness=os.urandom, clock=time.time).close()


def test_a_new_database_and_a_migrated_one_have_the_same_tables(home: Home, tmp_path: Path) -> None:
    def tables(path: Path) -> dict[str, str]:
        store = Store(path, bytes(32), os.urandom)
        found = dict(store.rows("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        store.close()
        return found

    assert tables(home.database) == tables(tmp_path / "new.db")
