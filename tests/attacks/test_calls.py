"""Somebody with the coordinator's disk cuts its call log, writes it anew, or takes it away."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client import doctor as partner_doctor
from client.callhead import (
    BACK,
    CALLS,
    CLOCK,
    DAY,
    FIRST,
    FORGOTTEN,
    GROWTH,
    LENGTH,
    MOST_NOTED,
    CallHeads,
    held_head,
    noted,
)
from client.cli import app
from client.gate import Delivery
from client.journal import verify
from protos import jobs, wire
from protos.alliance import Contract
from server import doctor
from server.app import drive
from server.calls import GENESIS, CallLog
from server.cli import submit
from server.store import Store
from server.witnesses import FILE, Witnesses
from simulations.room import Room
from tests.attacks.hostile import Hostile
from tests.conftest import job

COUNT = {"kind": "query", "epsilon": 0.1, "query": {"measures": ["count"]}}
SIZE = {
    "kind": "match", "epsilon": 1.0,
    "match": {"identifier": "email", "parties": ["bank", "shop"], "result": "size"},
}  # fmt: skip


class Coordinator:
    """What the coordinator's processes do: the link logs calls, a worker drives jobs."""

    def __init__(self, room: Room) -> None:
        self.room, self.home = room, room.alliance.coordinator
        self.jobs = self.logged = 0
        self.store = Store(self.home.database, time.time)
        self.home.state.mkdir(exist_ok=True)

    @property
    def contract(self) -> Contract:
        return self.room.alliance.contract

    def calls(self, count: int, address: str = "198.51.100.7") -> None:
        log = CallLog(self.home.calls)
        for _ in range(count):
            self.logged += 1
            log.append({"actor": {"ip_address": address}, "call": self.logged})
        log.close()

    def job(self, **settings: Any) -> list[str]:
        """Run a job to its end; what was said beside its result."""
        self.jobs += 1
        row = submit(self.home, job(name=f"job{self.jobs}", **(settings or COUNT)))
        drive(self.home, self.store, self.room, row.id)
        done = self.store.job(row.id)
        assert done.state == "done", done.reason
        return list(done.stats.get("notes", []))

    def doctor(self) -> list[tuple[bool, str]]:
        found = doctor.examine(self.home)
        return [(good, text) for good, subject, text in found if subject == "call log"]

    @property
    def lines(self) -> list[bytes]:
        return self.home.calls.read_bytes().splitlines()

    def rewrite(self, lines: list[bytes]) -> None:
        """Write the log as it would have been with these lines: every hash is right."""
        previous, made = GENESIS, b""
        for line in lines:
            plain = json.loads(line) | {"prev": previous}
            data = json.dumps(plain, sort_keys=True).encode()
            previous, made = hashlib.sha256(data).hexdigest(), made + data + b"\n"
        self.home.calls.write_bytes(made)


@pytest.fixture
def coordinator(room: Room) -> Iterator[Coordinator]:
    made = Coordinator(room)
    yield made
    made.store.close()


def cut(coordinator: Coordinator) -> None:
    coordinator.rewrite(coordinator.lines[:-3])


def other_addresses(coordinator: Coordinator) -> None:
    coordinator.rewrite([line.replace(b".7", b".8") for line in coordinator.lines])


def without_a_call(coordinator: Coordinator) -> None:
    """One call is gone, another one made up: as many lines as before."""
    coordinator.rewrite([*coordinator.lines[1:], coordinator.lines[-1]])


def cut_and_grown_past_it(coordinator: Coordinator) -> None:
    cut(coordinator)
    coordinator.calls(20)


def taken_away(coordinator: Coordinator) -> None:
    coordinator.home.calls.unlink()


def all_but_the_line_that_is_signed(coordinator: Coordinator) -> None:
    """It stays in its place, as a line that a crash cut off."""
    lines, kept, made, previous = coordinator.lines, coordinator.lines[-1], b"", GENESIS

    def add(plain: dict[str, Any]) -> None:
        nonlocal made, previous
        line = json.dumps(plain | {"prev": previous}, sort_keys=True).encode()
        made, previous = made + line + b"\n", hashlib.sha256(line).hexdigest()

    for line in lines[:-1]:
        add(json.loads(line.replace(b".7", b".8")))
    before, previous = previous, hashlib.sha256(kept).hexdigest()
    made += kept + b"\n"
    add({"torn": len(kept), "after": before})
    coordinator.home.calls.write_bytes(made)


FAULTS = [
    cut, other_addresses, without_a_call, cut_and_grown_past_it, taken_away,
    all_but_the_line_that_is_signed,
]  # fmt: skip


def test_an_honest_log_is_intact_and_its_partners_vouch_for_it(coordinator: Coordinator) -> None:
    assert coordinator.doctor() == []  # no link has run
    coordinator.calls(5)
    assert coordinator.job() == []
    coordinator.calls(7)
    assert coordinator.job() == []
    ((good, text),) = coordinator.doctor()
    assert good
    assert "12 calls, chain intact" in text
    assert "signed up to line 12, held by bank, shop, telecom" in text
    for gate in coordinator.room.gates.values():
        entries = gate.store.rows(
            "SELECT size, content FROM journal WHERE kind = ? ORDER BY sequence", CALLS
        )
        digests = [hashlib.sha256(coordinator.lines[n - 1]).digest() for n in (5, 12)]
        assert entries == [(5, digests[0]), (12, digests[1])]
        verify(gate.store, gate.identity.public_key().public_bytes_raw())


@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_signed_and_is_gone_is_found_by_doctor(
    coordinator: Coordinator, fault: Callable[[Coordinator], None]
) -> None:
    coordinator.calls(9)
    coordinator.job()
    fault(coordinator)
    found = coordinator.doctor()
    assert found
    assert not any(good for good, _ in found)


@pytest.mark.parametrize(
    ("kind", "fault"), [*((COUNT, fault) for fault in FAULTS), (SIZE, cut), (SIZE, other_addresses)]
)
def test_one_answer_to_a_hello_finds_it_though_all_else_was_deleted_too(
    coordinator: Coordinator, fault: Callable[[Coordinator], None], kind: dict[str, Any]
) -> None:
    coordinator.calls(9)
    assert coordinator.job(**kind) == []
    fault(coordinator)
    (coordinator.home.state / FILE).unlink()
    notes = coordinator.job(**kind)
    assert any("line 9" in note and "bank" in note for note in notes)
    found = coordinator.doctor()
    assert not any(good for good, _ in found)
    if fault is not taken_away:
        assert any("bank holds" in text and "line 9" in text for _, text in found)
    coordinator.calls(30)
    coordinator.job(**kind)
    assert not any(good for good, _ in coordinator.doctor())  # it does not heal by itself


def test_the_highest_proof_is_the_one_that_is_kept(coordinator: Coordinator) -> None:
    for _ in range(2):
        coordinator.calls(4)
        coordinator.job()
    other_addresses(coordinator)
    notes = coordinator.job()
    assert sum("holds" in note and "line 8 " in note for note in notes) == 4  # its own, and three


def test_a_restored_log_is_good_again(coordinator: Coordinator) -> None:
    coordinator.calls(9)
    coordinator.job()
    kept = coordinator.home.calls.read_bytes()
    cut(coordinator)
    assert coordinator.job()
    coordinator.home.calls.write_bytes(kept)
    assert [good for good, _ in coordinator.doctor()] == [True]


def test_a_partner_sees_the_numbers_go_back_and_answers_all_the_same(
    coordinator: Coordinator,
) -> None:
    now = time.time()
    coordinator.calls(9)
    coordinator.job()
    cut(coordinator)
    key = coordinator.home.identity()
    last = hashlib.sha256(coordinator.lines[-1]).digest()
    for when in (now - 60, now + 60):  # merely late; then after the higher one
        head = wire.CallLogHead(
            contract=coordinator.contract.digest(), lines=6, digest=last, time=int(when)
        )
        gate = coordinator.room.gates["bank"]
        assert gate.calls.take(wire.state(key, "coordinator", head), _job()) is not None
        wrong = noted(gate.store.rows, coordinator.contract)
        assert len(wrong) == (when > now)
    held = held_head(gate.store.rows, coordinator.contract)
    assert held is not None
    assert held.head.said.lines == 9  # the proof is kept
    home = coordinator.room.alliance.partners["bank"]
    (finding,) = (f for f in partner_doctor.examine(home) if "call log" in f.subject)
    assert not finding.good
    assert "line 9 (" in finding.text
    assert "line 6 (" in finding.text


def _job() -> Any:
    return "0" * 32


def test_two_logs_of_one_length_are_told_apart(coordinator: Coordinator) -> None:
    coordinator.calls(9)
    coordinator.job()
    (coordinator.home.state / FILE).unlink()
    other_addresses(coordinator)
    coordinator.job()
    for name, gate in coordinator.room.gates.items():
        (found,) = noted(gate.store.rows, coordinator.contract)
        assert found.held is not None
        assert found.held.said.lines == found.shown.said.lines == 9
        assert found.held.said.digest != found.shown.said.digest
        home = coordinator.room.alliance.partners[name]
        assert [f.good for f in partner_doctor.examine(home) if "call log" in f.subject] == [False]


def test_a_partner_cannot_invent_what_the_log_lacks(coordinator: Coordinator) -> None:
    coordinator.calls(9)
    coordinator.job()
    bank = coordinator.room.alliance.partners["bank"].identity()
    notes: list[str] = []
    witnesses = Witnesses(coordinator.home, coordinator.contract, notes)
    contract = coordinator.contract.digest()
    said = wire.CallLogHead(contract=contract, lines=99, digest=b"x" * 32, time=1)
    forged = [
        wire.state(bank, "coordinator", said),
        wire.state(bank, "bank", said),
        wire.Signed(party="coordinator", body=b"\xff" * 40, signature=b"s" * 64),
        wire.Signed(party="coordinator", body=b"x" * 100_000),
    ]
    key = coordinator.home.identity()
    for lines, digest in ((0, b"x" * 32), (1 << 60, b"x" * 32), (5, b"x")):
        odd = wire.CallLogHead(contract=contract, lines=lines, digest=digest)
        forged.append(wire.state(key, "coordinator", odd))
    for signed in forged:
        statement = wire.state(bank, "bank", wire.SealingKey(calls=signed))
        witnesses.take(wire.SealingKey, {"bank": statement})
        witnesses.take(wire.SealingKey, {"shop": statement})  # in another's name
    witnesses.take(wire.SealingKey, {"nobody": statement, "bank": wire.Signed(party="bank")})
    assert notes == []
    assert [good for good, _ in coordinator.doctor()] == [True]


def test_a_head_that_the_coordinator_did_not_sign_is_refused_by_a_gate(
    coordinator: Coordinator, hostile: Hostile
) -> None:
    bank = coordinator.room.alliance.partners["bank"].identity()
    said = wire.CallLogHead(
        contract=coordinator.contract.digest(), lines=9, digest=b"x" * 32, time=1
    )
    wanted = job(name="ask", **COUNT)
    salt = os.urandom(16)
    for signed in (
        wire.state(bank, "coordinator", said),
        wire.state(coordinator.home.identity(), "bank", said),
        wire.Signed(party="coordinator", body=b"x" * 5000, signature=b"s" * 64),
    ):
        request = wire.Request(
            contract=coordinator.contract.digest(),
            job=jobs.job_id(coordinator.contract.digest(), wanted.canonical(), salt),
            partner="bank", expires=int(time.time()) + 600, nonce=os.urandom(16),
            hello=wire.Hello(spec=wanted.canonical(), salt=salt, calls=signed),
        )  # fmt: skip
        envelope = wire.seal_request(coordinator.home.identity(), request)
        gate = coordinator.room.gates["bank"]
        reply = wire.parse(wire.Reply, gate.handle(envelope, Delivery()))
        assert wire.parse(wire.ReplyBody, reply.body).refusal.code == "protocol"
        assert gate.store.rows("SELECT * FROM calls") == []


@pytest.mark.parametrize(
    "bytes_there", [b"", b"{", b"[]", b'{"bank": 1}', b'{"bank": "AAAA"}', b"[" * 5000]
)
def test_a_damaged_file_of_heads_is_said_and_ends_no_job(
    coordinator: Coordinator, bytes_there: bytes
) -> None:
    coordinator.calls(9)
    coordinator.job()
    (coordinator.home.state / FILE).write_bytes(bytes_there)
    assert [good for good, _ in coordinator.doctor()] == [False]
    assert any(FILE in note for note in coordinator.job())


def test_a_line_cut_off_by_a_crash_is_no_alarm(coordinator: Coordinator) -> None:
    coordinator.calls(9)
    coordinator.job()
    with coordinator.home.calls.open("ab") as file:
        file.write(b'{"actor": {"ip_addr')  # killed while it wrote
    assert coordinator.job() == []
    coordinator.calls(2)
    assert coordinator.job() == []
    ((good, text),) = coordinator.doctor()
    assert good
    assert "lines that a crash cut off, and say so: 1" in text


def test_a_gate_and_a_coordinator_of_040_go_on(coordinator: Coordinator, room: Room) -> None:
    outcome = room.run(job(name="old", **COUNT))  # a coordinator that states no head
    assert "count" in outcome.result
    notes: list[str] = []
    witnesses = Witnesses(coordinator.home, coordinator.contract, notes)
    bank = room.alliance.partners["bank"].identity()
    old = wire.state(bank, "bank", wire.SealingKey(contract=coordinator.contract.digest()))
    witnesses.take(wire.SealingKey, {"bank": old})
    assert notes == []
    assert not (Path(coordinator.home.state) / FILE).exists()


class Partner:
    """What one gate keeps of heads that a coordinator with its key makes up. ``now``: the gate's clock."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.contract, self.gate = coordinator.contract, coordinator.room.gates["bank"]
        self.key, self.now = coordinator.home.identity(), time.time()
        self.calls = CallHeads(self.gate.store, self.gate.journal, self.contract, lambda: self.now)

    def head(self, lines: int, after: float = 0.0, contract: bytes = b"") -> wire.Signed:
        """A head that is signed so long ``after`` the gate's present."""
        said = wire.CallLogHead(
            contract=contract or self.contract.digest(), lines=lines, digest=os.urandom(32),
            time=int(self.now + after),
        )  # fmt: skip
        return wire.state(self.key, "coordinator", said)

    def take(self, lines: int, after: float = 0.0) -> None:
        self.calls.take(self.head(lines, after), _job())

    @property
    def held(self) -> int:
        found = held_head(self.gate.store.rows, self.contract)
        return found.head.said.lines if found else 0

    @property
    def noted(self) -> list[str]:
        return [each.why for each in noted(self.gate.store.rows, self.contract)]

    def count(self, table: str) -> int:
        ((count,),) = self.gate.store.rows(f"SELECT COUNT(*) FROM {table}")
        return int(count)


@pytest.fixture
def partner(coordinator: Coordinator) -> Partner:
    return Partner(coordinator)


def test_a_job_brings_one_head_however_often_it_says_hello(
    partner: Partner, hostile: Hostile
) -> None:
    opened = hostile.new(job(name="ask", **COUNT))
    spec, entries = opened.job.canonical(), []
    for lines in range(1, 9):
        hello = wire.Hello(spec=spec, salt=opened.salt, calls=partner.head(lines))
        assert hostile.code("bank", opened.id, hello=hello) == "hello"
        entries.append(partner.count("journal"))
    assert len(set(entries)) == 1  # and the answer, which is the same one
    assert partner.held == 1
    assert partner.count("calls") == 1
    assert partner.noted == []


def test_a_head_for_another_contract_is_refused_and_opens_no_job(
    partner: Partner, hostile: Hostile
) -> None:
    opened = hostile.new(job(name="ask", **COUNT))
    other = partner.head(9, contract=os.urandom(32))
    hello = wire.Hello(spec=opened.job.canonical(), salt=opened.salt, calls=other)
    assert hostile.code("bank", opened.id, hello=hello) == "protocol"
    assert partner.held == partner.count("calls") == partner.count("jobs") == 0


def test_one_row_is_kept_of_all_heads(partner: Partner) -> None:
    for lines in range(1, 5):
        partner.take(lines)
    assert partner.held == 4
    assert partner.count("calls") == 1


@pytest.mark.parametrize("after", [-DAY - 60, DAY + 60, float(1 << 40)])
def test_a_time_that_is_off_silences_nothing(partner: Partner, after: float) -> None:
    partner.take(501, after)
    assert (partner.held, partner.noted) == (0, [CLOCK])
    partner.take(500)
    partner.take(501, after)
    partner.now += 1
    partner.take(50)
    assert (partner.held, partner.noted) == (500, [CLOCK, CLOCK, BACK])


def test_a_time_just_inside_the_day_silences_for_two_days_at_most(partner: Partner) -> None:
    partner.take(500, DAY - 60)
    partner.now += 2 * DAY + 60
    partner.take(50, 60 - DAY)  # as far back as it may be
    assert (partner.held, partner.noted) == (500, [BACK])


def test_an_honest_late_head_is_no_conflict(partner: Partner) -> None:
    partner.take(500)
    partner.now += DAY - 120
    partner.take(499, 60 - DAY)
    assert (partner.held, partner.noted) == (500, [])


def test_no_head_is_longer_than_a_log_can_be(partner: Partner) -> None:
    for lines in (1 << 53, FIRST + 1):
        partner.take(lines)
    assert (partner.held, partner.noted) == (0, [LENGTH, LENGTH])
    partner.take(500)
    for _ in range(2):  # what was taken allows no more
        partner.take(500 + GROWTH)
        partner.take(501 + GROWTH)
    assert (partner.held, partner.noted[2:4]) == (500 + GROWTH, [LENGTH, BACK])
    partner.now += DAY
    partner.take(500 + 2 * GROWTH)
    assert partner.held == 500 + 2 * GROWTH


def test_no_kind_of_note_crowds_out_another(partner: Partner) -> None:
    for _ in range(MOST_NOTED + 5):
        partner.take(501, 2 * DAY)
    partner.take(500)
    partner.now += 1
    partner.take(50)
    assert partner.noted == [CLOCK] * MOST_NOTED + [BACK]


def test_the_owner_forgets_what_was_noted_and_the_journal_says_so(
    coordinator: Coordinator, partner: Partner
) -> None:
    home = coordinator.room.alliance.partners["bank"]
    partner.take(FIRST)
    for _ in range(2):
        partner.take(500, 1)
        partner.take(501, 2 * DAY)
    findings = [f for f in partner_doctor.examine(home) if "call log" in f.subject]
    assert [f.good for f in findings] == [False] * 4
    assert any("clock" in f.text for f in findings)
    done = CliRunner().invoke(app, ["heads", "forget-calls", "--yes", "--home", str(home.root)])
    assert done.exit_code == 0, done.output
    assert "line 500" in done.output
    assert partner.noted == []
    assert partner.held == 0
    entries = partner.gate.store.rows("SELECT size FROM journal WHERE kind = ?", FORGOTTEN)
    assert entries == [(5,)]
    verify(partner.gate.store, partner.gate.identity.public_key().public_bytes_raw())
    partner.take(500)
    assert partner.held == 500
    assert [f.good for f in partner_doctor.examine(home) if "call log" in f.subject] == [True]
