"""The table as it was at a job's first release: read once, kept encrypted, shared by jobs over a table
that has not changed, gone with the last of them.

Each snapshot has a key of its own, wiped with it (:mod:`client.jobkeys`). A gate that was killed goes on from
the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag

from client.home import Home
from client.store import Store
from client.table import Report, Snapshot, Source, signature
from privacy.errors import DataError, Refused
from privacy.randomness import Randomness
from protos.addresses import JobId
from protos.alliance import Contract
from protos.files import write_private
from protos.jobs import Job
from protos.refusal import Code
from protos.toml import canonical


@dataclass(frozen=True)
class Rows:
    """A snapshot and the digest of its bytes."""

    snapshot: Snapshot
    digest: bytes


class Snapshots:
    """Snapshots of one partner. ``read``: see :func:`client.table.read`; ``most``: bytes in ``state``."""

    def __init__(
        self,
        home: Home,
        store: Store,
        contract: Contract,
        randomness: Randomness,
        read: Callable[..., tuple[Snapshot, Report]],
        most: int,
    ) -> None:
        self._home, self._store, self._contract = home, store, contract
        self._randomness, self._read, self._most = randomness, read, most
        self._last: tuple[str, Rows] | None = None

    def rows(self, job_id: JobId, job: Job, now: float) -> Rows:
        """The job's rows, read now if it has none yet.

        To be called after the charge. Raises DataError, ConfigError, OSError or Refused(STORAGE): the table,
        the disk or the memory, never a row's value.
        """
        found = self._store.row("SELECT snapshot FROM jobs WHERE id = ?", job_id)
        identity = str(found[0]) if found and found[0] else None
        if identity is None:
            identity = self._shared(job) or self._new(job, now)
            self._store.execute("UPDATE jobs SET snapshot = ? WHERE id = ?", identity, job_id)
        if self._last is None or self._last[0] != identity:
            self._last = (identity, self._load(JobId(identity)))
        return self._last[1]

    def drop_unused(self) -> None:
        """Remove every snapshot that no open job reads: key first, then file."""
        for (identity,) in self._store.rows(
            "SELECT id FROM snapshots WHERE id NOT IN"
            " (SELECT snapshot FROM jobs WHERE state = 'open' AND snapshot IS NOT NULL)"
        ):
            self._store.jobkeys.wipe(JobId(identity))
            (self._home.snapshots / identity).unlink(missing_ok=True)
            self._store.execute("DELETE FROM snapshots WHERE id = ?", identity)
            if self._last is not None and self._last[0] == identity:
                self._last = None

    def sweep(self) -> None:
        """What a killed process left: files that no snapshot owns."""
        self.drop_unused()
        known = {row[0] for row in self._store.rows("SELECT id FROM snapshots")}
        for path in self._home.snapshots.iterdir():
            if path.name not in known:
                path.unlink(missing_ok=True)

    def _shared(self, job: Job) -> str | None:
        source = self._home.source()
        seen = signature(source)
        if seen is None:
            return None
        found = self._store.row(
            "SELECT id FROM snapshots WHERE signature = ?", self._signature(source, seen, job)
        )
        return str(found[0]) if found else None

    def _signature(self, source: Source, seen: bytes, job: Job) -> bytes:
        """What two jobs must have in common to share rows."""
        plain = {
            "columns": {
                c: self._contract.columns[c].model_dump(mode="json") for c in job.columns()
            },
            "mapped": {name: source.columns.get(name) for name in job.columns()},
            "person": [source.person, source.key],
            "most": self._contract.privacy.rows_per_person,
            "seen": seen.hex(),
        }
        return hashlib.sha256(canonical(plain)).digest()

    def _new(self, job: Job, now: float) -> str:
        source = self._home.source()
        seen = signature(source)
        snapshot, _ = self._read(
            source,
            self._contract.declared_columns(),
            sorted(job.columns()),
            rows_per_person=self._contract.privacy.rows_per_person,
        )
        data = snapshot.to_bytes()
        if _size(self._home.snapshots) + _size(self._home.matches) + len(data) > self._most:
            raise DataError("limits.state_bytes in partner.toml leaves no room for this table")
        identity = JobId(self._randomness(16).hex())
        cipher, nonce = self._store.jobkeys.make(identity), self._randomness(12)
        write_private(
            self._home.snapshots / identity, nonce + cipher.encrypt(nonce, data, identity.encode())
        )
        own = self._signature(source, seen, job) if seen is not None else bytes.fromhex(identity)
        self._store.execute(
            "INSERT INTO snapshots VALUES (?, ?, ?, ?)",
            identity, own, hashlib.sha256(data).digest(), now,
        )  # fmt: skip
        return identity

    def _load(self, identity: JobId) -> Rows:
        cipher = self._store.jobkeys.get(identity)
        found = self._store.row("SELECT digest FROM snapshots WHERE id = ?", identity)
        if cipher is None or found is None:
            raise Refused(Code.STORAGE, "the job's snapshot is gone")
        sealed = (self._home.snapshots / identity).read_bytes()
        try:
            data = cipher.decrypt(sealed[:12], sealed[12:], identity.encode())
        except (InvalidTag, ValueError):
            raise Refused(Code.STORAGE, "a file of state/snapshots was altered") from None
        return Rows(Snapshot.from_bytes(data), bytes(found[0]))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
