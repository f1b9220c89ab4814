"""Forgetting one head of a partner's journal, at a gate: list what is held, make, sign and apply a repair.

What it is for, who has to sign and what is lost with it: :mod:`protos.repairs`. Applied, it is an entry of
this partner's journal, with all signatures in it, and from then on the head that it names is nothing, whoever
brings it; the row that held it goes in the same transaction. Works beside a running gate, on the same
database.

Not handled: a head that was in the row before, which was lower, is gone; the party's next head is the floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from client.context import Context
from client.store import Store
from privacy.errors import ConfigError, WireError
from protos import repairs, statements, wire
from protos.alliance import Contract
from protos.repairs import Repair
from protos.statements import JournalHead


@dataclass(frozen=True)
class Held:
    """A head in the database. ``current``: whether the party's key in this contract signed it, within its
    bounds; one of an earlier key, or none that can be read, stops nobody."""

    party: str
    sequence: int
    digest: bytes
    time: int
    current: bool


def listed(store: Store, contract: Contract) -> list[Held]:
    """Every head that is held of another partner."""
    rows = store.rows("SELECT party, sequence, digest, time, signed FROM heads ORDER BY party")
    found = []
    for party, sequence, digest, came, data in rows:
        said = _said(contract, party, data)
        time = said.time if said else int(came)
        found.append(Held(str(party), int(sequence), bytes(digest), time, said is not None))
    return found


def _said(contract: Contract, party: str, data: bytes | None) -> JournalHead | None:
    try:
        signed = wire.parse(wire.Signed, bytes(data or b""), statements.LARGEST_HEAD)
        return statements.read_head(contract, party, signed)
    except WireError:
        return None


def begin(at: Context, party: str, reason: str, now: datetime, days: int) -> Repair:
    """A repair of the head that this gate holds of ``party``, not signed yet. Raises ConfigError."""
    at.contract.party(party)
    if party == at.me:
        raise ConfigError("party", "the others sign what concerns this partner; one of them begins")
    found = [head for head in listed(at.store, at.contract) if head.party == party and head.current]
    if not found:
        raise ConfigError(
            "party", f"no head of {party} is held here that stops it; nothing to forget"
        )
    head = found[0]
    return repairs.forget(at.contract, party, head.sequence, head.digest, reason, now, days)


def sign(at: Context, repair: Repair, now: datetime) -> Repair:
    """A copy with this partner's signature. Raises ConfigError for another contract, a signature that does
    not fit, or a repair that it is not the time for."""
    repair.missing(at.contract)
    repair.check_time(now)
    return repair.signed_by(at.me, at.identity, at.contract)


def here(at: Context, repair: Repair) -> str:
    """What this gate holds of the party, beside what the repair names: for who signs."""
    party, sequence, digest = repair.head
    if party == at.me:
        own = at.journal.at(sequence) == digest
        return "this partner's journal has that entry" if own else "this partner's journal lacks it"
    held = [head for head in listed(at.store, at.contract) if head.party == party]
    if not held:
        return f"this gate holds no head of {party}"
    if (held[0].sequence, held[0].digest) == (sequence, digest):
        return "this gate holds that head"
    return f"this gate holds another head of {party}: entry {held[0].sequence}"


def apply(at: Context, repair: Repair, now: datetime) -> bool:
    """Journal it and forget the head; whether this gate held it. Raises ConfigError unless all others signed
    it under this contract, it has not expired, and it was not applied before."""
    repair.check(at.contract, now)
    party, sequence, digest = repair.head
    with at.store.transaction():
        if repair.head in at.journal.repaired():
            raise ConfigError("repair", "was applied here before")
        gone = at.store.row(
            "SELECT 1 FROM heads WHERE party = ? AND sequence = ? AND digest = ?",
            party, sequence, digest,
        )  # fmt: skip
        at.journal.repair(repair)
        at.store.execute(
            "DELETE FROM heads WHERE party = ? AND sequence = ? AND digest = ?",
            party, sequence, digest,
        )  # fmt: skip
    return gone is not None
