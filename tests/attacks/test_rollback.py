"""Rows 8, 9 and 10: the ledger is part of the journal. It cannot be edited, cut, rolled back or renewed by a
clock without the next message finding out."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client.gate import Gate
from client.home import Home
from client.journal import BrokenJournal, verify
from privacy.errors import RoundFailed
from protos import wire
from protos.refusal import Code
from simulations.alliances import Alliance
from simulations.room import Room
from tests.attacks.hostile import Hostile, count

DAY = 86_400.0


def copy_of(home: Home) -> Path:
    """A backup of the database as an operator would make it."""
    target = home.root / "backup.db"
    with sqlite3.connect(home.database) as source, sqlite3.connect(target) as copy:
        source.backup(copy)
    return target


def put_back(home: Home, backup: Path) -> None:
    for suffix in ("-wal", "-shm"):
        home.database.with_name(home.database.name + suffix).unlink(missing_ok=True)
    shutil.copy(backup, home.database)


def public(gate: Gate) -> bytes:
    return gate.identity.public_key().public_bytes_raw()


def test_a_restored_backup_is_found_though_the_coordinator_leaves_the_heads_out(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance(epsilon=4.0, epsilon_per_person=12.0)
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        room.run(count(epsilon=0.5))
        backup = copy_of(home)
    with Room(alliance) as room:
        room.run(count(name="second", epsilon=3.4))
        spent, mu2 = room.gates["bank"].ledger.standing().epsilon, room.gates["bank"].ledger.total()
        old = room.gates["bank"].journal.head()
    put_back(home, backup)
    with Room(alliance) as room:  # it knows no heads: the coordinator brings none
        hostile, gate = Hostile(alliance, room.gates), room.gates["bank"]
        assert gate.ledger.standing().epsilon < 1.0
        assert gate.journal.head() < old
        opened = hostile.new(count(name="third", epsilon=0.1))
        opened.hellos = [hostile.hello(name, opened).hello for name in room.gates]
        ask = wire.Prepare(hellos=opened.hellos)
        assert hostile.code("bank", opened.id, prepare=ask) == Code.ROLLED_BACK
        # An honest owner goes on from the highest head that the peers hold, charged with the difference.
        assert gate.ledger.total()[0] == pytest.approx(mu2[0], rel=1e-6)
        assert gate.ledger.standing().epsilon == pytest.approx(spent, rel=1e-3)
        assert (
            gate.journal.head()[0] > old[0] - 5
        )  # entries that no peer saw are lost, no charge is
        with pytest.raises(RoundFailed, match="ledger_exhausted"):
            room.run(count(name="fourth", epsilon=3.4))
        room.run(count(name="fifth", epsilon=0.05))
        assert verify(gate.store, public(gate)).mu2 >= mu2[0]


def test_without_the_peers_statements_the_same_attack_succeeds(
    make_alliance: Callable[..., Alliance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: gates that compare nothing, as in 0.3.0 when the coordinator left the heads out."""
    alliance = make_alliance(epsilon=4.0, epsilon_per_person=12.0)
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        backup = copy_of(home)
        room.run(count(name="second", epsilon=3.4))
    put_back(home, backup)
    with Room(alliance) as room:
        for gate in room.gates.values():
            monkeypatch.setattr(gate.heads, "take", lambda statements: None)
            monkeypatch.setattr(gate.heads, "note", lambda heads: None)
        room.run(count(name="again", epsilon=0.1))
        assert room.gates["bank"].ledger.standing().epsilon < 0.2
        assert room.gates["shop"].ledger.standing().epsilon > 3.3


def test_an_open_job_does_not_survive_a_restore(make_alliance: Callable[..., Alliance]) -> None:
    """A gate that lost its state abandons every open job: no second draw for one charge."""
    alliance = make_alliance()
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        opened = hostile.open(count())
        backup = copy_of(home)
        hostile.release("bank", opened, [0])
        room.run(count(name="other"))
    put_back(home, backup)
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        new = hostile.new(count(name="new"))
        new.hellos = [hostile.hello(name, new).hello for name in room.gates]
        ask = wire.Prepare(hellos=new.hellos)
        assert hostile.code("bank", new.id, prepare=ask) == Code.ROLLED_BACK
        assert hostile.release("bank", opened, [0]).refusal.code == Code.JOB_CLOSED


def test_a_restore_in_the_middle_of_a_job_gives_the_same_bytes(
    make_alliance: Callable[..., Alliance],
) -> None:
    """Before any peer can tell, the same release is the same draw: noise is a function of what it hides."""
    alliance = make_alliance()
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        opened = hostile.open(count())
        backup = copy_of(home)
        first = hostile.release("bank", opened, [0])
    put_back(home, backup)
    with Room(alliance) as room:
        again = Hostile(alliance, room.gates).release("bank", opened, [0])
        assert again.masked.vectors[0].vector == first.masked.vectors[0].vector


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE journal SET body = CAST(replace(CAST(body AS TEXT), 'mu2\":', 'mu2\":0.0000') AS BLOB)"
        " WHERE kind = 'charge'",
        "DELETE FROM journal WHERE kind = 'charge'",
        "UPDATE journal SET kind = 'note' WHERE kind = 'charge'",
        "UPDATE journal SET time = 0 WHERE kind = 'charge'",
    ],
)
def test_charges_edited_in_sql_stop_the_gate(
    make_alliance: Callable[..., Alliance], edit: str
) -> None:
    alliance = make_alliance(epsilon=4.0, epsilon_per_person=12.0)
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        room.run(count(epsilon=3.4))
        public_key = public(room.gates["bank"])
        hostile = Hostile(alliance, room.gates)
        with sqlite3.connect(home.database) as direct:
            assert direct.execute(edit).rowcount >= 1
        with pytest.raises(BrokenJournal):
            verify(room.gates["bank"].store, public_key)
        # The running gate holds its sums in memory: nothing was renewed.
        assert hostile.hello("bank", hostile.new(count(epsilon=3.4))).refusal.code == Code.LEDGER
    with pytest.raises(BrokenJournal, match="edited at entry"):
        Gate(home, randomness=os.urandom, clock=time.time)


def test_a_journal_cut_at_its_end_is_found_by_the_next_message(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance(epsilon=4.0, epsilon_per_person=12.0)
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        room.run(count(epsilon=3.0))
        before = verify(room.gates["bank"].store, public(room.gates["bank"]))
        room.run(count(name="second", epsilon=0.1))
        vouched = verify(room.gates["bank"].store, public(room.gates["bank"]))
    assert vouched.entries > before.entries >= vouched.vouched > 0
    with sqlite3.connect(home.database) as direct:
        direct.execute("DELETE FROM journal WHERE sequence > 2")
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        opened = hostile.new(count(name="third", epsilon=0.1))
        opened.hellos = [hostile.hello(name, opened).hello for name in room.gates]
        ask = wire.Prepare(hellos=opened.hellos)
        assert hostile.code("bank", opened.id, prepare=ask) == Code.ROLLED_BACK
        assert hostile.hello("bank", hostile.new(count(epsilon=3.4))).refusal.code == Code.LEDGER


@pytest.mark.parametrize("days", [-400, -2, 2, 400])
def test_a_clock_renews_nothing_and_asks_the_operator(
    make_alliance: Callable[..., Alliance], days: int
) -> None:
    alliance, now = make_alliance(epsilon=4.0, epsilon_per_person=12.0), time.time()
    with Room(alliance) as room:
        room.run(count(epsilon=3.4))
        spent = room.gates["bank"].ledger.standing().epsilon
    off = [days * DAY]
    with Room(alliance) as room:
        bank = Gate(alliance.partners["bank"], randomness=os.urandom, clock=lambda: now + off[0])
        room.gates["bank"].close()
        room.gates["bank"] = bank
        assert bank.ledger.standing().epsilon == pytest.approx(spent)
        hostile = Hostile(alliance, room.gates)
        opened = hostile.new(count(name="again", epsilon=0.1))
        for name in room.gates:
            hostile.clock = lambda n=name: now + (off[0] if n == "bank" else 0.0)
            opened.hellos.append(hostile.hello(name, opened).hello)
        hostile.clock = lambda: now + off[0]
        ask = wire.Prepare(hellos=opened.hellos)
        assert hostile.code("bank", opened.id, prepare=ask) == Code.CLOCK
        reasons = bank.store.rows("SELECT reason FROM refusals WHERE code = 'clock'")
        assert f"{abs(days)}.0 days {'ahead of' if days > 0 else 'behind'}" in reasons[0][0]
        assert bank.ledger.standing().epsilon == pytest.approx(spent)
        off[0] = 0.0
        hostile.clock = time.time
        again = hostile.open(count(name="third", epsilon=0.1))
        assert hostile.release("bank", again, [0]).HasField("masked")


def test_the_period_moves_with_c_plus_one_others_and_not_with_c(
    make_alliance: Callable[..., Alliance],
) -> None:
    """K = 3, c = 1: two others must say so. One that lies about the time moves nothing."""
    alliance, now = make_alliance(epsilon=4.0, epsilon_per_person=12.0), [time.time()]
    with Room(alliance, clock=lambda: now[0]) as room:
        room.run(count(epsilon=3.4))
        bank = room.gates["bank"]
        liar = alliance.partners["shop"].identity()
        head = wire.JournalHead(
            contract=alliance.contract.digest(), sequence=1 << 20, digest=bytes(32),
            time=int(now[0] + 400 * DAY),
        )  # fmt: skip
        bank.heads.note([wire.state(liar, "shop", head)])
        assert bank.ledger.standing().epsilon > 3.0
        now[0] += 400 * DAY
        assert bank.ledger.standing().epsilon > 3.0  # this clock and one other: not enough
        now[0] -= 400 * DAY
        other = alliance.partners["telecom"].identity()
        bank.heads.note([wire.state(other, "telecom", head)])
        assert bank.ledger.standing().epsilon > 3.0  # two others, but not this clock
        now[0] += 400 * DAY
        assert bank.ledger.standing().epsilon == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": (1 << 63) - 1}, {"sequence": 1 << 62 | 1}, {"mu2": float("nan")},
        {"mu2": float("inf")}, {"delta": -1.0}, {"digest": b"short"}, {"contract": bytes(32)},
        {"time": 1 << 50},
    ],
)  # fmt: skip
def test_a_head_out_of_bounds_is_refused_and_not_kept(
    room: Room, hostile: Hostile, change: dict[str, object]
) -> None:
    fields = {
        "contract": hostile.digest, "sequence": 7, "digest": bytes(32), "time": int(time.time()),
        "mu2": 0.0, "delta": 0.0,
    } | change  # fmt: skip
    key = room.alliance.partners["shop"].identity()
    head = wire.state(key, "shop", wire.JournalHead(**fields))  # type: ignore[arg-type]
    opened = hostile.new(count())
    assert hostile.hello("bank", opened, [head]).refusal.code == Code.PROTOCOL
    assert room.gates["bank"].store.rows("SELECT * FROM heads") == []
