"""The partner's one book: what left, what was charged, what was decided; hash-chained and signed.

Entry n's digest covers its fields and the digest of entry n - 1, and is signed with the partner's identity
key. Charges are entries too, so the ledger is a sum over the journal and cannot be edited apart from it.

    edited, or out of order     the chain does not fit: found at start, at the next entry, by ``verify``
    cut at its end, or restored from a backup     peers hold signed heads and state them in their next
                                message: found then; the journal goes on *from the highest head*, and the
                                difference to what that head says was spent is charged
    rewritten with the key      the same: heads that peers hold do not fit

A job is opened with the price of its whole plan, before any of it is charged: the head that peers see
says what *will* have been spent, so nothing that is charged later in the job is lost with a restored
backup.

A head of another partner that the alliance agreed to forget (:mod:`protos.repairs`) is an entry as well, with
the signatures of those who agreed.

What is not handled: whoever has the disk and the identity key can write what he likes after the last head
that a peer saw (docs/security.md).
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.store import Store
from privacy.errors import ConfigError, ProtocolError, TallystickError, WireError
from protos import identity, repairs, wire
from protos.statements import LARGEST_SEQUENCE, JournalHead
from protos.toml import canonical

GENESIS = bytes(32)
CHARGE, CARRIED, RESTORED = "charge", "charges of 0.3.0", "restored"
REPAIR = "repair"
OPENED, CLOSED = "job opened", "job closed"
ONCE = ("hello", "finish")
"""Replies that state this gate's head: what they say else does not change when they are asked for again."""
BATCH = 1000
_TYPES = (int, int, float, str, str, int, bytes, str, bytes, bytes, bytes, bytes)
"""Of a row of the table; a body may be missing."""


class BrokenJournal(TallystickError):
    """The journal was edited; ``sequence`` is the first entry that does not fit."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        super().__init__(
            f"the journal was edited at entry {sequence}: restore state/ from your backup; the gate then"
            " continues from what its peers saw"
        )


@dataclass(frozen=True)
class Charge:
    """One release's price: ``mu2`` and what it adds to delta."""

    release: str
    mu2: float
    delta: float


@dataclass(frozen=True)
class Charged:
    """A charge as the journal has it: in which entry, and when it counts from."""

    sequence: int
    time: float
    job: str
    charge: Charge


@dataclass(frozen=True)
class Entry:
    """One line of the journal. ``content``: SHA-256 of what was sent or of ``body``; ``size`` in bytes.

    ``body``: kept where the journal itself needs it (charges); None for messages that left.
    ``version``: 1 for entries of 0.3.0, whose digest had no body.
    """

    sequence: int
    version: int
    time: float
    kind: str
    job: str
    size: int
    content: bytes
    recipient: str
    body: bytes | None
    previous: bytes

    def digest(self) -> bytes:
        """SHA-256 over all fields, length-prefixed."""
        domain = (
            b"tallystick/v1/journal entry" if self.version == 1 else b"tallystick/v2/journal entry"
        )
        digest = hashlib.sha256(domain)
        try:
            digest.update(struct.pack(">QdQ", self.sequence, self.time, self.size))
        except struct.error:
            raise BrokenJournal(self.sequence) from None
        parts = [self.kind.encode(), self.job.encode(), self.recipient.encode()]
        if self.version > 1:
            parts.append(b"" if self.body is None else b"\x01" + self.body)
        for part in parts:
            digest.update(len(part).to_bytes(4, "big") + part)
        digest.update(self.content + self.previous)
        return digest.digest()

    def charges(self) -> list[Charged]:
        """What the entry charges. Raises ValueError, KeyError, TypeError if its body does not parse."""
        if self.version == 1 or self.body is None:
            return []
        if self.kind in (CHARGE, RESTORED, CARRIED):
            return [
                Charged(
                    self.sequence, float(row.get("time", self.time)), str(row.get("job", self.job)),
                    _positive(Charge(str(row["release"]), float(row["mu2"]), float(row["delta"]))),
                )
                for row in json.loads(self.body)["charges"]
            ]  # fmt: skip
        return []


@dataclass(frozen=True)
class Verified:
    """What :func:`verify` found. ``vouched``: the highest entry whose head a peer's statement held, 0 if
    none did; ``mu2`` and ``delta``: charged in all."""

    entries: int
    mu2: float
    delta: float
    vouched: int


class Journal:
    """Appends entries and holds the sums of what was charged. ``clock`` gives seconds since the epoch.

    Several processes may append to one file: each looks at what the others wrote before it goes on. Raises
    BrokenJournal when what is there does not continue what this process saw.
    """

    def __init__(self, store: Store, key: Ed25519PrivateKey, clock: Callable[[], float]) -> None:
        self._store, self._key, self._clock = store, key, clock
        self._public = key.public_key().public_bytes_raw()
        self._sequence, self._digest = 0, GENESIS
        self._charged: list[Charged] = []
        self._restored: list[wire.JournalHead] = []
        self._opened: dict[str, Charge] = {}
        self._repaired: dict[int, tuple[str, int, bytes]] = {}
        with store.transaction():
            self._sync()
            self._check_signature()
            self._carry()

    # ------------------------------------------------------------------ reading

    def head(self) -> tuple[int, bytes]:
        """Sequence and digest of the last entry; (0, zeros) at the start."""
        with self._store.transaction():
            self._sync()
            return self._sequence, self._digest

    def at(self, sequence: int) -> bytes | None:
        """Digest of entry ``sequence``, if it exists."""
        if sequence == 0:
            return GENESIS
        if not 0 < sequence <= LARGEST_SEQUENCE:
            return None
        found = self._store.row("SELECT digest FROM journal WHERE sequence = ?", sequence)
        return bytes(found[0]) if found else None

    def knows(self, head: JournalHead) -> bool:
        """Whether this journal has a head of its own, or went on from one that came after it and was charged
        for as much."""
        with self._store.transaction():
            self._sync()
        return self.at(head.sequence) == head.digest or (
            any(head.sequence <= later.sequence for later in self._restored) and self._paid(head)
        )

    def _paid(self, head: JournalHead) -> bool:
        """Whether as much was charged when this journal was restored. What heads state is spent in all, so a
        later one states more."""
        return any(head.mu2 <= later.mu2 for later in self._restored)

    def spent(self) -> tuple[float, float]:
        """mu^2 and delta charged in all, and what open jobs may still charge."""
        with self._store.transaction():
            self._sync()
            mu2 = math.fsum(c.charge.mu2 for c in self._charged)
            delta = math.fsum(c.charge.delta for c in self._charged)
            for job, price in self._opened.items():
                used = [c.charge for c in self._charged if c.job == job]
                mu2 += max(0.0, price.mu2 - math.fsum(c.mu2 for c in used))
                delta += max(0.0, price.delta - math.fsum(c.delta for c in used))
            return mu2, delta

    def anchors(self) -> list[wire.Anchor]:
        """Entries 1, 2, 4, ... before the last: by them a restored journal finds how much of it is that which
        was signed."""
        with self._store.transaction():
            sequence, _ = self.head()
            steps = [sequence - (1 << k) for k in range(sequence.bit_length())]
            found = [(step, self.at(step)) for step in steps if step > 0]
        return [wire.Anchor(sequence=s, digest=digest) for s, digest in found if digest]

    def last_time(self) -> float:
        """When the last entry was written, by the clock of then; 0 at the start."""
        with self._store.transaction():
            self._sync()
            found = self._store.row("SELECT time FROM journal WHERE sequence = ?", self._sequence)
            return float(found[0]) if found else 0.0

    def is_open(self, job: str) -> bool:
        """Whether a job was opened here and not closed."""
        with self._store.transaction():
            self._sync()
            return job in self._opened

    def repaired(self) -> set[tuple[str, int, bytes]]:
        """Heads that the alliance agreed to forget: party, entry and its digest."""
        with self._store.transaction():
            self._sync()
            return set(self._repaired.values())

    def charged(self) -> Sequence[Charged]:
        """Every charge, in order."""
        with self._store.transaction():
            self._sync()
            return list(self._charged)

    def _sync(self) -> None:
        last = self._store.row("SELECT digest FROM journal WHERE sequence = ?", self._sequence)
        if self._sequence and (last is None or bytes(last[0]) != self._digest):
            raise BrokenJournal(self._sequence)
        for entry, digest, _ in entries(self._store, self._sequence):
            _check(entry, digest, self._sequence, self._digest, self._public)
            self._take(entry, digest)

    def _take(self, entry: Entry, digest: bytes) -> None:
        try:
            self._charged += entry.charges()
            if entry.kind == OPENED and entry.body is not None:
                plain = json.loads(entry.body)
                self._opened[entry.job] = Charge(OPENED, float(plain["mu2"]), float(plain["delta"]))
            if entry.kind == REPAIR:
                self._repaired[entry.sequence] = repairs.from_kept(entry.body or b"").head
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError):
            raise BrokenJournal(entry.sequence) from None
        if entry.kind == CLOSED:
            self._opened.pop(entry.job, None)
        if entry.kind == RESTORED and (head := _restored_from(entry, self._public)) is not None:
            self._restored.append(head)
        self._sequence, self._digest = entry.sequence, digest

    def _check_signature(self) -> None:
        """One signature at the end vouches for the whole chain."""
        found = self._store.row("SELECT signature FROM journal WHERE sequence = ?", self._sequence)
        if found:
            _check_signed(self._public, self._sequence, self._digest, bytes(found[0]))

    # ------------------------------------------------------------------ writing

    def record(self, kind: str, job: str, data: bytes, recipient: str) -> None:
        """Journal a message that is about to leave."""
        self.record_digest(kind, job, len(data), hashlib.sha256(data).digest(), recipient)

    def record_once(self, kind: str, job: str, data: bytes, recipient: str) -> None:
        """The same, for a message that may leave again: byte for byte, or with a head that is newer
        (``hello`` and ``finish``). It is journalled the first time."""
        content = hashlib.sha256(data).digest()
        again = "" if kind in ONCE else " AND content = ?"
        with self._store.transaction():
            found = self._store.row(
                f"SELECT 1 FROM journal WHERE job = ? AND kind = ?{again}",
                job, kind, *([] if kind in ONCE else [content]),
            )  # fmt: skip
            if found is None:
                self.record_digest(kind, job, len(data), content, recipient)

    def record_digest(self, kind: str, job: str, size: int, content: bytes, recipient: str) -> None:
        """The same for a stream that was hashed as it went."""
        self._append(kind, job, size, content, recipient, None)

    def charge(self, job: str, charges: Sequence[Charge], time: float | None = None) -> None:
        """Journal what is charged for a job. ``time``: from when it counts; this clock's if None."""
        counted = {} if time is None else {"time": time}
        self._append_body(CHARGE, job, {"charges": [_plain(c) | counted for c in charges]})

    def open(self, job: str, what: bytes, price: Charge) -> None:
        """Journal that a job begins, and what it may charge in all. ``what``: digest of who takes part."""
        plain = {"mu2": price.mu2, "delta": price.delta, "what": what.hex()}
        self._append_body(OPENED, job, plain)

    def close(self, job: str, state: str) -> None:
        """Journal that a job that was opened is over; nothing more will be charged for it."""
        if self.is_open(job):
            self._append_body(CLOSED, job, {"state": state})

    def repair(self, repair: repairs.Repair) -> None:
        """Journal what all others signed: a head that is forgotten, with their signatures."""
        body = repair.kept()
        self._append(REPAIR, "", len(body), hashlib.sha256(body).digest(), repair.party, body)

    def restore(self, head: JournalHead, proof: bytes) -> None:
        """Go on from a head of our own that a peer held and that this journal does not have.

        ``proof``: that head as signed. What was charged up to it and is missing here is charged again: all
        that the head says was spent, less what this journal had spent by the last entry that both have, which
        the head's anchors show. Where nothing does, all of it.
        """
        with self._store.transaction():
            self._sync()
            both = max(
                (a.sequence for a in head.anchors if self.at(a.sequence) == a.digest), default=0
            )
            known = [c.charge for c in self._charged if c.sequence <= both]
            lost = Charge(
                RESTORED,
                0.0 if self._paid(head) else max(0.0, head.mu2 - sum(c.mu2 for c in known)),
                max(0.0, head.delta - sum(c.delta for c in known)),
            )
            # It counts from the latest time that anything shows: a clock set back must not date it out of the
            # running period.
            time = max([self._clock(), float(head.time), *(c.time for c in self._charged)])
            body = {"charges": [_plain(lost) | {"time": time}], "head": proof.hex()}
            self._append_body(RESTORED, "", body, at=max(head.sequence, self._sequence))

    def _carry(self) -> None:
        """Charges of 0.3.0, which were not entries, become one."""
        rows = self._store.rows("SELECT time, job, release, mu2, delta FROM carried ORDER BY rowid")
        if not rows:
            return
        if self._store.row("SELECT 1 FROM journal WHERE version > 1"):
            raise BrokenJournal(self._sequence)  # only the migration writes there, before any entry
        names = ("time", "job", "release", "mu2", "delta")
        charges = [dict(zip(names, row, strict=True)) for row in rows]
        self._append_body(CARRIED, "", {"charges": charges})
        self._store.execute("DELETE FROM carried")

    def _append_body(self, kind: str, job: str, plain: Any, at: int | None = None) -> None:
        body = canonical(plain)
        self._append(kind, job, len(body), hashlib.sha256(body).digest(), "", body, at)

    def _append(
        self, kind: str, job: str, size: int, content: bytes, recipient: str, body: bytes | None,
        at: int | None = None,
    ) -> None:  # fmt: skip
        with self._store.transaction():
            self._sync()
            sequence = (self._sequence if at is None else at) + 1
            entry = Entry(
                sequence, 2, self._clock(), kind, job, size, content, recipient, body, self._digest
            )
            digest = entry.digest()
            before = (
                self._sequence, self._digest, len(self._charged), dict(self._opened),
                len(self._restored),
            )  # fmt: skip
            self._store.execute(
                "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                entry.sequence, entry.version, entry.time, kind, job, size, content, recipient, body,
                entry.previous, digest, identity.sign(self._key, identity.JOURNAL, digest),
            )  # fmt: skip
            self._take(entry, digest)
            self._store.on_rollback(lambda: self._go_back(*before))

    def _go_back(
        self, sequence: int, digest: bytes, charged: int, opened: dict[str, Charge], restored: int
    ) -> None:
        """The transaction that an entry was written in did not stand."""
        if sequence < self._sequence:
            self._sequence, self._digest = sequence, digest
            self._opened = opened
            del self._charged[charged:]
            del self._restored[restored:]
            self._repaired = {n: head for n, head in self._repaired.items() if n <= sequence}


def entries(store: Store, after: int = 0) -> Iterator[tuple[Entry, bytes, bytes]]:
    """Entries behind ``after`` in order, with the digest and signature that stand beside each."""
    while True:
        rows = store.rows(
            "SELECT sequence, version, time, kind, job, size, content, recipient, body, previous, digest,"
            " signature FROM journal WHERE sequence > ? ORDER BY sequence LIMIT ?",
            after, BATCH,
        )  # fmt: skip
        for row in rows:
            types = tuple(type(value) for value in row if value is not None)
            if types not in (_TYPES, _TYPES[:8] + _TYPES[9:]):
                raise BrokenJournal(int(row[0]))  # SQLite keeps whatever type an edit left
            entry = Entry(*row[:10])
            yield entry, row[10], row[11]
        if len(rows) < BATCH:
            return
        after = int(rows[-1][0])


def verify(store: Store, public: bytes) -> Verified:
    """Recompute the whole journal, and the ledger with it. Raises BrokenJournal at the first edit.

    ``vouched`` says up to where peers hold signed heads, by what the last signed messages of peers stated.
    """
    count, sequence, previous, mu2, delta = 0, 0, GENESIS, 0.0, 0.0
    for entry, digest, signature in entries(store):
        _check(entry, digest, sequence, previous, public)
        _check_signed(public, entry.sequence, digest, signature)
        try:
            for charged in entry.charges():
                mu2, delta = mu2 + charged.charge.mu2, delta + charged.charge.delta
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BrokenJournal(entry.sequence) from None
        count, sequence, previous = count + 1, entry.sequence, digest
    vouched = store.row("SELECT COALESCE(MAX(sequence), 0) FROM vouched")
    return Verified(count, mu2, delta, min(int(vouched[0]), sequence) if vouched else 0)


def _check(entry: Entry, digest: bytes, sequence: int, previous: bytes, public: bytes) -> None:
    """Entry follows on (sequence, previous), and is what its digest says."""
    follows = entry.sequence == sequence + 1 or (
        entry.kind == RESTORED and entry.sequence > sequence and _jumps(entry, sequence, public)
    )
    whole = entry.body is None or hashlib.sha256(entry.body).digest() == entry.content
    if not follows or not whole or entry.previous != previous or entry.digest() != digest:
        raise BrokenJournal(entry.sequence)


def _restored_from(entry: Entry, public: bytes) -> wire.JournalHead | None:
    """The head, signed by this partner itself, that an entry goes on from."""
    try:
        proof = wire.parse(wire.Signed, bytes.fromhex(json.loads(entry.body or b"")["head"]))
        return wire.read_statement(wire.JournalHead, proof, public)
    except (ValueError, KeyError, TypeError, WireError, ProtocolError):
        return None


def _jumps(entry: Entry, sequence: int, public: bytes) -> bool:
    """Numbers may jump only to behind a head that this partner signed itself."""
    head = _restored_from(entry, public)
    return head is not None and entry.sequence == max(head.sequence, sequence) + 1


def _check_signed(public: bytes, sequence: int, digest: bytes, signature: bytes) -> None:
    try:
        identity.verify(public, identity.JOURNAL, digest, signature)
    except ProtocolError:
        raise BrokenJournal(sequence) from None


def _plain(charge: Charge) -> dict[str, Any]:
    return {"release": charge.release, "mu2": charge.mu2, "delta": charge.delta}


def _positive(charge: Charge) -> Charge:
    """A charge adds. Raises ValueError."""
    if not (0.0 <= charge.mu2 < math.inf and 0.0 <= charge.delta < math.inf):
        raise ValueError
    return charge
