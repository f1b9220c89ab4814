"""Every message that left: kind, size, digest, recipient; hash-chained and signed.

Entry n's digest covers its fields and the digest of entry n - 1, and is signed with the partner's
identity key. :func:`verify` finds any edit, deletion, insertion or change of order; a cut at the
end is found by the peers, who hold signed heads.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.store import Store
from privacy.errors import ProtocolError, TallystickError
from protos import identity

GENESIS = bytes(32)


class BrokenJournal(TallystickError):
    """The journal was edited; ``sequence`` is the first entry that does not fit."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        super().__init__(f"the journal was edited at entry {sequence}")


@dataclass(frozen=True)
class Entry:
    """One line of the journal. ``content``: SHA-256 of what was sent; ``size`` in bytes."""

    sequence: int
    time: float
    kind: str
    job: str
    size: int
    content: bytes
    recipient: str
    previous: bytes

    def digest(self) -> bytes:
        """SHA-256 over all fields, length-prefixed."""
        digest = hashlib.sha256(b"tallystick/v1/journal entry")
        digest.update(struct.pack(">QdQ", self.sequence, self.time, self.size))
        for part in (self.kind.encode(), self.job.encode(), self.recipient.encode()):
            digest.update(len(part).to_bytes(4, "big") + part)
        digest.update(self.content + self.previous)
        return digest.digest()


class Journal:
    """Appends entries. ``clock`` gives seconds since the epoch."""

    def __init__(self, store: Store, key: Ed25519PrivateKey, clock: Callable[[], float]) -> None:
        self._store, self._key, self._clock = store, key, clock

    def record(self, kind: str, job: str, data: bytes, recipient: str) -> None:
        """Journal a message that is about to leave."""
        self.record_digest(kind, job, len(data), hashlib.sha256(data).digest(), recipient)

    def record_digest(self, kind: str, job: str, size: int, content: bytes, recipient: str) -> None:
        """The same for a stream that was hashed as it went."""
        with self._store.transaction():
            sequence, previous = self.head()
            entry = Entry(
                sequence + 1, self._clock(), kind, job, size, content, recipient, previous
            )
            digest = entry.digest()
            self._store.execute(
                "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                entry.sequence,
                entry.time,
                kind,
                job,
                size,
                content,
                recipient,
                previous,
                digest,
                identity.sign(self._key, identity.JOURNAL, digest),
            )

    def head(self) -> tuple[int, bytes]:
        """Sequence and digest of the last entry; (0, zeros) at the start."""
        found = self._store.row(
            "SELECT sequence, digest FROM journal ORDER BY sequence DESC LIMIT 1"
        )
        return (int(found[0]), bytes(found[1])) if found else (0, GENESIS)

    def at(self, sequence: int) -> bytes | None:
        """Digest of entry ``sequence``, if it exists."""
        if sequence == 0:
            return GENESIS
        found = self._store.row("SELECT digest FROM journal WHERE sequence = ?", sequence)
        return bytes(found[0]) if found else None


def verify(store: Store, public: bytes) -> int:
    """Number of entries, all intact. Raises BrokenJournal at the first edit."""
    previous, expected = GENESIS, 1
    for row in store.rows(
        "SELECT sequence, time, kind, job, size, content, recipient, previous, digest, signature"
        " FROM journal ORDER BY sequence"
    ):
        entry = Entry(
            int(row[0]), float(row[1]), str(row[2]), str(row[3]), int(row[4]), bytes(row[5]),
            str(row[6]), bytes(row[7]),
        )  # fmt: skip
        digest = entry.digest()
        if entry.sequence != expected or entry.previous != previous or digest != bytes(row[8]):
            raise BrokenJournal(expected)
        try:
            identity.verify(public, identity.JOURNAL, digest, bytes(row[9]))
        except ProtocolError:
            raise BrokenJournal(expected) from None
        previous, expected = digest, expected + 1
    return expected - 1
