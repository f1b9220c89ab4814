"""Row 6: work before consent is bounded. Jobs, messages, snapshots, entries, disk and time."""

from __future__ import annotations

import os
import time
import tomllib
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.gate import Gate
from client.home import Limits
from protos import identity, wire
from protos.refusal import Code
from protos.toml import read_toml
from simulations.alliances import Alliance
from simulations.room import Room
from tests.attacks.hostile import Hostile, count
from tests.conftest import ROOT


def limited(alliance: Alliance, name: str = "bank", **limits: Any) -> None:
    home = alliance.partners[name]
    settings = read_toml(home.config_file)
    settings["limits"] = limits
    home.config_file.write_text(tomli_w.dumps(settings))


def test_hellos_read_nothing_and_jobs_are_few(make_alliance: Callable[..., Alliance]) -> None:
    alliance = make_alliance()
    limited(alliance, open_jobs=3)
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        opened = [hostile.new(count(name=f"a{i}")) for i in range(6)]
        kinds = [hostile.hello("bank", one).WhichOneof("body") for one in opened]
        assert kinds == ["hello"] * 3 + ["refusal"] * 3
        assert hostile.hello("bank", opened[4]).refusal.code == Code.BUSY
        home = alliance.partners["bank"]
        assert list(home.snapshots.iterdir()) == []  # no row is read before a charge
        assert hostile.hello("bank", opened[0]).HasField("hello")  # those that are open go on
        hostile.send("bank", opened[0].id, cancel=wire.Cancel())
        assert hostile.hello("bank", opened[3]).HasField("hello")


def test_a_snapshot_is_made_at_the_first_release_and_shared(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance()
    with Room(alliance) as room:
        hostile, home = Hostile(alliance, room.gates), alliance.partners["bank"]
        opened = [hostile.open(count(name=f"a{i}")) for i in range(4)]
        assert list(home.snapshots.iterdir()) == []
        for one in opened:
            assert hostile.release("bank", one, [0]).HasField("masked")
        assert len(list(home.snapshots.iterdir())) == 1
        for one in opened:
            hostile.send("bank", one.id, cancel=wire.Cancel())
        assert list(home.snapshots.iterdir()) == []


def test_idle_jobs_expire(make_alliance: Callable[..., Alliance]) -> None:
    alliance, now = make_alliance(), [time.time()]
    limited(alliance, open_jobs=1, idle_hours=2)
    with Room(alliance, clock=lambda: now[0]) as room:
        hostile = Hostile(alliance, room.gates, clock=lambda: now[0])
        first, second = hostile.new(count(name="a")), hostile.new(count(name="b"))
        assert hostile.hello("bank", first).HasField("hello")
        now[0] += 3600
        assert hostile.hello("bank", second).refusal.code == Code.BUSY
        now[0] += 2 * 3600
        assert hostile.hello("bank", second).HasField("hello")
        assert hostile.hello("bank", first).refusal.code == Code.JOB_CLOSED


def test_what_is_not_signed_is_counted_and_nothing_else(room: Room, hostile: Hostile) -> None:
    gate = room.gates["bank"]
    stranger = Ed25519PrivateKey.generate()
    head, pages = gate.journal.head(), gate.store.row("PRAGMA page_count")
    for number in range(2_000):
        request = hostile.request("bank", "0" * 32, cancel=wire.Cancel())
        envelope = os.urandom(200) if number % 2 else wire.seal_request(stranger, request)
        body = wire.parse(wire.ReplyBody, hostile.raw("bank", envelope).body)
        assert body.refusal.code in (Code.BAD_SIGNATURE, Code.MALFORMED)
    assert gate.journal.head() == head
    assert gate.store.row("PRAGMA page_count") == pages
    gate.refusals.flush()
    counted = gate.store.rows("SELECT SUM(count) FROM refusals WHERE kind = 'unsigned'")
    assert counted == [(2_000,)]


def test_signed_refusals_do_not_grow_the_journal_and_reasons_are_few(
    room: Room, hostile: Hostile
) -> None:
    gate, head = room.gates["bank"], room.gates["bank"].journal.head()
    for number in range(700):
        spec = count().canonical().replace(b'"where"', b'"where%d"' % number)
        hello = wire.Hello(spec=spec, salt=bytes(16))
        hostile.send("bank", hostile.new(count()).id, hello=hello)
        hostile.send("bank", "x" * number, cancel=wire.Cancel())
    assert gate.journal.head() == head
    kept = gate.store.row("SELECT COUNT(*) FROM refusals")
    assert kept is not None
    assert kept[0] <= 501


def test_messages_and_work_have_rates(make_alliance: Callable[..., Alliance]) -> None:
    alliance = make_alliance()
    limited(alliance, messages_per_hour=20)
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        codes = [hostile.code("bank", "f" * 32, cancel=wire.Cancel()) for _ in range(25)]
        assert codes == [Code.UNKNOWN_JOB] * 20 + [Code.BUSY] * 5
    limited(alliance, cpu_seconds_per_hour=5)
    used, now = [0.0], [0.0]

    def cpu() -> float:
        used[0] += 1.0  # each look at the clock: a second of work in between
        return used[0]

    home = alliance.partners["bank"]
    gate = Gate(home, randomness=os.urandom, clock=time.time, cpu=cpu, monotonic=lambda: now[0])
    hostile = Hostile(alliance, {"bank": gate})
    codes = [hostile.code("bank", "f" * 32, cancel=wire.Cancel()) for _ in range(8)]
    assert Code.BUSY in codes
    now[0] += 3601.0
    assert hostile.code("bank", "f" * 32, cancel=wire.Cancel()) == Code.UNKNOWN_JOB
    gate.close()


def test_a_refused_gate_says_why_to_its_owner_only(room: Room, hostile: Hostile) -> None:
    opened = hostile.new(count(epsilon=50.0))
    reply = hostile.hello("bank", opened)
    assert reply.refusal.code == Code.LEDGER
    assert len(wire.serialise(reply)) < 64
    reasons = room.gates["bank"].store.rows("SELECT code, kind, reason FROM refusals")
    assert reasons[0][:2] == (Code.LEDGER, "hello")
    assert "spent" in reasons[0][2]


def test_a_disk_that_is_too_small_fails_after_the_charge(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance()
    limited(alliance, state_bytes=1 << 20)
    with Room(alliance) as room:
        hostile, home = Hostile(alliance, room.gates), alliance.partners["bank"]
        opened = hostile.open(count())
        (home.matches / ("0" * 32)).mkdir()
        (home.matches / ("0" * 32) / "big").write_bytes(bytes(1 << 20))
        assert hostile.release("bank", opened, [0]).refusal.code == Code.FAILED
        assert hostile.charged("bank") == 1
        (home.matches / ("0" * 32) / "big").unlink()
        assert hostile.release("bank", opened, [0]).HasField("masked")  # mended: the same charge
        assert hostile.charged("bank") == 1


def test_the_documented_limits_are_the_defaults() -> None:
    text = (ROOT / "docs" / "alliance.md").read_text()
    block = text.split("<!-- file: limits.toml -->")[1].split("```toml")[1].split("```")[0]
    assert Limits(**tomllib.loads(block)["limits"]) == Limits()
    assert set(tomllib.loads(block)["limits"]) == set(Limits.model_fields)


@pytest.mark.parametrize("before", [b"", b"\xa3\x06\xa4\x06"], ids=["plain", "behind a group"])
def test_a_message_of_very_many_fields_takes_no_memory(
    room: Room, hostile: Hostile, before: bytes
) -> None:
    """Two bytes a field, and a hundred for the object that each would become."""
    many = b"\x1a\x00" * 2_000_000  # Hello.heads, empty
    request = wire.serialise(hostile.request("bank", "0" * 32))
    body = request + before + b"\x52" + varint(len(many)) + many
    signature = identity.sign(hostile.key, identity.ENVELOPE, body)
    envelope = wire.serialise(wire.Envelope(request=body, signature=signature))
    tracemalloc.start()
    found = wire.parse(wire.ReplyBody, hostile.raw("bank", envelope).body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.refusal.code == Code.MALFORMED
    assert peak < 64 << 20


def varint(number: int) -> bytes:
    data = b""
    while number > 127:
        data, number = data + bytes([number & 127 | 128]), number >> 7
    return data + bytes([number])


def test_refused_releases_use_up_no_rate_and_keep_nothing(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance = make_alliance()
    limited(alliance, releases_per_hour=5)
    with Room(alliance) as room:
        hostile, gate = Hostile(alliance, room.gates), room.gates["bank"]
        opened = hostile.open(count())
        share = wire.Share(sender="x", receiver="bank", sealed=bytes(1 << 20))
        release = wire.Release(indexes=[0], prepared=opened.prepared, shares=[share])
        assert hostile.code("bank", opened.id, release=release) == Code.ROSTER
        assert hostile.release("bank", opened, [0] * 1000).refusal.code == Code.MALFORMED
        kept = gate.store.row("SELECT SUM(length(sealed)) FROM secrets")
        assert kept is not None
        assert kept[0] < 1 << 16
        assert hostile.release("bank", opened, [0]).HasField("masked")


def test_specifications_of_jobs_that_are_over_are_not_kept(room: Room, hostile: Hostile) -> None:
    gate = room.gates["bank"]
    where = " or ".join(f"age == {n}" for n in range(40))
    measures = ["histogram(age, 12)" + " " * n for n in range(100, 140)]
    for number in range(5):
        query = {"measures": measures, "where": where[: where.rindex(" or ", 0, 480)]}
        opened = hostile.new(count(name=f"a{number}", query=query))
        assert hostile.hello("bank", opened).HasField("hello")
        hostile.send("bank", opened.id, cancel=wire.Cancel())
    kept = gate.store.row("SELECT SUM(length(spec)) FROM jobs")
    assert kept == (0,)
