"""What a partner must not lose: one SQLite file, secrets in it encrypted.

Keys, shares, stored replies and models are sealed with the partner's storage key
(ChaCha20-Poly1305, RFC 8439, random nonce; the row's name is associated data).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privacy.errors import Refused
from privacy.randomness import Randomness
from protos.refusal import Code

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  id TEXT PRIMARY KEY, spec BLOB NOT NULL, created REAL NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('open', 'done', 'cancelled')), report TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS secrets (
  job TEXT NOT NULL, name TEXT NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (job, name));
CREATE TABLE IF NOT EXISTS replies (
  job TEXT NOT NULL, step TEXT NOT NULL, pin BLOB NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (job, step));
CREATE TABLE IF NOT EXISTS charges (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, job TEXT NOT NULL,
  release TEXT NOT NULL, mu2 REAL NOT NULL, delta REAL NOT NULL, UNIQUE (job, release));
CREATE TABLE IF NOT EXISTS disclosures (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, job TEXT NOT NULL,
  kind TEXT NOT NULL, recipient TEXT NOT NULL, purpose TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS journal (
  sequence INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, job TEXT NOT NULL,
  size INTEGER NOT NULL, content BLOB NOT NULL, recipient TEXT NOT NULL,
  previous BLOB NOT NULL, digest BLOB NOT NULL, signature BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS nonces (nonce BLOB PRIMARY KEY, expires REAL NOT NULL);
CREATE TABLE IF NOT EXISTS models (
  name TEXT PRIMARY KEY, time REAL NOT NULL, digest BLOB NOT NULL, sealed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS sets (
  id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, kind TEXT NOT NULL, time REAL NOT NULL,
  size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS caches (
  peer TEXT NOT NULL, name TEXT NOT NULL, receives INTEGER NOT NULL, job TEXT NOT NULL,
  time REAL NOT NULL, asked INTEGER NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (peer, name, receives));
CREATE TABLE IF NOT EXISTS heads (
  party TEXT PRIMARY KEY, sequence INTEGER NOT NULL, digest BLOB NOT NULL);
"""


class Store:
    """A partner's database. One connection, one lock; every write is in a transaction."""

    def __init__(self, path: Path, key: bytes, randomness: Randomness) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._randomness = randomness
        self._lock = threading.RLock()
        self._depth = 0
        existed = path.exists()
        with _storage():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            if not existed:
                path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, also across nesting. Refused(STORAGE) if the disk does not take it."""
        with self._lock, _storage():
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # a full disk may have rolled back already
                    self._db.execute("ROLLBACK")
                raise
            else:
                try:
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            finally:
                self._depth = 0

    def execute(self, statement: str, *values: Any) -> None:
        """Run one statement inside a transaction."""
        with self.transaction():
            self._db.execute(statement, values)

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._lock, _storage():
            return list(self._db.execute(statement, values))

    def row(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row of a query, if any."""
        found = self.rows(statement, *values)
        return found[0] if found else None

    # ------------------------------------------------------------------ sealed values

    def seal(self, name: str, plain: bytes) -> bytes:
        """Encrypt under the storage key; ``name`` must be given again to open."""
        nonce = self._randomness(12)
        return nonce + self._cipher.encrypt(nonce, plain, name.encode())

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """Inverse of :meth:`seal`. Refused(STORAGE) if it was altered or moved."""
        try:
            return self._cipher.decrypt(sealed[:12], sealed[12:], name.encode())
        except (InvalidTag, ValueError):
            raise Refused(Code.STORAGE, f"{name} in the database was altered") from None

    def put_secret(self, job: str, name: str, plain: bytes) -> None:
        """Keep a secret of a job."""
        sealed = self.seal(f"{job}/{name}", plain)
        self.execute("INSERT OR REPLACE INTO secrets VALUES (?, ?, ?)", job, name, sealed)

    def secret(self, job: str, name: str) -> bytes | None:
        """A secret of a job, if there is one."""
        found = self.row("SELECT sealed FROM secrets WHERE job = ? AND name = ?", job, name)
        return self.unseal(f"{job}/{name}", found[0]) if found else None

    def put_reply(self, job: str, step: str, pin: bytes, body: bytes) -> None:
        """Store the one answer to a step, pinned to what it answers."""
        sealed = self.seal(f"{job}/{step}", body)
        self.execute("INSERT INTO replies VALUES (?, ?, ?, ?)", job, step, pin, sealed)

    def reply(self, job: str, step: str, pin: bytes) -> bytes | None:
        """The stored answer to a step. Refused(STATE) if it was given for something else."""
        found = self.row("SELECT pin, sealed FROM replies WHERE job = ? AND step = ?", job, step)
        if found is None:
            return None
        if found[0] != pin:
            raise Refused(Code.STATE, f"{step} was answered before for another state or cohort")
        return self.unseal(f"{job}/{step}", found[1])

    def erase(self, job: str) -> None:
        """Erase keys, shares and replies of a job; charges and journal stay."""
        with self.transaction():
            self._db.execute("DELETE FROM secrets WHERE job = ?", (job,))
            self._db.execute("DELETE FROM replies WHERE job = ?", (job,))


@contextmanager
def _storage() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Refused(Code.STORAGE, f"the ledger database failed: {error}") from None
    except OSError as error:
        raise Refused(Code.STORAGE, f"the ledger database failed: {error.strerror}") from None
