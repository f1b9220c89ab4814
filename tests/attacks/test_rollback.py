"""Rows 8, 9 and 10: the ledger is part of the journal. It cannot be edited, cut, rolled back or renewed by a
clock without the next message finding out."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.gate import Gate
from client.journal import BrokenJournal, Charge, verify
from client.offline import owner
from privacy.errors import Refused, RoundFailed
from protos import wire
from protos.alliance import dump
from protos.identity import encode
from protos.refusal import Code
from protos.statements import read_head
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
            monkeypatch.setattr(gate.heads, "take", lambda statements, job: None)
            monkeypatch.setattr(gate.heads, "note", lambda heads, job=None: None)
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
            answer = hostile.hello(name, opened)
            if name == "bank" and days < 0:  # nothing is signed before its own last entry
                assert answer.refusal.code == Code.CLOCK
            opened.hellos.append(answer.hello)
        hostile.clock = lambda: now + off[0]
        ask = wire.Prepare(hellos=opened.hellos)
        if days > 0:
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
        other = alliance.partners["telecom"].identity()
        said = [wire.state(liar, "shop", head), wire.state(other, "telecom", head)]
        bank.heads.note(said)
        assert bank.ledger.standing().epsilon > 3.0  # two others, not this clock: not kept
        now[0] += 400 * DAY
        assert bank.ledger.standing().epsilon > 3.0
        bank.heads.note(said[:1])
        assert bank.ledger.standing().epsilon > 3.0  # this clock and one other: not enough
        now[0] -= 400 * DAY
        bank.heads.note(said[1:])
        assert bank.ledger.standing().epsilon > 3.0
        now[0] += 400 * DAY
        bank.heads.note(said[1:])
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


# ---------------------------------------------------------------------- clocks and heads


def of(alliance: Alliance, party: str, sequence: int, at: float, fill: int = 1) -> wire.Signed:
    """A head that a party signed."""
    head = wire.JournalHead(
        contract=alliance.contract.digest(), sequence=sequence, digest=bytes([fill]) * 32,
        time=int(at),
    )  # fmt: skip
    return wire.state(alliance.partners[party].identity(), party, head)


def held_of(gate: Gate, party: str) -> list[int]:
    rows = gate.store.rows("SELECT sequence FROM heads WHERE party = ?", party)
    return [int(sequence) for (sequence,) in rows]


@pytest.mark.parametrize("hours", [-23, 23, 49, 24 * 2000])
def test_a_clock_that_was_set_wrong_for_one_job_hides_no_restored_backup(
    make_alliance: Callable[..., Alliance], hours: int
) -> None:
    """One head signed far ahead must not keep all later ones out: the journal could be put back behind it."""
    alliance, off = make_alliance(epsilon=4.0, epsilon_per_person=12.0), [0.0]
    home = alliance.partners["bank"]

    def wrong(room: Room) -> None:
        gate = room.gates["bank"]
        gate.clock = gate.heads._clock = gate.journal._clock = lambda: time.time() + off[0]

    with Room(alliance) as room:
        room.run(count(epsilon=0.05))
        wrong(room)
        hostile = Hostile(alliance, room.gates)
        opened = hostile.new(count(name="ahead", epsilon=0.01))
        for name in room.gates:
            off[0] = hours * 3600.0 if name == "bank" else 0.0
            hostile.clock = lambda: time.time() + off[0]
            opened.hellos.append(hostile.hello(name, opened).hello)
        off[0] = 0.0
        ask = wire.Prepare(hellos=opened.hellos)
        for name in ("shop", "telecom"):
            code = hostile.code(name, opened.id, prepare=ask)
            assert code == (Code.CLOCK if hours > 24 else "prepared")
        for name in room.gates:
            hostile.send(name, opened.id, cancel=wire.Cancel())
    backup = copy_of(home)
    with Room(alliance) as room:
        room.run(count(name="spent", epsilon=3.0))
        spent = room.gates["bank"].ledger.standing().epsilon
    put_back(home, backup)
    with later(alliance, spent) as room:
        with pytest.raises(RoundFailed, match="ledger_rolled_back"):
            room.run(count(name="again", epsilon=0.5))
        assert room.gates["bank"].ledger.standing().epsilon >= spent * 0.999
        again = hostile.new(count(name="again-and-again", epsilon=3.0))
        assert Hostile(alliance, room.gates).hello("bank", again).refusal.code == Code.LEDGER


def test_the_head_that_is_further_on_is_held_whatever_its_time(room: Room) -> None:
    bank, alliance, now = room.gates["bank"], room.alliance, time.time()
    for sequence, at in ((5, now + 3600), (7, now - 3600), (6, now), (7, now - 7200)):
        bank.heads.note([of(alliance, "shop", sequence, at, sequence)])
    assert held_of(bank, "shop") == [7]
    (stated,) = [s for s in bank.heads.held() if s.party == "shop"]
    assert wire.parse(wire.JournalHead, stated.body).time == int(now - 3600)
    bank.heads.note(
        [of(alliance, "shop", 7, now, 7)]
    )  # the same one, signed later: a time that counts
    (stated,) = [s for s in bank.heads.held() if s.party == "shop"]
    assert wire.parse(wire.JournalHead, stated.body).time == int(now)


def test_a_head_signed_far_ahead_is_kept_by_nobody_and_its_own_party_is_refused(room: Room) -> None:
    bank, alliance, now = room.gates["bank"], room.alliance, time.time()
    ahead = of(alliance, "shop", 5, now + 2 * DAY)
    bank.heads.note([ahead])  # the coordinator brings it: it stops nobody
    fair = {"telecom": [of(alliance, "telecom", 3, now), ahead]}
    bank.heads.take(fair)
    assert held_of(bank, "shop") == []
    assert held_of(bank, "telecom") == [3]
    said = {"telecom": [of(alliance, "telecom", 4, now)], "shop": [ahead]}
    with pytest.raises(Refused, match=r"the clock of shop is 2\.0 days ahead") as caught:
        bank.heads.take(said)
    assert caught.value.code == Code.CLOCK
    with pytest.raises(Refused, match=r"the clock of shop is 2\.0 days ahead"):
        bank.heads.note([ahead], "0" * 32)
    assert held_of(bank, "telecom") == [3]  # nothing at all is kept of such a round


def test_a_party_that_prepares_with_a_head_signed_far_ahead_is_refused_before_a_charge(
    room: Room, hostile: Hostile
) -> None:
    """The head that states the job's price is in what a party has prepared, and must be kept."""
    opened = hostile.open(count())
    for number, signed in enumerate(opened.prepared):
        if signed.party == "bank":
            said = wire.parse(wire.Prepared, signed.body)
            said.head.CopyFrom(of(room.alliance, "bank", 50, time.time() + 2 * DAY))
            key = room.alliance.partners["bank"].identity()
            opened.prepared[number] = wire.state(key, "bank", said)
    assert hostile.release("shop", opened, [0]).refusal.code == Code.CLOCK
    assert room.gates["shop"].ledger.total()[0] == 0.0


@pytest.mark.parametrize("first", ["head", "job"])
def test_whether_a_head_is_old_is_not_for_its_signer_to_say(
    room: Room, hostile: Hostile, first: str
) -> None:
    """Stated in a job that was opened here after the held one came, an earlier entry is a restored journal,
    though it says an earlier time. In a job that was opened before, it may be merely old."""
    bank, now, opened = room.gates["bank"], time.time(), hostile.new(count())
    higher = of(room.alliance, "shop", 9, now, 9)
    if first == "head":
        bank.heads.note([higher])
    hostile.hello("bank", opened)
    if first == "job":
        bank.heads.note([higher])
    stated = {"shop": [of(room.alliance, "shop", 4, now - 3600, 4)]}
    if first == "head":
        with pytest.raises(Refused, match="the journal of shop is not what it signed before"):
            bank.heads.take(stated, opened.id)
    else:
        bank.heads.take(stated, opened.id)
    assert held_of(bank, "shop") == [9]


def test_a_head_far_ahead_that_an_earlier_version_kept_is_replaced_and_not_passed_on(
    room: Room,
) -> None:
    bank, alliance, now = room.gates["bank"], room.alliance, time.time()
    absurd = of(alliance, "shop", 5, now + 1000 * DAY)
    bank.store.execute(
        "INSERT INTO heads VALUES (?, 'shop', 5, ?, ?, ?)",
        alliance.contract.digest(), bytes([1]) * 32, int(now + 1000 * DAY), wire.serialise(absurd),
    )  # fmt: skip
    assert [s.party for s in bank.heads.held()] == ["bank"]
    with pytest.raises(Refused, match="not what it signed before"):
        bank.heads.take({"shop": [of(alliance, "shop", 4, now, 4)]})
    bank.heads.take({"shop": [of(alliance, "shop", 6, now, 6)]})
    assert held_of(bank, "shop") == [6]
    assert [s.party for s in bank.heads.held()] == ["shop", "bank"]


def test_an_entry_that_a_wrong_clock_has_dated_locks_nobody_out(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance()
    with owner(alliance.partners["bank"], clock=lambda: time.time() + 1000 * DAY) as at:
        at.journal.record("list sent", "", b"x", "shop")
    with Room(alliance) as room:
        room.run(count(epsilon=0.1))
        bank = room.gates["bank"]
        bank.journal._clock = lambda: time.time() + 3600
        bank.journal.record("list sent", "", b"x", "shop")
        said = wire.parse(wire.JournalHead, bank.heads.own().body)
        assert said.time >= time.time() + 3500  # not before its last entry


def test_entries_that_come_meanwhile_leave_a_head_whole(
    make_alliance: Callable[..., Alliance],
) -> None:
    """A match, or a command of the owner in another process, appends while a head is signed."""
    alliance = make_alliance()
    home, threads = alliance.partners["bank"], []
    with owner(home) as at, owner(home) as other:
        for _ in range(6):
            at.journal.record("list sent", "", b"x", "shop")
        real = at.journal.spent

        def meanwhile() -> tuple[float, float]:
            for journal in (at.journal, other.journal):
                threads.append(
                    threading.Thread(target=journal.record, args=("list sent", "", b"x", "shop"))
                )
                threads[-1].start()
                threads[-1].join(timeout=0.2)
            return real()

        at.journal.spent = meanwhile  # type: ignore[method-assign]
        signed = at.heads.own()
        for thread in threads:
            thread.join()
        said = read_head(alliance.contract, "bank", signed)
        assert at.journal.at(said.sequence) == said.digest
        assert at.journal.head()[0] == said.sequence + 2


def test_a_head_that_everybody_would_refuse_is_neither_signed_away_nor_stored(
    room: Room, hostile: Hostile
) -> None:
    bank, opened = room.gates["bank"], hostile.new(count())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank.journal, "spent", lambda: (float("nan"), 0.0))
        assert hostile.hello("bank", opened).refusal.code == Code.STORAGE
    assert hostile.hello("bank", opened).HasField("hello")


def test_a_restore_that_the_disk_did_not_take_has_not_happened(
    make_alliance: Callable[..., Alliance],
) -> None:
    """What the journal went on from goes with the entry that said so."""
    alliance = make_alliance()
    with owner(alliance.partners["bank"]) as at:
        lost = of(alliance, "bank", 50, time.time())
        said = read_head(alliance.contract, "bank", lost)

        def restores() -> None:
            with at.store.transaction():
                at.journal.restore(said, wire.serialise(lost))
                at.store.execute("INSERT INTO no_such_table VALUES (1)")

        with pytest.raises(Refused, match="database failed"):
            restores()
        assert not at.journal.knows(said)
