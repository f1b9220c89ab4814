"""Row 11: erased means erased. Nothing of a job that ended can be opened, whoever has the disk and
storage.key."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from client.jobkeys import JobKeys
from client.store import Store
from privacy.errors import Refused
from protos import wire
from protos.addresses import JobId
from simulations.alliances import Alliance
from simulations.attacks.disk import everything
from simulations.room import Room
from tests.attacks.hostile import Hostile, count
from tests.conftest import SEGMENT, job


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_keys_of_a_job_are_in_no_file_once_it_ended(
    room: Room, hostile: Hostile, end: str, tmp_path: Path
) -> None:
    home, gate = room.alliance.partners["bank"], room.gates["bank"]
    opened = hostile.open(count())
    job_id = JobId(opened.id)
    plain = [gate.store.secret(job_id, name) for name in ("keys", "noise", "sealing")]
    sealed = [row[0] for row in gate.store.rows("SELECT sealed FROM secrets")]
    cipher = gate.store.jobkeys.get(job_id)
    assert cipher is not None
    key_file = (home.state / "jobkeys" / job_id).read_bytes()
    hostile.release("bank", opened, [0])
    snapshot = next(iter(home.snapshots.iterdir()))
    snapshot_key = (home.state / "jobkeys" / snapshot.name).read_bytes()
    body = {"finish": wire.Finish()} if end == "finish" else {"cancel": wire.Cancel()}
    hostile.send("bank", opened.id, **body)
    left = everything(home.root)
    for secret in plain:
        assert secret is not None
        assert secret not in left
    for remnant in [*sealed, key_file, snapshot_key]:
        assert bytes(remnant) not in left
    assert list(home.snapshots.iterdir()) == []
    # and if sealed rows survived somewhere, in a log or on a disk: their key is gone
    store = Store(home.database, home.storage_key(), lambda n: bytes(n))
    store.execute("INSERT INTO secrets VALUES (?, 'keys', ?)", job_id, sealed[0])
    with pytest.raises(Refused, match="key is gone"):
        store.secret(job_id, "keys")
    with pytest.raises(InvalidTag):
        ChaCha20Poly1305(home.storage_key()).decrypt(sealed[0][:12], sealed[0][12:], b"")
    store.close()


def test_a_gate_that_was_killed_before_it_erased_sweeps_when_it_starts(
    room: Room, hostile: Hostile
) -> None:
    home = room.alliance.partners["bank"]
    opened = hostile.open(count())
    hostile.release("bank", opened, [0])
    room.gates["bank"].store.execute("UPDATE jobs SET state = 'done'")  # killed right after this
    (home.matches / ("a" * 32)).mkdir()
    (home.matches / ("a" * 32) / "log").write_bytes(b"x")
    (home.snapshots / ("b" * 32)).write_bytes(b"x")
    with Room(room.alliance):
        assert list(home.snapshots.iterdir()) == []
        assert list(home.matches.iterdir()) == []
        assert list((home.state / "jobkeys").iterdir()) == []


def test_the_search_would_find_a_key_that_was_only_unlinked_in_the_database(
    room: Room, hostile: Hostile, tmp_path: Path
) -> None:
    """The planted bug: secrets under the storage key, deleted by SQL, as in 0.3.0."""
    home, gate = room.alliance.partners["bank"], room.gates["bank"]
    sealed = gate.store.seal("job/keys", b"mask keys of the job")
    gate.store.execute("INSERT INTO secrets VALUES ('x', 'keys', ?)", sealed)
    gate.store.execute("DELETE FROM secrets")
    assert sealed in everything(home.root)


def test_a_key_is_overwritten_in_place(tmp_path: Path) -> None:
    keys = JobKeys(tmp_path / "k", bytes(32), lambda n: b"\x55" * n)
    name = JobId("c" * 32)
    keys.make(name)
    linked = tmp_path / "another name of the same file"
    linked.hardlink_to(tmp_path / "k" / name)
    keys.wipe(name)
    assert set(linked.read_bytes()) == {0}
    assert keys.get(name) is None
    keys.wipe(name)  # once more is no error


def test_no_raw_key_of_a_customer_is_in_a_snapshot(room: Room, hostile: Hostile) -> None:
    home, gate = room.alliance.partners["bank"], room.gates["bank"]
    opened = hostile.new(job(**SEGMENT))
    hostile.hello("bank", opened)
    rows = gate.snapshots.rows(JobId(opened.id), opened.job, 0.0)
    assert b"C00001" not in rows.snapshot.to_bytes()
    shutil.rmtree(home.snapshots)


def test_a_match_that_runs_on_after_its_job_was_closed_keeps_nothing(
    make_alliance: Callable[..., Alliance],
) -> None:
    size = {"identifier": "email", "parties": ["bank", "shop"], "result": "size"}
    with Room(make_alliance(partners=2)) as room:
        hostile, gate = Hostile(room.alliance, room.gates), room.gates["bank"]
        opened = hostile.new(job(name="m", kind="match", epsilon=0.5, match=size))
        for name in room.gates:
            hostile.hello(name, opened)
        waiting = threading.Thread(
            target=lambda: hostile.send("bank", opened.id, match=wire.Match())
        )
        waiting.start()  # for a shop that does not come
        time.sleep(0.5)
        assert hostile.code("bank", opened.id, cancel=wire.Cancel()) == "finish"
        waiting.join(60)
        assert not waiting.is_alive()
        for table in ("secrets", "replies", "releases"):
            assert gate.store.rows(f"SELECT * FROM {table}") == []
        home = room.alliance.partners["bank"]
        assert list((home.state / "jobkeys").iterdir()) == []
        assert list(home.matches.iterdir()) == []
        assert gate.ledger.standing().releases == 0
        with pytest.raises(Refused, match="cancelled"):
            gate.store.put_secret(JobId(opened.id), "late", b"x")
