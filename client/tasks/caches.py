"""Caches: a large set's tokens go ahead, and later lists need only the small side's bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from client.channel import MatchChannel
from client.results import write_people
from client.tasks.stages import HELD, Match, Stage
from privacy.matching import intersection, tokens
from privacy.matching.deck import Deck
from privacy.matching.intersection import TWICE
from privacy.matching.storage import Spool
from protos import wire


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


def make_cache(match: Match, channel: MatchChannel, kept: Spool) -> Cache:
    """Offline: the sender's tokens, cut so that one look-up is wrong with probability 2^-40."""
    stage = Stage(match, 0)
    agreed = match.terms(stage.session, None)
    if match.first:
        stage.spool = kept
    deck = stage.deck(agreed, None)
    opened, theirs = stage.open(channel, deck.distinct, agreed, HELD["cache", match.first])
    total_tokens = theirs if match.first else deck.distinct
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
    agreed = match.terms(stage.session, None)
    deck = stage.deck(agreed, None)
    opened, theirs = stage.open(channel, deck.distinct, agreed, {TWICE: "twice"})
    side = stage.side(deck, opened, theirs, deck.distinct, cache.session, cache.engine)
    held = (kept.log("tokens"), cache.total, cache.bits)
    matched = match.people_at(deck, intersection.receive(side, held))
    write_people(match.result_file(), match.audience, matched)
    return wire.MatchReply(is_receiver=True, engine=cache.engine)


def answer_from_cache(
    match: Match, channel: MatchChannel, cache: Cache, count: Callable[[int], None]
) -> wire.MatchReply:
    """Online, the sender's half; ``count`` is told once how many elements are asked for."""
    stage = Stage(match, 0)
    agreed = match.terms(stage.session, None)
    deck = Deck(stage.spool, "deck", bytes(16), 0)
    deck.close()
    opened, theirs = stage.open(channel, agreed.padded(0), agreed, {})
    counted = stage.spool.log("counted")
    if not len(counted):
        count(theirs)
        counted.append(b"counted")
    side = stage.side(deck, opened, theirs, theirs, cache.session, cache.engine)
    intersection.send(side, with_tokens=False, key=cache.secret)
    return wire.MatchReply(is_receiver=False, engine=cache.engine)
