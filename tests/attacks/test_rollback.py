"""Rows 8, 9 and 10: the ledger is part of the journal. It cannot be edited, cut, rolled back or renewed by a
clock without the next message finding out."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.gate import Gate
from client.journal import BrokenJournal, Charge, verify
from privacy.errors import RoundFailed
from protos import wire
from protos.alliance import dump
from protos.identity import encode
from protos.refusal import Code
from simulations.alliances import Alliance
from simulations.attacks.disk import copy_of, put_back
from simulations.room import Room
from tests.attacks.hostile import Hostile, count

DAY = 86_400.0


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


@pytest.mark.parametrize("whole", [False, True])
def test_a_restore_in_the_middle_of_a_job(
    make_alliance: Callable[..., Alliance], whole: bool
) -> None:
    """A database that is behind the gate's own mark has no open jobs. Where all of ``state`` was put back,
    the same release over the same table is the same draw: noise is a function of what it hides."""
    alliance = make_alliance()
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        opened = hostile.open(count())
        backup = copy_of(home)
        first = hostile.release("bank", opened, [0])
    put_back(home, backup)
    if whole:
        home.mark.unlink()
    with Room(alliance) as room:
        again = Hostile(alliance, room.gates).release("bank", opened, [0])
        if whole:
            assert again.masked.vectors[0].vector == first.masked.vectors[0].vector
        else:
            assert again.refusal.code == Code.JOB_CLOSED


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
        {"mu2": float("inf")}, {"delta": -1.0}, {"digest": b"short"},
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


def later(alliance: Alliance, spent: float) -> Room:
    """A room after a restore, its bank knowing nothing of what it spent."""
    room = Room(alliance)
    assert room.gates["bank"].ledger.standing().epsilon < spent / 2
    return room


def test_a_row_that_only_the_migration_writes_lowers_nothing(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance(epsilon=4.0, epsilon_per_person=12.0)
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        room.run(count(epsilon=3.0))
        mu2 = room.gates["bank"].ledger.total()[0]
    for charge in (-mu2, mu2):
        with sqlite3.connect(home.database) as direct:
            direct.execute("DELETE FROM carried")
            direct.execute("INSERT INTO carried VALUES (?, '', 'x', ?, 0.0)", (time.time(), charge))
        with pytest.raises(BrokenJournal):
            Gate(home, randomness=os.urandom, clock=time.time)


def test_a_restore_behind_a_cheap_head_of_a_longer_fork_forgets_nothing(
    make_alliance: Callable[..., Alliance],
) -> None:
    """Restored twice: the second time with a head that is further on and says that little was spent."""
    alliance = make_alliance(epsilon=4.0, epsilon_per_person=12.0)
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        room.run(count(epsilon=0.05))
        backup = copy_of(home)
        room.run(count(name="a", epsilon=3.0))
        spent = room.gates["bank"].ledger.standing().epsilon
    put_back(home, backup)
    with later(alliance, spent) as room:
        hostile = Hostile(alliance, room.gates)
        for number in range(10):
            opened = hostile.new(count(name=f"p{number}", epsilon=0.01))
            hostile.hello("bank", opened)
            cheap = hostile.send("bank", opened.id, cancel=wire.Cancel()).finish.head
    put_back(home, backup)
    with later(alliance, spent) as room:
        hostile = Hostile(alliance, room.gates)
        hostile.hello("bank", hostile.new(count(epsilon=0.01)), [cheap])
        with pytest.raises(RoundFailed, match="bank refused: ledger_rolled_back"):
            room.run(count(name="b", epsilon=0.1))
        assert room.gates["bank"].ledger.standing().epsilon >= spent * 0.999


def test_a_head_of_ones_own_making_forgets_nothing(
    make_alliance: Callable[..., Alliance],
) -> None:
    """With disk and identity key: a head that is far ahead and says that nothing was spent."""
    alliance = make_alliance(epsilon=4.0, epsilon_per_person=12.0)
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        backup = copy_of(home)
        room.run(count(name="a", epsilon=3.0))
        spent = room.gates["bank"].ledger.standing().epsilon
    put_back(home, backup)
    with later(alliance, spent) as room:
        hostile = Hostile(alliance, room.gates)
        made = wire.JournalHead(
            contract=hostile.digest, sequence=10**6, digest=os.urandom(32), time=int(time.time())
        )
        fake = wire.state(home.identity(), "bank", made)
        assert hostile.hello("bank", hostile.new(count()), [fake]).refusal.code == Code.ROLLED_BACK
        with pytest.raises(RoundFailed, match="bank refused: ledger_rolled_back"):
            room.run(count(name="b", epsilon=0.1))
        assert room.gates["bank"].ledger.standing().epsilon >= spent * 0.999


def test_a_clock_that_is_set_back_on_a_fork_hides_no_charge(
    make_alliance: Callable[..., Alliance],
) -> None:
    """What both forks have is shown by the head's anchors, not by the time of an entry."""
    alliance, now = make_alliance(epsilon=8.0, epsilon_per_person=25.0), [time.time()]
    home = alliance.partners["bank"]
    with Room(alliance, clock=lambda: now[0]) as room:
        backup = copy_of(home)
        now[0] += 3600
        room.run(count(name="a", epsilon=3.0))
        lost = room.gates["bank"].ledger.total()[0]
    put_back(home, backup)
    now[0] -= 1800
    with Room(alliance, clock=lambda: now[0]) as room:
        bank = room.gates["bank"]
        bank.ledger.charge("e" * 32, [Charge("match size", lost * 0.9, 0.0)])
        now[0] += 3600
        with pytest.raises(RoundFailed, match="bank refused: ledger_rolled_back"):
            room.run(count(name="b", epsilon=0.1))
        assert bank.ledger.total()[0] >= lost * 1.9 * 0.999


def test_times_edited_in_the_table_of_heads_confirm_nothing(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance(epsilon=4.0, epsilon_per_person=12.0)
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        room.run(count(epsilon=3.4))
    with sqlite3.connect(home.database) as direct:
        assert direct.execute("UPDATE heads SET time = time + ?", (400 * DAY,)).rowcount == 2
    gate = Gate(home, randomness=os.urandom, clock=lambda: time.time() + 400 * DAY)
    assert gate.ledger.standing().epsilon > 3.3
    gate.close()


def test_a_job_or_a_pin_edited_in_the_database_gives_no_second_draw_for_one_charge(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance(partners=2)
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        opened = hostile.open(count())
        first = hostile.release("bank", opened, [0])
        paid = room.gates["bank"].ledger.total()[0]
    with sqlite3.connect(home.database) as direct:
        direct.execute("DELETE FROM releases")
        direct.execute("DELETE FROM replies WHERE step LIKE 'release%'")
        direct.execute("DELETE FROM secrets WHERE name = 'prepared' OR name LIKE 'state%'")
    with Room(
        alliance
    ) as room:  # the other partner colludes: it shows another cohort of the same parties
        hostile = Hostile(alliance, room.gates)
        for number, signed in enumerate(opened.prepared):
            if signed.party == "shop":
                said = wire.parse(wire.Prepared, signed.body)
                said.head.CopyFrom(room.gates["shop"].heads.own())
                key = alliance.partners["shop"].identity()
                opened.prepared[number] = wire.state(key, "shop", said)
        second = hostile.release("bank", opened, [0])
        assert second.masked.vectors[0].vector != first.masked.vectors[0].vector
        assert room.gates["bank"].ledger.total()[0] == pytest.approx(
            2 * paid
        )  # two draws, two charges
    other = count(epsilon=5.0, query={"measures": ["count"], "where": "age >= 50"})
    with sqlite3.connect(home.database) as direct:
        direct.execute("UPDATE jobs SET spec = ?", (other.canonical(),))
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        assert hostile.release("bank", opened, [0]).refusal.code == Code.STORAGE


def test_an_honest_restore_locks_nobody_out(make_alliance: Callable[..., Alliance]) -> None:
    """Two partners hold heads of two forks of the third, which was restored once: it goes on all the same."""
    alliance = make_alliance(epsilon=8.0)
    home = alliance.partners["telecom"]
    with Room(alliance) as room:
        room.run(count(epsilon=0.1))
        backup = copy_of(home)
        hostile = Hostile(alliance, room.gates)
        opened = hostile.new(count(name="x", epsilon=0.1))
        hostile.hello("telecom", opened)
        head = hostile.send("telecom", opened.id, cancel=wire.Cancel()).finish.head
        room.gates["bank"].heads.note([head])
    put_back(home, backup)
    time.sleep(1.1)
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        opened = hostile.new(count(name="y", epsilon=0.1))
        hostile.hello("telecom", opened)
        head = hostile.send("telecom", opened.id, cancel=wire.Cancel()).finish.head
        room.gates["shop"].heads.note([head])
        failures = 0
        for number in range(6):
            try:
                room.run(count(name=f"z{number}", epsilon=0.1))
            except RoundFailed:
                failures += 1
        assert failures <= 2


def test_a_contract_that_is_signed_anew_does_not_hide_what_was_spent(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance(epsilon=4.0, epsilon_per_person=12.0)
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        backup = copy_of(home)
        room.run(count(epsilon=3.0))
        spent = room.gates["bank"].ledger.standing().epsilon
    put_back(home, backup)
    now = datetime.now(UTC)
    contract = alliance.contract.model_copy(
        update={"expires": datetime(2036, 1, 1, tzinfo=UTC), "signatures": {}}
    )
    for name, each in alliance.partners.items():
        contract = contract.signed_by(name, each.identity())
    for each in [*alliance.partners.values()]:
        each.contract_file.write_text(dump(contract))
    alliance.coordinator.contract_file.write_text(dump(contract))
    contract.check_terms(now)
    renewed = Alliance(contract, alliance.coordinator, alliance.partners)
    with Room(renewed) as room:
        with pytest.raises(RoundFailed, match="bank refused: ledger_rolled_back"):
            room.run(count(name="b", epsilon=0.1))
        assert room.gates["bank"].ledger.standing().epsilon >= spent * 0.999


def test_a_restore_under_a_clock_that_is_set_back_is_charged_in_the_running_period(
    make_alliance: Callable[..., Alliance],
) -> None:
    """The lost charges would be dated out of the period, and nobody would miss them afterwards."""
    alliance, now = make_alliance(epsilon=4.0, epsilon_per_person=12.0), [time.time()]
    home = alliance.partners["bank"]
    with Room(alliance) as room:
        backup = copy_of(home)
        room.run(count(epsilon=3.0))
        spent = room.gates["bank"].ledger.standing().epsilon
        (lost,) = [h for h in room.gates["shop"].heads.held(["bank"]) if h.party == "bank"]
    put_back(home, backup)
    now[0] -= 400 * DAY
    back = Gate(home, randomness=os.urandom, clock=lambda: now[0])
    hostile = Hostile(alliance, {"bank": back}, clock=lambda: now[0])
    hostile.hello("bank", hostile.new(count()), [lost])
    back.close()
    with Room(alliance) as room:
        assert room.gates["bank"].ledger.standing().epsilon >= spent * 0.999


def test_a_partner_with_a_new_key_locks_nobody_out(make_alliance: Callable[..., Alliance]) -> None:
    """A head belongs to a key: what the others hold of the old one is history."""
    alliance = make_alliance()
    home = alliance.partners["telecom"]
    with Room(alliance) as room:
        room.run(count(epsilon=0.1))
    key = Ed25519PrivateKey.generate()
    (home.keys / "identity.key").write_bytes(key.private_bytes_raw())
    for path in home.state.glob("gate.db*"):
        path.unlink()
    home.mark.unlink()
    parties = tuple(
        party.model_copy(update={"identity": encode(key.public_key().public_bytes_raw())})
        if party.name == "telecom"
        else party
        for party in alliance.contract.parties
    )
    contract = alliance.contract.model_copy(update={"parties": parties, "signatures": {}})
    for name, each in alliance.partners.items():
        contract = contract.signed_by(name, each.identity())
    for each in alliance.partners.values():
        each.contract_file.write_text(dump(contract))
    with Room(Alliance(contract, alliance.coordinator, alliance.partners)) as room:
        room.run(count(name="b", epsilon=0.1))
        room.run(count(name="c", epsilon=0.1))
