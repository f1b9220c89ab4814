"""The gate against a hostile coordinator, and its promises to an honest one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tomli_w

from client.context import Parts
from client.gate import Delivery, Gate
from client.journal import verify
from privacy.errors import ConfigError, RoundFailed
from protos import jobs, wire
from protos.refusal import Code
from protos.toml import read_toml
from server.rounds import Rounds
from server.tasks.noisy_sum import Memory, NoisySumDrive
from simulations.alliances import Alliance
from simulations.room import Room
from tests.conftest import PROPENSITY, QUERY, ROOT, SEGMENT, job

SALT = bytes(16)


class Bench:
    """A room, and a coordinator that can be made to misbehave."""

    def __init__(self, room: Room) -> None:
        self.room, self.alliance = room, room.alliance
        self.contract = room.alliance.contract
        self.key = room.alliance.coordinator.identity()
        self.gate = room.gates["bank"]

    def request(self, job_id: str = "", **body: Any) -> wire.Request:
        return wire.Request(
            contract=self.contract.digest(), job=job_id, partner="bank",
            expires=int(time.time()) + 60, nonce=os.urandom(16), **body,
        )  # fmt: skip

    def send(self, data: bytes | wire.Request, gate: Gate | None = None) -> wire.ReplyBody:
        envelope = data if isinstance(data, bytes) else wire.seal_request(self.key, data)
        reply = (gate or self.gate).handle(envelope, Delivery(3, "m", 9))
        head = wire.parse(wire.ReplyHeader, wire.parse(wire.Reply, reply).header)
        assert (head.run, head.message, head.node, head.partner) == (3, "m", 9, "bank")
        return wire.open_reply(reply, self.contract.identity_of("bank"), head)

    def code(self, data: bytes | wire.Request) -> str:
        body = self.send(data)
        assert body.HasField("refusal"), body
        return body.refusal.code

    def hello(self, wanted: jobs.Job, salt: bytes = SALT) -> tuple[str, wire.Request]:
        spec = wanted.canonical()
        job_id = jobs.job_id(self.contract.digest(), spec, salt)
        return job_id, self.request(job_id, hello=wire.Hello(spec=spec, salt=salt))

    def drive(self, wanted: jobs.Job) -> NoisySumDrive:
        job_id = jobs.job_id(self.contract.digest(), wanted.canonical(), SALT)
        return NoisySumDrive(self.room.rounds(job_id), wanted, SALT, Memory(), grace=0.5)


@pytest.fixture
def bench(make_alliance: Callable[..., Alliance]) -> Iterator[Bench]:
    with Room(make_alliance(), patience=2.0) as room:
        yield Bench(room)


def test_envelopes_that_are_not_the_coordinators(bench: Bench) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    _, hello = bench.hello(job(**QUERY))
    sealed = wire.seal_request(bench.key, hello)
    assert bench.code(b"rubbish") == Code.MALFORMED
    assert bench.code(b"") == Code.BAD_SIGNATURE
    assert bench.code(sealed[:-1] + bytes([sealed[-1] ^ 1])) in (Code.BAD_SIGNATURE, Code.MALFORMED)
    stranger = Ed25519PrivateKey.generate()
    assert bench.code(wire.seal_request(stranger, hello)) == Code.BAD_SIGNATURE


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("contract", b"other", Code.WRONG_CONTRACT),
        ("partner", "shop", Code.NOT_ADDRESSED),
        ("expires", 1, Code.EXPIRED),
        ("expires", 1 << 40, Code.EXPIRED),
        ("nonce", b"short", Code.MALFORMED),
        ("job", "0" * 32, Code.MALFORMED),
    ],
)
def test_envelopes_for_something_else(bench: Bench, field: str, value: Any, code: Code) -> None:
    _, hello = bench.hello(job(**QUERY))
    setattr(hello, field, value)
    assert bench.code(hello) == code


def test_a_replay_is_refused(bench: Bench) -> None:
    _, hello = bench.hello(job(**QUERY))
    sealed = wire.seal_request(bench.key, hello)
    assert bench.send(sealed).HasField("hello")
    assert bench.code(sealed) == Code.REPLAYED


def test_steps_out_of_order_and_unknown_jobs(bench: Bench) -> None:
    assert bench.code(bench.request("f" * 32, prepare=wire.Prepare())) == Code.UNKNOWN_JOB
    assert bench.code(bench.request("f" * 32, finish=wire.Finish())) == Code.UNKNOWN_JOB
    assert bench.code(bench.request("f" * 32, match=wire.Match())) == Code.UNKNOWN_JOB
    assert bench.code(bench.request("f" * 32)) == Code.MALFORMED
    job_id, hello = bench.hello(job(**QUERY))
    bench.send(hello)
    state = wire.Release(indexes=[0])
    assert bench.code(bench.request(job_id, release=state)) == Code.ROSTER
    assert bench.code(bench.request(job_id, match=wire.Match())) == Code.POLICY
    assert bench.code(bench.request(job_id, unmask=wire.Unmask())) == Code.ROSTER


def test_specifications_are_checked(bench: Bench) -> None:
    odd = job(**QUERY).canonical().replace(b'"purpose":"insight"', b'"purpose": "insight"')
    job_id = jobs.job_id(bench.contract.digest(), odd, SALT)
    hello = bench.request(job_id, hello=wire.Hello(spec=odd, salt=SALT))
    assert bench.code(hello) == Code.MALFORMED
    _, hello = bench.hello(job(**{**PROPENSITY, "purpose": "counting"}))
    assert bench.code(hello) == Code.POLICY


def _rules(bench: Bench, **rules: Any) -> Gate:
    home = bench.alliance.partners["bank"]
    settings = read_toml(home.config_file)
    settings["rules"].update(rules)
    home.config_file.write_text(tomli_w.dumps(settings))
    return Gate(home, randomness=os.urandom, clock=time.time)


@pytest.mark.parametrize(
    "rules", [{"kinds": []}, {"purposes": []}, {"largest_epsilon": 0.5}, {"kinds": ["match"]}]
)
def test_the_partners_own_rules_are_stricter(bench: Bench, rules: dict[str, Any]) -> None:
    gate = _rules(bench, **rules)
    _, hello = bench.hello(job(**QUERY))
    assert bench.send(hello, gate).refusal.code == Code.POLICY
    gate.close()


def test_an_exception_leaves_as_a_code(
    make_alliance: Callable[..., Alliance], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("secret-customer-row: jane@example.com")

    for parts, code in ((Parts(check=broken), Code.INTERNAL), (Parts(read=broken), Code.FAILED)):
        with Room(make_alliance(folder=code), patience=2.0) as room:
            home = room.alliance.partners["bank"]
            room.gates["bank"].close()
            room.gates["bank"] = Gate(home, randomness=os.urandom, clock=time.time, parts=parts)
            with pytest.raises(RoundFailed, match=f"bank refused: {code}"):
                room.run(job(**QUERY))
            assert "jane" not in str(room.gates["bank"].store.rows("SELECT * FROM refusals"))
    assert "jane" not in caplog.text


def test_a_retry_gives_the_same_body_and_costs_nothing(bench: Bench) -> None:
    drive = bench.drive(job(**QUERY))
    drive._hello_and_prepare()
    state = drive.program.state()
    ask = drive._request("bank", [0, 1], state)
    ask.contract, ask.job, ask.partner = bench.contract.digest(), drive.rounds.job_id, "bank"
    bodies = []
    for _ in range(2):
        ask.nonce, ask.expires = os.urandom(16), int(time.time()) + 60
        bodies.append(wire.serialise(bench.send(ask)))
    assert bodies[0] == bodies[1]
    spent = bench.gate.ledger.spent_by(drive.rounds.job_id)
    assert spent == pytest.approx(sum(r.mu2 for r in drive.plan[:2]), rel=1e-6)


def test_the_same_release_with_another_state_is_refused(bench: Bench) -> None:
    drive = bench.drive(job(**PROPENSITY))
    drive._hello_and_prepare()
    drive._release([1])
    drive.program.weights[0] = 0.25  # type: ignore[attr-defined]
    with pytest.raises(RoundFailed, match="state_changed"):
        drive._release([1])
    drive.program.weights[0] = float("nan")  # type: ignore[attr-defined]
    with pytest.raises(RoundFailed, match="plan"):
        drive._release([2])


def test_different_cohorts_for_different_partners_are_caught(bench: Bench) -> None:
    drive = bench.drive(job(**QUERY))
    drive._hello_and_prepare()
    other = bench.drive(job(**SEGMENT))
    other._hello_and_prepare()
    drive._prepared["shop"] = other._prepared["shop"]
    with pytest.raises(RoundFailed, match="roster"):
        drive._release([0])


def test_a_relay_cannot_swap_mask_keys(bench: Bench) -> None:
    drive = bench.drive(job(**QUERY))
    drive._hello_and_prepare()
    statement = drive._prepared["shop"].statement
    message = wire.parse(wire.Prepared, statement.body)
    message.mask_keys[0] = os.urandom(32)
    statement.body = wire.serialise(message)
    with pytest.raises(RoundFailed, match="roster"):
        drive._release([0])


def test_an_exhausted_ledger_refuses_and_later_jobs_too(
    make_alliance: Callable[..., Alliance], caplog: pytest.LogCaptureFixture
) -> None:
    with Room(make_alliance(epsilon=1.2), patience=2.0) as room:
        room.run(job(**QUERY))
        with pytest.raises(RoundFailed, match="ledger_exhausted"):
            room.run(job(**{**QUERY, "name": "again"}))
        assert "spent" in caplog.text
        assert "limit" in caplog.text


def test_finish_erases_secrets_and_closes_the_job(bench: Bench) -> None:
    outcome = bench.room.run(job(**SEGMENT))
    store = bench.gate.store
    assert store.rows("SELECT * FROM secrets") == []
    assert store.rows("SELECT * FROM replies") == []
    assert list(bench.alliance.partners["bank"].snapshots.iterdir()) == []
    assert bench.code(bench.request(outcome.job_id, prepare=wire.Prepare())) == Code.JOB_CLOSED
    assert [row[0] for row in store.rows("SELECT name FROM models")] == ["segment"]


def test_a_model_that_is_not_the_jobs_is_refused(bench: Bench) -> None:
    drive = bench.drive(job(**SEGMENT))
    drive.run()
    wrong = jobs.model_bytes({"kind": "segment", "columns": ["age"], "centres": [[0.0]] * 3})
    with pytest.raises(RoundFailed, match=r"malformed|plan"):
        drive.finish(wrong)


def test_every_reply_is_in_the_journal(bench: Bench) -> None:
    outcome = bench.room.run(job(**QUERY))
    public = bench.gate.identity.public_key().public_bytes_raw()
    found = verify(bench.gate.store, public)
    kinds = [
        kind for (kind,) in bench.gate.store.rows("SELECT kind FROM journal ORDER BY sequence")
    ]
    assert kinds == ["hello", "job opened", "prepared", "charge", "masked", "job closed", "finish"]
    assert found.entries == len(kinds) == outcome.traffic.rounds + 3
    assert found.mu2 == pytest.approx(bench.gate.ledger.total()[0])


def test_a_rolled_back_ledger_is_found(bench: Bench) -> None:
    home = bench.alliance.partners["shop"]
    bench.room.run(job(**QUERY))
    shop = bench.room.gates["shop"]
    shop.store.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    old = home.database.read_bytes()
    bench.room.run(job(**{**QUERY, "name": "second"}))
    shop.close()
    home.database.write_bytes(old)
    for suffix in ("-wal", "-shm"):
        home.database.with_name(home.database.name + suffix).unlink(missing_ok=True)
    bench.room.gates["shop"] = Gate(home, randomness=os.urandom, clock=time.time)
    with pytest.raises(RoundFailed, match="shop refused: ledger_rolled_back"):
        bench.room.run(job(**{**QUERY, "name": "third"}))
    bench.room.gates["shop"].close()


def test_a_restarted_gate_goes_on(bench: Bench) -> None:
    drive = bench.drive(job(**PROPENSITY))
    drive._hello_and_prepare()
    first = drive._release([0])[0]
    for name in list(bench.room.gates):
        bench.room.gates[name].close()
        home = bench.alliance.partners[name]
        bench.room.gates[name] = Gate(home, randomness=os.urandom, clock=time.time)
    again = drive._release([0])[0]
    assert (first[0] == again[0]).all()
    drive.program.absorb(0, *again)
    drive._release([1])


def test_a_gate_refuses_to_start_with_the_wrong_key_or_contract(bench: Bench) -> None:
    home = bench.alliance.partners["bank"]
    (home.keys / "identity.key").write_bytes(os.urandom(32))
    with pytest.raises(ConfigError, match="not the key"):
        Gate(home, randomness=os.urandom, clock=time.time)
    (home.keys / "identity.key").chmod(0o644)
    with pytest.raises(ConfigError, match="readable by others"):
        Gate(home, randomness=os.urandom, clock=time.time)
    home.contract_file.unlink()
    with pytest.raises(ConfigError, match="no contract is installed"):
        Gate(home, randomness=os.urandom, clock=time.time)


def test_rounds_throw_away_replies_in_another_name(bench: Bench) -> None:
    stolen: dict[str, Any] = {}

    class Impostor:
        """Answers for everybody in the shop's name."""

        def exchange(self, envelopes: Any, timeout: float) -> Any:
            answers = bench.room.exchange(envelopes, timeout)
            stolen.update({"shop": answers["shop"]} if "shop" in answers else {})
            return dict.fromkeys(answers, stolen["shop"])

    rounds = Rounds(
        Impostor(), bench.contract, bench.key, bench.hello(job(**QUERY))[0],
        randomness=os.urandom, patience=0.1,
    )  # fmt: skip
    hello = wire.Request(hello=wire.Hello(spec=job(**QUERY).canonical(), salt=SALT))
    with pytest.raises(RoundFailed, match="no answer from bank, telecom"):
        rounds.ask(dict.fromkeys(("bank", "shop", "telecom"), hello))
    assert rounds.traffic.forged >= 2


def test_a_gate_at_rest_does_not_load_polars() -> None:
    """It would add tens of megabytes to every partner; a match over raw identifiers loads it."""
    code = "import sys, client.gate, client.service; print(sorted({'polars', 'pyarrow'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
