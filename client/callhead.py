"""What this partner holds of the coordinator's call log: the highest head of it that the coordinator signed.

The coordinator logs every call of the link. Who holds its disk can cut that log or write it anew, chain and
all; so each ``hello`` brings how far the log is, under the coordinator's key, and this gate keeps the highest
one, enters it in its own journal (kind ``calls``: the number of lines, and the digest of the last) and states
in its answer the one that it held before. Only the coordinator's own signature comes back to it, so nothing
can be invented here, and it finds what its log has lost (``server/witnesses.py``).

A head that goes back though it was signed later, or that has another digest for the same line, is noted with
both signatures and shown by ``doctor``; it is no refusal, as it harms nobody's rows. One that was signed
earlier is merely late, as jobs run beside each other. A ``hello`` of an older coordinator brings none.

*Not* handled: a coordinator that never logs a call, or signs none of what it logs.
"""

from __future__ import annotations

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
MOST_LINES = 1 << 53
LARGEST_HEAD = 1024
LATEST = 1 << 40
"""A time in seconds that nobody's clock can show."""
MOST_CONFLICTS = 16
"""Kept; the first says it all."""


@dataclass(frozen=True)
class Head:
    """A head of the call log and the statement that proves it."""

    said: wire.CallLogHead
    signed: wire.Signed

    @property
    def is_of(self) -> str:
        """The line that it is of, for people."""
        return f"line {self.said.lines} ({self.said.digest.hex()[:16]})"


Rows = Callable[[str], list[tuple[Any, ...]]]
"""Runs a query: the gate's store, or the owner's look at it."""


def held_head(rows: Rows, contract: Contract) -> Head | None:
    """The highest head that the coordinator's key signed, under whichever contract: the log is one."""
    found = (_stored(data, contract) for (data,) in rows("SELECT signed FROM calls"))
    return max((h for h in found if h), key=lambda head: head.said.lines, default=None)


def conflicts(rows: Rows, contract: Contract) -> list[tuple[Head, Head]]:
    """Heads that do not fit those that were held when they came, beside those."""
    found = [
        (_stored(held, contract), _stored(shown, contract))
        for held, shown in rows("SELECT held, shown FROM call_conflicts ORDER BY time")
    ]
    return [(held, shown) for held, shown in found if held and shown]


def _stored(data: bytes, contract: Contract) -> Head | None:
    """A head from the database; None for one of a key that was replaced, or edited."""
    try:
        return _read(wire.parse(wire.Signed, bytes(data), LARGEST_HEAD), contract)
    except (ProtocolError, WireError, TypeError):
        return None


def _read(signed: wire.Signed, contract: Contract) -> Head:
    if signed.ByteSize() > LARGEST_HEAD or signed.party != contract.coordinator.name:
        raise WireError("call log head: not the coordinator's")
    said = wire.read_statement(wire.CallLogHead, signed, contract.coordinator_identity())
    fits = 0 < said.lines <= MOST_LINES and said.time <= LATEST
    if not fits or len(said.digest) != 32 or len(said.contract) != 32:
        raise WireError("call log head: out of bounds")
    return Head(said, signed)


class CallHeads:
    """The heads that one gate holds."""

    def __init__(
        self, store: Store, journal: Journal, contract: Contract, clock: Callable[[], float]
    ) -> None:
        self._store, self._journal, self._contract, self._clock = store, journal, contract, clock

    def take(self, signed: wire.Signed, job: JobId) -> wire.Signed | None:
        """Keep what a ``hello`` brings if it is higher; the one that was held before.

        Refused(PROTOCOL) where the coordinator did not sign it, or no log can have it.
        """
        held = held_head(self._store.rows, self._contract)
        if signed.body:
            try:
                shown = _read(signed, self._contract)
            except (ProtocolError, WireError):
                raise Refused(Code.PROTOCOL, "a head of the call log does not fit") from None
            self._compare(held, shown, job)
        return held.signed if held else None

    def _compare(self, held: Head | None, shown: Head, job: JobId) -> None:
        lines, digest = shown.said.lines, shown.said.digest
        with self._store.transaction():
            if held is not None and lines <= held.said.lines:
                went_back = lines < held.said.lines and shown.said.time > held.said.time
                if went_back or (lines == held.said.lines and digest != held.said.digest):
                    self._note(held, shown)
                return
            self._store.execute("DELETE FROM calls WHERE contract = ?", shown.said.contract)
            self._store.execute(
                "INSERT INTO calls VALUES (?, ?)",
                shown.said.contract, wire.serialise(shown.signed),
            )  # fmt: skip
            name = self._contract.coordinator.name
            self._journal.record_digest(CALLS, job, lines, digest, name)

    def _note(self, held: Head, shown: Head) -> None:
        log.warning(
            "the coordinator's call log went back: %s is signed, and later %s",
            held.is_of, shown.is_of,
        )  # fmt: skip
        count = self._store.row("SELECT COUNT(*) FROM call_conflicts")
        if count is not None and int(count[0]) < MOST_CONFLICTS:
            self._store.execute(
                "INSERT INTO call_conflicts VALUES (?, ?, ?)",
                self._clock(), wire.serialise(held.signed), wire.serialise(shown.signed),
            )  # fmt: skip
