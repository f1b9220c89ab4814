"""What this partner holds of the coordinator's call log: the highest head of it that the coordinator signed.

The coordinator logs every call of the link. Who holds its disk can cut that log or write it anew, chain and
all; so each ``hello`` brings how far the log is, under the coordinator's key, and this gate keeps the highest
one, enters it in its own journal (kind ``calls``: the number of lines, and the digest of the last) and states
in its answer the one that it held before. Only the coordinator's own signature comes back to it, so nothing
can be invented here, and it finds what its log has lost (``server/witnesses.py``).

One head is kept, and a job brings one: when it is opened, never again. It names this gate's contract. What it
says of time and length is the coordinator's word, so it is judged by this gate's clock:

    another digest for the line that is held          noted
    fewer lines, signed later                         noted; signed earlier is merely late, as jobs run
                                                      beside each other
    signed more than a day before or after now        noted, not kept: a time far ahead would make each
                                                      shorter log look late. Two days after it came, no
                                                      head is earlier than the one that is held
    more lines than a log can have grown to           noted, not kept: no honest head could follow it.
                                                      GROWTH lines a day since the first head came

What is noted is kept with both signatures and shown by ``doctor``, and is no refusal: it harms nobody's rows.
The owner forgets it once he knows why, with what is held (``heads forget-calls``); the journal says so. A
``hello`` of an older coordinator brings none.

*Not* handled: a coordinator that never logs a call, or signs none of what it logs; one that signs shorter
logs with times that lie before its last head's, for two days.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from client.journal import Journal
from client.store import Store
from privacy.errors import ProtocolError, Refused, WireError
from protos import wire
from protos.addresses import JobId
from protos.alliance import Contract
from protos.refusal import Code

log = logging.getLogger("tallystick.gate")

CALLS = "calls"
FORGOTTEN = "calls forgotten"
DAY = 86_400.0
MOST_LINES = 1 << 53
LARGEST_HEAD = 1024
FIRST = 1_000_000_000
"""Lines that a log may have when its first head comes: 300 GB."""
GROWTH = 10_000_000
"""Lines that a log may grow by in a day, and by which it may be ahead: a hundred calls a second."""
MOST_NOTED = 16
"""Kept of each kind; the first says it all."""
BACK, CLOCK, LENGTH = "back", "clock", "length"


@dataclass(frozen=True)
class Head:
    """A head of the call log and the statement that proves it."""

    said: wire.CallLogHead
    signed: wire.Signed

    @property
    def is_of(self) -> str:
        """The line that it is of, for people."""
        return f"line {self.said.lines} ({self.said.digest.hex()[:16]})"


@dataclass(frozen=True)
class Held:
    """The head that is kept. ``first``: lines of the first one since this key signs, and when it came by this
    gate's clock."""

    head: Head
    first: tuple[int, float]


@dataclass(frozen=True)
class Noted:
    """A head that did not fit when it came, and what was held then."""

    why: str
    shown: Head
    held: Head | None

    def told(self) -> str:
        """What it means, for the owner."""
        if self.why == BACK and self.held is not None:
            return (
                f"was cut, rewritten or restored: {self.held.is_of} is signed, and later {self.shown.is_of};"
                " ask the coordinator what its `doctor` says. This partner's journal holds the first"
            )
        what = (
            "is signed at a time that is more than a day off this machine's clock"
            if self.why == CLOCK else "has more lines than a log can have grown to"
        )  # fmt: skip
        return (
            f"a head of {self.shown.is_of} {what}: it was not taken. Ask the coordinator; then `heads"
            " forget-calls`"
        )


Rows = Callable[[str], list[tuple[Any, ...]]]
"""Runs a query: the gate's store, or the owner's look at it."""


def held_head(rows: Rows, contract: Contract) -> Held | None:
    """The highest head that the coordinator's key signed, under whichever contract: the log is one."""
    for signed, lines, since in rows("SELECT signed, first_lines, first_came FROM calls"):
        if (head := _stored(signed, contract)) is not None:
            return Held(head, (int(lines), float(since)))
    return None


def noted(rows: Rows, contract: Contract) -> list[Noted]:
    """Heads that did not fit, in the order in which they came."""
    found = []
    for why, held, shown in rows("SELECT why, held, shown FROM calls_noted ORDER BY time"):
        head = _stored(shown, contract)
        if head is not None:
            found.append(Noted(str(why), head, _stored(held, contract)))
    return found


def _stored(data: bytes, contract: Contract) -> Head | None:
    """A head from the database; None for none, one of a key that was replaced, or edited."""
    try:
        return _read(wire.parse(wire.Signed, bytes(data), LARGEST_HEAD), contract)
    except (ProtocolError, WireError, TypeError):
        return None


def _read(signed: wire.Signed, contract: Contract) -> Head:
    if signed.ByteSize() > LARGEST_HEAD or signed.party != contract.coordinator.name:
        raise WireError("call log head: not the coordinator's")
    said = wire.read_statement(wire.CallLogHead, signed, contract.coordinator_identity())
    fits = 0 < said.lines <= MOST_LINES and len(said.digest) == len(said.contract) == 32
    if not fits:
        raise WireError("call log head: out of bounds")
    return Head(said, signed)


class CallHeads:
    """The head that one gate holds."""

    def __init__(
        self, store: Store, journal: Journal, contract: Contract, clock: Callable[[], float]
    ) -> None:
        self._store, self._journal, self._contract, self._clock = store, journal, contract, clock

    def held(self) -> wire.Signed | None:
        """The head that is held."""
        held = held_head(self._store.rows, self._contract)
        return held.head.signed if held else None

    def take(self, signed: wire.Signed, job: JobId) -> wire.Signed | None:
        """Keep what the ``hello`` that opens a job brings, if it is higher; the one that was held before.

        Refused(PROTOCOL) where the coordinator did not sign it, not for this contract, or no log can have it.
        """
        held = held_head(self._store.rows, self._contract)
        if signed.body:
            try:
                shown = _read(signed, self._contract)
                if shown.said.contract != self._contract.digest():
                    raise WireError("call log head: of another contract")
            except (ProtocolError, WireError):
                raise Refused(Code.PROTOCOL, "a head of the call log does not fit") from None
            with self._store.transaction():
                self._compare(held, shown, job)
        return held.head.signed if held else None

    def _compare(self, held: Held | None, shown: Head, job: JobId) -> None:
        now, said = self._clock(), shown.said
        first = held.first if held else (said.lines, now)
        if abs(said.time - now) > DAY:
            self._note(CLOCK, held, shown)
        elif said.lines > _most(held, now):
            self._note(LENGTH, held, shown)
        elif held is not None and said.lines <= held.head.said.lines:
            if _went_back(held, shown):
                self._note(BACK, held, shown)
        else:
            self._store.execute("DELETE FROM calls")
            self._store.execute(
                "INSERT INTO calls VALUES (1, ?, ?, ?)",
                wire.serialise(shown.signed),
                *first,
            )
            name = self._contract.coordinator.name
            self._journal.record_digest(CALLS, job, said.lines, said.digest, name)

    def _note(self, why: str, held: Held | None, shown: Head) -> None:
        log.warning(
            "the coordinator's call log: %s", Noted(why, shown, held.head if held else None).told()
        )
        count = self._store.row("SELECT COUNT(*) FROM calls_noted WHERE why = ?", why)
        if count is not None and int(count[0]) < MOST_NOTED:
            self._store.execute(
                "INSERT INTO calls_noted VALUES (?, ?, ?, ?)",
                self._clock(), why, wire.serialise(held.head.signed) if held else b"",
                wire.serialise(shown.signed),
            )  # fmt: skip

    def forget(self) -> int:
        """Forget what is held and what was noted, and journal that; how many heads that were."""
        with self._store.transaction():
            kept = self._store.rows("SELECT signed FROM calls")
            kept += self._store.rows("SELECT shown FROM calls_noted ORDER BY time")
            if kept:
                self._store.execute("DELETE FROM calls")
                self._store.execute("DELETE FROM calls_noted")
                content = hashlib.sha256(b"".join(bytes(row[0]) for row in kept)).digest()
                name = self._contract.coordinator.name
                self._journal.record_digest(FORGOTTEN, "", len(kept), content, name)
        return len(kept)


def _most(held: Held | None, now: float) -> float:
    """Lines that a log can have by now. From the first head on, or each new one would allow more."""
    if held is None:
        return FIRST
    lines, since = held.first
    return lines + GROWTH * (1 + max(0.0, now - since) / DAY)


def _went_back(held: Held, shown: Head) -> bool:
    """Whether a head of no more lines is no late one."""
    before, after = held.head.said, shown.said
    if after.lines == before.lines:
        return after.digest != before.digest
    return after.time > before.time
