"""What a partner must not lose: one SQLite file, secrets in it encrypted.

Models are sealed with the partner's storage key; keys, shares and stored replies of a job with a key of
the job, which is wiped when the job ends (:mod:`client.jobkeys`). ChaCha20-Poly1305 (RFC 8439), random
nonce; the row's name is associated data.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from client import schema
from client.jobkeys import JobKeys
from privacy.errors import Refused
from privacy.randomness import Randomness
from protos.addresses import JobId
from protos.files import made_private
from protos.refusal import Code


class Store:
    """A partner's database. One connection, one lock; every write is in a transaction.

    ``connection``: the class of the connection, for tests that end the process between two statements.
    """

    def __init__(
        self,
        path: Path,
        key: bytes,
        randomness: Randomness,
        *,
        connection: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._randomness = randomness
        self.jobkeys = JobKeys(path.parent / "jobkeys", key, randomness)
        self._lock = threading.RLock()
        self._depth = 0
        self._undo: list[Callable[[], None]] = []
        with _storage():
            made_private(
                path
            )  # SQLite would make it as the umask has it; what lies beside gets its mode
            self._db = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, factory=connection
            )
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.execute("PRAGMA secure_delete=ON")
                schema.prepare(self._db)
            except BaseException:
                self._db.close()
                raise

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
                self._db.execute("COMMIT")
            except BaseException:
                for undo in reversed(self._undo):
                    undo()
                if self._db.in_transaction:  # a full disk may have rolled back already
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0
                self._undo.clear()

    def on_rollback(self, undo: Callable[[], None]) -> None:
        """What to do, in memory, if the running transaction does not stand."""
        self._undo.append(undo)

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

    def put_secret(self, job: JobId, name: str, plain: bytes) -> None:
        """Keep a secret of a job, under the job's key."""
        sealed = self._seal_for(job, f"{job}/{name}", plain)
        self.execute("INSERT OR REPLACE INTO secrets VALUES (?, ?, ?)", job, name, sealed)

    def secret(self, job: JobId, name: str) -> bytes | None:
        """A secret of a job, if there is one."""
        found = self.row("SELECT sealed FROM secrets WHERE job = ? AND name = ?", job, name)
        return self._unseal_for(job, f"{job}/{name}", found[0]) if found else None

    def put_reply(self, job: JobId, step: str, pin: bytes, body: bytes) -> None:
        """Store the one answer to a step, pinned to what it answers."""
        sealed = self._seal_for(job, f"{job}/{step}", body)
        self.execute("INSERT INTO replies VALUES (?, ?, ?, ?)", job, step, pin, sealed)

    def reply(self, job: JobId, step: str, pin: bytes) -> bytes | None:
        """The stored answer to a step. Refused(STATE) if it was given for something else."""
        found = self.row("SELECT pin, sealed FROM replies WHERE job = ? AND step = ?", job, step)
        if found is None:
            return None
        if found[0] != pin:
            raise Refused(Code.STATE, f"{step} was answered before for another state or cohort")
        return self._unseal_for(job, f"{job}/{step}", found[1])

    def _seal_for(self, job: JobId, name: str, plain: bytes) -> bytes:
        state = self.row("SELECT state FROM jobs WHERE id = ?", job)
        if state is not None and state[0] != "open":  # a match that runs on while its job is closed
            raise Refused(Code.JOB_CLOSED, f"the job is {state[0]}: nothing is kept for it")
        nonce = self._randomness(12)
        return nonce + self.jobkeys.make(job).encrypt(nonce, plain, name.encode())

    def _unseal_for(self, job: JobId, name: str, sealed: bytes) -> bytes:
        cipher = self.jobkeys.get(job)
        if cipher is None:
            raise Refused(Code.STORAGE, "the job's key is gone")
        try:
            return cipher.decrypt(sealed[:12], sealed[12:], name.encode())
        except (InvalidTag, ValueError):
            raise Refused(Code.STORAGE, f"{name} in the database was altered") from None

    def erase(self, job: JobId) -> None:
        """Erase keys, shares and replies of a job; charges and journal stay.

        To be called once the job is no longer open: the key is wiped outside the transaction, and what a
        kill in between leaves is swept when the gate starts.
        """
        with self.transaction():
            self.execute("DELETE FROM secrets WHERE job = ?", job)
            self.execute("DELETE FROM replies WHERE job = ?", job)
            self.execute("DELETE FROM releases WHERE job = ?", job)

    def checkpoint(self) -> None:
        """Empty the write-ahead log into the database, where deleted rows are overwritten."""
        with self._lock, _storage():
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def _storage() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Refused(Code.STORAGE, f"the ledger database failed: {error}") from None
    except OSError as error:
        raise Refused(Code.STORAGE, f"the ledger database failed: {error.strerror}") from None
