"""Caches: a large set's tokens go ahead, and later lists need only the small side's bytes.

The sender's set is a frozen audience; its cache serves while that epoch does, and every list counts as a
use of it. The receiver enters nothing when a cache is made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from client.channel import MatchChannel
from client.context import Context
from client.results import write_people
from client.tasks.stages import HELD, Match, Stage
from privacy.errors import Refused
from privacy.matching import intersection, tokens
from privacy.matching.deck import Deck
from privacy.matching.intersection import TWICE
from privacy.matching.storage import Spool
from protos import wire
from protos.addresses import JobId
from protos.matches import MatchJob
from protos.refusal import Code


@dataclass(frozen=True)
class Cache:
    """What one side keeps of a cache: the sender its scalar, the receiver the key of its log."""

    session: bytes
    identifier: str
    engine: str
    secret: bytes
    total: int
    bits: int

    def plain(self) -> dict[str, Any]:
        """For sealing."""
        return {
            "session": self.session.hex(), "identifier": self.identifier, "engine": self.engine,
            "secret": self.secret.hex(), "total": self.total, "bits": self.bits,
        }  # fmt: skip

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Cache:
        """Inverse of :meth:`plain`."""
        return cls(
            bytes.fromhex(plain["session"]), plain["identifier"], plain["engine"],
            bytes.fromhex(plain["secret"]), plain["total"], plain["bits"],
        )  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """A cache as it is stored. ``job``: that made it; ``audience``, ``epoch``: the sender's, else empty."""

    cache: Cache
    job: str
    receives: bool
    audience: str
    epoch: int


def find(at: Context, spec: MatchJob, made_by: str | None = None) -> Kept:
    """The cache that a list names; ``made_by``: the job that made the one which was charged for.

    Refused(UNAVAILABLE) if there is none in the running period, or another has taken its place.
    """
    receives = spec.parties[0] == at.me
    peer = spec.parties[1] if receives else spec.parties[0]
    found = at.store.row(
        "SELECT job, sealed, audience, epoch FROM caches WHERE peer = ? AND name = ? AND receives = ?"
        " AND time > ?",
        peer, spec.cache, int(receives), at.ledger.since(),
    )  # fmt: skip
    if found is None:
        raise Refused(Code.UNAVAILABLE, f"no such cache with {peer}")
    if made_by is not None and found[0] != made_by:
        raise Refused(
            Code.UNAVAILABLE, "another cache has taken the place of the one that was named"
        )
    job, sealed, audience, epoch = found
    cache = Cache.of(json.loads(at.store.unseal(f"cache {job}", bytes(sealed))))
    if cache.identifier not in spec.identifiers:
        raise Refused(Code.UNAVAILABLE, f"the cache holds {cache.identifier}")
    return Kept(cache, str(job), receives, str(audience), int(epoch))


def keep(at: Context, name: str, peer: str, made: Kept) -> None:
    """Keep a cache, in the place of one of that name."""
    sealed = at.store.seal(f"cache {made.job}", json.dumps(made.cache.plain()).encode())
    at.store.execute(
        "INSERT INTO caches (peer, name, receives, job, time, asked, sealed, audience, epoch)"
        " VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?) ON CONFLICT (peer, name, receives) DO UPDATE SET"
        " asked = CASE job WHEN excluded.job THEN asked ELSE 0 END, job = excluded.job,"
        " time = excluded.time, sealed = excluded.sealed, audience = excluded.audience,"
        " epoch = excluded.epoch",
        peer, name, int(made.receives), made.job, at.ledger.now(), sealed, made.audience, made.epoch,
    )  # fmt: skip


def prune(at: Context) -> None:
    """Erase caches of earlier periods, and tokens of caches that were replaced."""
    at.store.execute("DELETE FROM caches WHERE time <= ?", at.ledger.since())
    kept = {row[0] for row in at.store.rows("SELECT job FROM caches WHERE receives = 1")}
    for folder in at.home.caches.iterdir():
        if folder.name not in kept and not (at.home.matches / folder.name).exists():
            shutil.rmtree(folder, ignore_errors=True)


def count(at: Context, job: JobId, made_by: str, asked: int, most: int) -> None:
    """Once in a job. A cache answers for no more elements, over all jobs, than one set may have: a public
    count. Raises Refused(UNAVAILABLE)."""
    with at.store.transaction():
        if at.store.secret(job, "cache counted") is not None:
            return
        at.store.put_secret(job, "cache counted", b"counted")
        found = at.store.row("SELECT asked FROM caches WHERE job = ?", made_by)
        if found is None or found[0] + asked > most:
            raise Refused(Code.UNAVAILABLE, "the cache has answered what it may")
        at.store.execute("UPDATE caches SET asked = asked + ? WHERE job = ?", asked, made_by)


def make_cache(match: Match, channel: MatchChannel, kept: Spool) -> Cache:
    """Offline: the sender's tokens, cut so that one look-up is wrong with probability 2^-40."""
    stage = Stage(match, 0)
    agreed = match.terms(stage.session)
    if match.first:
        stage.spool = kept
        deck, items = _nobody(stage), agreed.padded(0)
    else:
        deck = stage.deck(agreed, None)
        items = deck.distinct
    opened, theirs = stage.open(channel, items, agreed, HELD["cache", match.first])
    total_tokens = theirs if match.first else items
    bits = tokens.lookup_bits(total_tokens)
    side = stage.side(deck, opened, theirs, total_tokens)
    if match.first:
        intersection.receive_cache(side, token_bits=bits)
        kept.discard("deck")
        secret = match.secrets.bytes_for("cache")
        return Cache(stage.session, stage.kind, side.engine.name, secret, total_tokens, bits)
    intersection.send_cache(side, side.key(), bits)
    return Cache(stage.session, stage.kind, side.engine.name, side.key(), total_tokens, bits)


def list_from_cache(
    match: Match, channel: MatchChannel, cache: Cache, kept: Spool
) -> wire.MatchReply:
    """Online, the receiver's half."""
    stage = Stage(match, 0)
    agreed = match.terms(stage.session)
    deck = stage.deck(agreed, None)
    opened, theirs = stage.open(channel, deck.distinct, agreed, {TWICE: "twice"})
    side = stage.side(deck, opened, theirs, deck.distinct, cache.session, cache.engine)
    held = (kept.log("tokens"), cache.total, cache.bits)
    matched = match.people_at(deck, intersection.receive(side, held))
    write_people(match.result_file(), match.audience, matched, as_is=match.as_is)
    return wire.MatchReply(is_receiver=True, engine=cache.engine)


def answer_from_cache(
    match: Match, channel: MatchChannel, cache: Cache, note: Callable[[int], None]
) -> wire.MatchReply:
    """Online, the sender's half; ``note`` is told how many elements are asked for."""
    stage = Stage(match, 0)
    agreed = match.terms(stage.session)
    deck = _nobody(stage)
    opened, theirs = stage.open(channel, agreed.padded(0), agreed, {})
    note(theirs)
    side = stage.side(deck, opened, theirs, theirs, cache.session, cache.engine)
    intersection.send(side, with_tokens=False, key=cache.secret)
    return wire.MatchReply(is_receiver=False, engine=cache.engine)


def _nobody(stage: Stage) -> Deck:
    """The deck of a side that enters no set."""
    deck = Deck(stage.spool, "deck", bytes(16), 0)
    deck.close()
    return deck
