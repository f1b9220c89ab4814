"""The coordinator's memory: jobs, totals, models, ledger heads. SQLite.

A job's totals are kept as they come, so a restarted coordinator replays them into the program and
goes on from the last release.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import ConfigError, RoundFailed, WireError
from privacy.programs.columns import Floats
from protos import jobs, wire
from protos.files import made_private, own_folder
from protos.statements import LARGEST_HEAD

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, spec BLOB NOT NULL, salt BLOB NOT NULL,
  state TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
  done INTEGER NOT NULL DEFAULT 0, planned INTEGER NOT NULL DEFAULT 0,
  starts INTEGER NOT NULL DEFAULT 0, stats TEXT NOT NULL DEFAULT '{}',
  result TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS totals (
  job TEXT NOT NULL, release INTEGER NOT NULL, total BLOB NOT NULL, deviation REAL NOT NULL,
  PRIMARY KEY (job, release));
CREATE TABLE IF NOT EXISTS models (
  name TEXT PRIMARY KEY, job TEXT NOT NULL, spec BLOB NOT NULL, model TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS heads (party TEXT PRIMARY KEY, signed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS untold (job TEXT PRIMARY KEY, parties TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS forgotten (
  party TEXT NOT NULL, sequence INTEGER NOT NULL, digest BLOB NOT NULL, repair BLOB NOT NULL,
  PRIMARY KEY (party, sequence, digest));
"""

OPEN_STATES = ("queued", "running")
_FIELDS = (
    "id, name, spec, salt, state, created, updated, done, planned, starts, stats, result, reason"
)


@dataclass(frozen=True)
class JobRow:
    """One job as stored. ``state``: queued, running, done, failed or cancelled."""

    id: str
    name: str
    spec: bytes
    salt: bytes
    state: str
    created: float
    updated: float
    done: int
    planned: int
    starts: int
    stats: dict[str, Any]
    result: dict[str, Any]
    reason: str

    def job(self) -> jobs.Job:
        """The specification."""
        return jobs.from_canonical(self.spec)


class Store:
    """The coordinator's database; safe for several processes. ``clock`` gives seconds."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        own_folder(path.parent)
        made_private(path)  # SQLite would make it as the umask has it
        self._clock, self._lock = clock, threading.RLock()
        with _database():
            self._db = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=30.0
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def now(self) -> float:
        """This machine's time, in seconds since the epoch."""
        return self._clock()

    def _run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock, _database():
            return list(self._db.execute(statement, values))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and nobody else writes in between. Not to be nested."""
        with self._lock:
            self._run("BEGIN IMMEDIATE")
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    # ------------------------------------------------------------------ jobs

    def add(self, job_id: str, job: jobs.Job, salt: bytes) -> None:
        """Queue a job."""
        now = self._clock()
        self._run(
            "INSERT INTO jobs (id, name, spec, salt, state, created, updated)"
            " VALUES (?, ?, ?, ?, 'queued', ?, ?)",
            job_id, job.name, job.canonical(), salt, now, now,
        )  # fmt: skip

    def job(self, prefix: str) -> JobRow:
        """The newest job of that name, or the job whose id starts so (four characters or more)."""
        rows = self._run(
            f"SELECT {_FIELDS} FROM jobs WHERE name = ? OR (length(?) >= 4"
            " AND substr(id, 1, length(?)) = ?) ORDER BY name = ? DESC, created DESC, rowid DESC LIMIT 1",
            *[prefix] * 5,
        )
        if not rows:
            raise ConfigError("job", f"no job {prefix!r}; `results` lists all")
        return _row(rows[0])

    def all_jobs(self) -> list[JobRow]:
        """Every job, newest first."""
        return [
            _row(row)
            for row in self._run(f"SELECT {_FIELDS} FROM jobs ORDER BY created DESC, rowid DESC")
        ]

    def next_open(self) -> JobRow | None:
        """The oldest job that is queued or running."""
        rows = self._run(
            f"SELECT {_FIELDS} FROM jobs WHERE state IN ('queued', 'running')"
            " ORDER BY created, rowid LIMIT 1"
        )
        return _row(rows[0]) if rows else None

    def open_jobs(self) -> list[JobRow]:
        """All jobs that are queued or running, the oldest first."""
        return [
            _row(row)
            for row in self._run(
                f"SELECT {_FIELDS} FROM jobs WHERE state IN ('queued', 'running')"
                " ORDER BY created, rowid"
            )
        ]

    def start(self, job_id: str, planned: int) -> None:
        """Mark a job running, once more."""
        self._run(
            "UPDATE jobs SET state = 'running', planned = ?, starts = starts + 1, updated = ?"
            " WHERE id = ? AND state IN ('queued', 'running')",
            planned, self._clock(), job_id,
        )  # fmt: skip

    def progress(self, job_id: str, done: int, planned: int | None = None) -> None:
        """Note how many releases are in, or how many elements of a match were dealt with."""
        self._run(  # one statement: whoever reads sees both numbers or neither
            "UPDATE jobs SET done = ?, planned = coalesce(?, planned), updated = ? WHERE id = ?",
            done, planned, self._clock(), job_id,
        )  # fmt: skip

    def add_stats(self, job_id: str, more: dict[str, Any]) -> None:
        """Add to a job's running figures: numbers are summed, lists joined."""
        merged = dict(self.job(job_id).stats)
        for key, value in more.items():
            merged[key] = merged[key] + value if key in merged else value
        self._run("UPDATE jobs SET stats = ? WHERE id = ?", _json(merged), job_id)

    def end(self, job_id: str, state: str, result: dict[str, Any], reason: str = "") -> None:
        """Close an open job. A job that is closed already stays as it is.

        Raises RoundFailed for a result with a number that is not finite: nothing is written then.
        """
        self._run(
            "UPDATE jobs SET state = ?, result = ?, reason = ?, updated = ?"
            " WHERE id = ? AND state IN ('queued', 'running')",
            state, _json(result), reason, self._clock(), job_id,
        )  # fmt: skip

    def cancel_failed(self, job_id: str, parties: Sequence[str]) -> None:
        """Close a failed job for good; ``parties`` are told when the next job runs."""
        self._run(
            "INSERT OR IGNORE INTO untold SELECT id, ? FROM jobs WHERE id = ? AND state = 'failed'",
            " ".join(parties), job_id,
        )  # fmt: skip
        self._run("UPDATE jobs SET state = 'cancelled' WHERE id = ? AND state = 'failed'", job_id)

    def untold(self) -> list[tuple[str, list[str]]]:
        """Jobs that are over without their partners having been told, and those."""
        rows = self._run("SELECT job, parties FROM untold ORDER BY job")
        return [(str(job), str(parties).split()) for job, parties in rows]

    def told(self, job_id: str) -> None:
        """They have been."""
        self._run("DELETE FROM untold WHERE job = ?", job_id)

    def reopen(self, job_id: str) -> None:
        """Let a failed job continue from its last release."""
        self._run(
            "UPDATE jobs SET state = 'queued', reason = '', starts = 0 WHERE id = ? AND state = 'failed'",
            job_id,
        )

    # ------------------------------------------------------------------ totals

    def keep_total(self, job_id: str, release: int, total: Floats, deviation: float) -> None:
        """Checkpoint one noisy total."""
        self._run(
            "INSERT OR IGNORE INTO totals VALUES (?, ?, ?, ?)",
            job_id, release, total.astype("<f8").tobytes(), deviation,
        )  # fmt: skip

    def totals(self, job_id: str) -> list[tuple[int, Floats, float]]:
        """Totals so far, in order of release."""
        return [
            (int(r), np.frombuffer(data, dtype="<f8").astype(np.float64), float(deviation))
            for r, data, deviation in self._run(
                "SELECT release, total, deviation FROM totals WHERE job = ? ORDER BY release",
                job_id,
            )
        ]

    # ------------------------------------------------------------------ models and heads

    def keep_model(self, name: str, job_id: str, spec: bytes, model: dict[str, Any]) -> None:
        """Keep a released model under its job's name."""
        self._run(
            "INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)",
            name,
            job_id,
            spec,
            _json(model),
        )

    def model(self, name: str) -> tuple[jobs.Job, dict[str, Any]]:
        """A model and the job that made it, or ConfigError."""
        rows = self._run("SELECT spec, model FROM models WHERE name = ?", name)
        if not rows:
            raise ConfigError("evaluate.model", f"no model called {name!r}; run its job first")
        return jobs.from_canonical(rows[0][0]), json.loads(rows[0][1])

    def keep_head(self, signed: wire.Signed) -> None:
        """Keep a partner's signed journal head, which was read before (:mod:`server.heads`)."""
        self._run(
            "INSERT OR REPLACE INTO heads VALUES (?, ?)", signed.party, wire.serialise(signed)
        )

    def heads(self) -> list[wire.Signed]:
        """The last signed journal head of each partner, as it was kept; what does not parse is left out."""
        found = []
        for party, data in self._run("SELECT party, signed FROM heads ORDER BY party"):
            with suppress(WireError):
                signed = wire.parse(wire.Signed, data, LARGEST_HEAD)
                if signed.party == party:
                    found.append(signed)
        return found

    def forget_head(
        self, party: str, sequence: int, digest: bytes, repair: bytes, *, gone: wire.Signed | None
    ) -> None:
        """Never take this head again; ``gone``: the one that is held, where it is that one."""
        self._run(
            "INSERT OR IGNORE INTO forgotten VALUES (?, ?, ?, ?)", party, sequence, digest, repair
        )
        if gone is not None:
            self._run(
                "DELETE FROM heads WHERE party = ? AND signed = ?", party, wire.serialise(gone)
            )

    def forgotten(self) -> set[tuple[str, int, bytes]]:
        """Party, entry and digest of every head that a repair named."""
        rows = self._run("SELECT party, sequence, digest FROM forgotten")
        return {(str(party), int(sequence), bytes(digest)) for party, sequence, digest in rows}


def _row(row: tuple[Any, ...]) -> JobRow:
    values: list[Any] = list(row)
    # Earlier versions kept NaN and Infinity, which are no JSON.
    values[10] = json.loads(row[10], parse_constant=_nothing)
    values[11] = json.loads(row[11], parse_constant=_nothing) if row[11] else {}
    return JobRow(*values)


def _nothing(_: str) -> None:
    return None


def _json(value: dict[str, Any]) -> str:
    """Raises RoundFailed for what is no JSON."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        raise RoundFailed("a figure of the result is not a finite number") from None


@contextmanager
def _database() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise RoundFailed(f"the coordinator's store failed: {error}; is the disk full?") from None
