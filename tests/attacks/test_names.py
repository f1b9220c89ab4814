"""Row 1: a name from outside is never a name inside. Paths, SQL, logs and terminals as sinks."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

import pytest

from client.home import Home
from protos import wire
from protos.addresses import JobId
from protos.refusal import Code
from simulations.attacks.rows.names import BODIES
from simulations.room import Room
from tests.attacks.hostile import Hostile, count


def files(root: Path) -> dict[str, str]:
    """Every file below a folder and its digest, but for SQLite's own."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith("gate.db")
    }


def paths(home: Home, victim: Path) -> list[str]:
    return [
        str(victim), str(home.root), str(home.keys), "../gate.db", "../gate.db-wal", "../../keys",
        "../../bank.csv", "..", ".", "", "/", "a/../../keys", "../snapshots", "\0", "x" * 100_000,
        "'; DROP TABLE jobs; --", "\x1b[2J\r\nbank is fine", "\u202e" + "0" * 31, "0" * 31, "0" * 33,
        "A" * 32, "０" * 32, "0" * 31 + "\n", "%s%n", "0" * 32 + "/../..",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", BODIES)
def test_no_message_with_a_path_for_a_job_touches_anything(
    kind: str, room: Room, hostile: Hostile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    room.run(count())
    victim = tmp_path / "somebody's"
    (victim / "deep").mkdir(parents=True)
    (victim / "deep" / "x").write_text("x")
    home = room.alliance.partners["bank"]
    before, spent, head = files(tmp_path), hostile.spent("bank"), room.gates["bank"].journal.head()
    with caplog.at_level(logging.INFO):
        for path in paths(home, victim):
            assert hostile.code("bank", path, **BODIES[kind]) == Code.MALFORMED, path
    assert files(tmp_path) == before
    assert (hostile.spent("bank"), room.gates["bank"].journal.head()) == (spent, head)
    assert room.gates["bank"].store.rows("SELECT COUNT(*) FROM jobs") == [(1,)]
    assert "\x1b" not in caplog.text
    assert "DROP TABLE" not in caplog.text
    room.run(count(name="after"))


@pytest.mark.parametrize("kind", sorted(BODIES.keys() - {"hello"}))
def test_unknown_and_closed_jobs_are_refused_and_nothing_is_touched(
    kind: str, room: Room, hostile: Hostile, tmp_path: Path
) -> None:
    outcome = room.run(count())
    opened = hostile.new(count(name="mine"))
    hostile.hello("bank", opened)
    hostile.send("bank", opened.id, cancel=wire.Cancel())
    before, spent, head = files(tmp_path), hostile.spent("bank"), room.gates["bank"].journal.head()
    assert hostile.code("bank", "f" * 32, **BODIES[kind]) == Code.UNKNOWN_JOB
    if kind != "finish":  # asked again it gives the same head
        assert hostile.code("bank", outcome.job_id, **BODIES[kind]) == Code.JOB_CLOSED
    if kind != "cancel":
        assert hostile.code("bank", opened.id, **BODIES[kind]) == Code.JOB_CLOSED
    assert files(tmp_path) == before
    assert (hostile.spent("bank"), room.gates["bank"].journal.head()) == (spent, head)


def test_a_gate_that_takes_names_as_they_come_is_found(room: Room, tmp_path: Path) -> None:
    """The planted bug: the same sink, with a name that nobody parsed."""
    victim = tmp_path / "somebody's"
    victim.mkdir()
    (victim / "x").write_text("x")
    before = files(tmp_path)
    gate = room.gates["bank"]
    shutil.rmtree(gate.home.matches / JobId(str(victim)), ignore_errors=True)
    assert files(tmp_path) != before
