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

from client import doctor as partner_doctor
from client.callhead import CALLS, conflicts, held_head
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


FAULTS = [cut, other_addresses, without_a_call, cut_and_grown_past_it, taken_away]


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
        wrong = conflicts(gate.store.rows, coordinator.contract)
        assert len(wrong) == (when > now)
    held = held_head(gate.store.rows, coordinator.contract)
    assert held is not None
    assert held.said.lines == 9  # the proof is kept
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
        ((before, after),) = conflicts(gate.store.rows, coordinator.contract)
        assert before.said.lines == after.said.lines == 9
        assert before.said.digest != after.said.digest
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
