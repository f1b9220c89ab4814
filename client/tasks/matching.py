"""The protocols of :mod:`privacy.matching` over a partner's connections, stage by stage.

A waterfall is one stage for each kind of identifier; everything else is one stage. Each stage has its
own session, keys and logs. Both sides open a stage by telling their padded sizes, their engines and what
they have dealt with before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.audience import Audience
from client.channel import MatchChannel, StageChannel
from client.home import new_private
from privacy.errors import ProtocolError
from privacy.matching import (
    algebra,
    engine,
    fast,
    intersection,
    overlap,
    sizes,
    terms,
    tokens,
    total,
)
from privacy.matching.deck import Deck
from privacy.matching.intersection import OWN, THEIRS, TOKENS, TWICE, Positions
from privacy.matching.size import SizeNoise
from privacy.matching.storage import Buckets, Log, Spool
from protos import wire
from protos.alliance import Contract
from protos.matches import MatchJob

HELD: dict[tuple[str, bool], dict[int, str]] = {
    ("list", True): {TWICE: "twice", TOKENS: "tokens"},
    ("list", False): {},
    ("lists", True): {OWN: "theirs", THEIRS: "mine"},
    ("lists", False): {OWN: "theirs", THEIRS: "mine"},
    ("size", True): {OWN: "theirs", TOKENS: "tokens"},
    ("size", False): {intersection.BLINDED: "twice"},
    ("cache", True): {TOKENS: "tokens"},
    ("cache", False): {},
}
"""By result and whether this side is the first party: the log that holds each kind of frame."""


@dataclass
class Match:
    """A match as one partner sees it. ``seed``: 32 bytes, sealed; ``audiences``: for results."""

    spec: MatchJob
    contract: Contract
    me: str
    job: str
    name: str
    mu2: float
    seed: bytes
    secrets: terms.Secrets
    spool: Spool
    audience: Audience
    audiences: Path
    progress: Any
    fast_lane: bool

    @property
    def first(self) -> bool:
        """Whether this is the party that learns."""
        return self.spec.parties[0] == self.me

    def engines(self) -> tuple[str, ...]:
        """What this side offers."""
        matching = self.contract.matching
        if self.fast_lane:
            return ("fast",)
        if matching is not None and matching.engine == "ristretto255":
            return ("ristretto255",)
        return engine.available()

    def terms(self, session: bytes, noise: SizeNoise | None, groups: int = 1) -> terms.Terms:
        """The contract's bounds for one session."""
        matching = self.contract.matching
        if matching is None:
            raise ProtocolError
        return terms.Terms(session, matching.bucket, matching.largest_set, noise, groups)

    def result_file(self, suffix: str = "") -> Path:
        """Where a result goes."""
        return self.audiences / f"{self.name}-{self.job[:8]}{suffix}.csv"


class Stage:
    """One kind of identifier: its session, secrets, logs and deck."""

    def __init__(self, match: Match, number: int) -> None:
        self.match, self.number = match, number
        self.kind = match.spec.identifiers[number]
        job = bytes.fromhex(match.job)
        text = b"tallystick/v1/stage" + job + number.to_bytes(2, "big")
        self.session = job if number == 0 else hashlib.sha256(text).digest()[:16]
        self.secrets = terms.Secrets(match.seed, self.session)
        self.spool: Spool = _Prefixed(match.spool, f"{number} ")

    def deck(
        self, agreed: terms.Terms, without: NDArray[np.bool_] | None, dummies: Any = None
    ) -> Deck:
        """The stage's deck, closed."""
        deck, size = self.open_deck(agreed, without)
        terms.close_deck(deck, size, self.secrets, dummies)
        return deck

    def open_deck(
        self, agreed: terms.Terms, without: NDArray[np.bool_] | None = None
    ) -> tuple[Deck, int]:
        """The stage's deck, to which dummies may be added, and its padded size."""
        audience = self.match.audience
        records = audience.records(self.kind, without)
        return terms.open_deck(
            agreed, records, self.secrets, self.spool, audience.expected(self.kind)
        )

    def open(
        self, channel: MatchChannel, items: int, agreed: terms.Terms, held: Mapping[int, str]
    ) -> tuple[StageChannel, int]:
        """Open the stage with a peer: its channel, and the padded size of the peer's set.

        Raises ProtocolError for a size the contract does not allow, or another than before.
        """
        frames = {kind: len(self.spool.log(name)) for kind, name in held.items()}
        stage = StageChannel.open(channel, self.number, items, self.match.engines(), frames)
        theirs = stage.opening.items
        agreed.check_padded(theirs)
        pinned = self.spool.log(f"size of {id_of(channel)}")
        if len(pinned):
            if int.from_bytes(pinned.read(0), "big") != theirs:
                raise ProtocolError
        else:
            pinned.append(theirs.to_bytes(8, "big"))
        return stage, theirs

    def side(
        self, deck: Deck, stage: StageChannel, theirs: int, expected: int,
        session: bytes | None = None, name: str | None = None,
    ) -> terms.Side:  # fmt: skip
        """This side of a blinded protocol. ``expected``: elements that progress counts up to."""
        progress = self.match.progress
        progress.done, progress.total = 0, expected

        def note(elements: int) -> None:
            progress.done += elements

        name = name or engine.agreed(self.match.engines(), stage.opening.engines)
        return terms.Side(
            session or self.session, engine.engine(name), self.secrets, deck, self.spool, stage,
            theirs, note,
        )  # fmt: skip


class _Prefixed:
    """A part of a spool."""

    def __init__(self, spool: Spool, prefix: str) -> None:
        self._spool, self._prefix = spool, prefix

    def log(self, name: str) -> Log:
        return self._spool.log(self._prefix + name)

    def buckets(self, name: str, count: int) -> Buckets:
        return self._spool.buckets(self._prefix + name, count)

    def discard(self, name: str) -> None:
        self._spool.discard(self._prefix + name)


def id_of(channel: MatchChannel) -> str:
    """Names the peer in logs."""
    return channel.pins.peer


# ---------------------------------------------------------------------- two parties


def pair(match: Match, channel: MatchChannel) -> wire.MatchReply:
    """Any match between two parties but caches."""
    if match.spec.result == "size":
        return _size(match, channel)
    if match.spec.result == "sum":
        return _sum(match, channel)
    if match.spec.result == "ids":
        return _ids(match, channel)
    return _lists(match, channel)


def _lists(match: Match, channel: MatchChannel) -> wire.MatchReply:
    """A list for one or both, through all kinds of identifiers."""
    matched = np.zeros(match.audience.people if match.audience else 0, np.bool_)
    both, used = match.spec.result == "lists", ""
    for number in range(len(match.spec.identifiers)):
        stage = Stage(match, number)
        without = matched if number and (both or match.first) else None
        if match.fast_lane:
            people, used = _fast(stage, channel, without)
            matched[people] = True
            continue
        agreed = match.terms(stage.session, None)
        deck = stage.deck(agreed, without)
        opened, theirs = stage.open(
            channel, deck.distinct, agreed, HELD[match.spec.result, match.first]
        )
        expected = deck.distinct if match.first else deck.distinct + theirs
        side = stage.side(deck, opened, theirs, theirs if both else expected)
        used = side.engine.name
        if both:
            positions, _, _ = intersection.exchange(side)
        elif match.first:
            positions = intersection.receive(side)
        else:
            intersection.send(side)
            continue
        for rows in deck.rows_at(positions):
            matched[rows] = True
    learns = both or match.first
    if learns:
        _write_people(match, matched)
    return wire.MatchReply(is_receiver=match.first, engine=used)


def _fast(
    stage: Stage, channel: MatchChannel, without: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], str]:
    match, agreed = stage.match, stage.match.terms(stage.session, None)
    parts = list(match.audience.records(stage.kind, without))
    labels = np.concatenate([part[0] for part in parts] or [np.empty((0, 32), np.uint8)])
    people = np.concatenate([part[1] for part in parts] or [np.empty(0, np.int64)])
    own = fast.Set.of(
        labels, people, stage.secrets.bytes_for("order")[:16], agreed.padded,
        stage.secrets.source("padding"),
    )  # fmt: skip
    opened, theirs = stage.open(channel, len(own.labels), agreed, {})
    if "fast" not in opened.opening.engines:
        raise ProtocolError
    progress = match.progress
    progress.done, progress.total = 0, fast.bins_for(len(own.labels) if match.first else theirs)

    def note(elements: int) -> None:
        progress.done += elements

    source = stage.secrets.source("fast")
    if not match.first:
        fast.send(opened, own, theirs, source, note)
        return np.empty(0, np.int64), "fast"
    return own.rows_of(fast.receive(opened, own, theirs, source, note)), "fast"


def _noisy_side(match: Match, channel: MatchChannel, noise: SizeNoise) -> tuple[Stage, terms.Side]:
    stage = Stage(match, 0)
    agreed = match.terms(stage.session, noise)
    if match.first:
        dummies = terms.dummy_labels(stage.session, noise.dummies)
    else:
        dummies = terms.chosen_dummies(agreed, stage.secrets.source("dummies"))
    deck = stage.deck(agreed, None, dummies)
    opened, theirs = stage.open(channel, deck.distinct, agreed, HELD["size", match.first])
    return stage, stage.side(deck, opened, theirs, theirs)


def _size(match: Match, channel: MatchChannel) -> wire.MatchReply:
    noise = match.spec.size_noise(match.mu2)
    if noise is None:
        raise ProtocolError
    stage, side = _noisy_side(match, channel, noise)
    reply = wire.MatchReply(is_receiver=match.first, engine=side.engine.name)
    if match.first:
        _add_size(reply, stage, noise, sizes.receive(side))
    else:
        sizes.send(side)
    return reply


def _add_size(reply: wire.MatchReply, stage: Stage, noise: SizeNoise, places: Positions) -> None:
    """z shifted back, and the receiver's own noise."""
    value = len(places) - noise.bound + noise.draw(stage.secrets.source("size noise"))
    reply.figures.append(
        wire.Figure(name="size", value=value, deviation=noise.deviation * 2.0**0.5)
    )


def _sum(match: Match, channel: MatchChannel) -> wire.MatchReply:
    noise = match.spec.size_noise(match.mu2)
    sum_noise = match.spec.sum_noise(match.contract, match.mu2)
    if noise is None or sum_noise is None:
        raise ProtocolError
    stage, side = _noisy_side(match, channel, noise)
    reply = wire.MatchReply(is_receiver=match.first, engine=side.engine.name)
    if not match.first:
        total.send(side, sum_noise, match.audience.values())
        return reply
    places, value = total.receive(side, sum_noise)
    _add_size(reply, stage, noise, places)
    reply.figures.append(
        wire.Figure(name="sum", value=value, deviation=sum_noise.deviation * 2.0**0.5)
    )
    return reply


def _ids(match: Match, channel: MatchChannel) -> wire.MatchReply:
    """Pseudonyms of this side's people, and the union's: two files."""
    stage = Stage(match, 0)
    agreed = match.terms(stage.session, None)
    deck = stage.deck(agreed, None)
    opened, theirs = stage.open(channel, deck.distinct, agreed, HELD["lists", match.first])
    side = stage.side(deck, opened, theirs, theirs)
    _, mine, others = intersection.exchange(side)
    _write_pseudonyms(match, deck, mine)
    _write_union(match, stage, mine, others, max(deck.distinct, theirs))
    return wire.MatchReply(is_receiver=match.first, engine=side.engine.name)


# ---------------------------------------------------------------------- caches


@dataclass(frozen=True)
class Cache:
    """What one side keeps of a cache: the sender its scalar, the receiver the key of its log."""

    session: bytes
    engine: str
    secret: bytes
    total: int
    bits: int

    def plain(self) -> dict[str, Any]:
        """For sealing."""
        return {
            "session": self.session.hex(), "engine": self.engine, "secret": self.secret.hex(),
            "total": self.total, "bits": self.bits,
        }  # fmt: skip

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Cache:
        """Inverse of :meth:`plain`."""
        return cls(
            bytes.fromhex(plain["session"]), plain["engine"], bytes.fromhex(plain["secret"]),
            plain["total"], plain["bits"],
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
        return Cache(stage.session, side.engine.name, secret, total_tokens, bits)
    intersection.send_cache(side, side.key(), bits)
    return Cache(stage.session, side.engine.name, side.key(), total_tokens, bits)


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
    matched = np.zeros(match.audience.people, np.bool_)
    for rows in deck.rows_at(intersection.receive(side, held)):
        matched[rows] = True
    _write_people(match, matched)
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


# ---------------------------------------------------------------------- three to six parties


def ring(match: Match, channels: Mapping[str, MatchChannel]) -> wire.MatchReply:
    """An overlap, or a list by an audience expression."""
    stage, names = Stage(match, 0), match.spec.parties
    me, noise = names.index(match.me), match.spec.size_noise(match.mu2)
    agreed = match.terms(stage.session, noise, overlap.dummy_groups(len(names)))
    deck, size = stage.open_deck(agreed)
    opened: dict[int, StageChannel] = {}
    entered = {me: size}
    offers = [match.engines()]
    for number, name in enumerate(names):
        if number == me:
            continue
        held = _ring_logs(me, number, len(names), keeps_order=noise is None)
        opened[number], entered[number] = stage.open(channels[name], size, agreed, held)
        offers.append(tuple(opened[number].opening.engines))
    common = [n for n in engine.NAMES if all(n in offer for offer in offers)]
    if not common:
        raise ProtocolError
    progress = match.progress
    progress.done, progress.total = 0, sum(entered.values()) - size

    def note(elements: int) -> None:
        progress.done += elements

    party = overlap.Ring(
        agreed, me, engine.engine(common[0]), stage.secrets, deck, stage.spool, opened,
        [entered[i] for i in range(len(names))], noise is None, note,
    )  # fmt: skip
    party.add_dummies()
    terms.close_deck(deck, size, stage.secrets)
    party.run()
    reply = wire.MatchReply(is_receiver=match.first, engine=common[0])
    people = match.audience.people
    if noise is None:
        if match.first and match.spec.audience is not None:
            _write_people(match, _in_audience(match, party, deck))
        return reply
    if not match.first:
        party.tell_size(noise, people)
        return reply
    _add_venn(reply, match, noise, party.noisy_counts(noise), party.hear_sizes(noise, people))
    return reply


def _ring_logs(me: int, peer: int, parties: int, *, keeps_order: bool) -> dict[int, str]:
    """The logs of what comes from one peer."""
    held = {}
    if peer == (me - 1) % parties:
        held = {overlap.RING + j: f"ring {j}" for j in range(parties) if j != me}
    if me == 0:
        owner = (peer + 1) % parties
        if owner == 0 and keeps_order:
            held[overlap.ORDERED] = "set 0"
        elif owner != 1:
            held[overlap.FINAL + owner] = f"set {owner}"
    return held


def _in_audience(match: Match, party: overlap.Ring, deck: Deck) -> NDArray[np.bool_]:
    audience = algebra.parse(match.spec.audience or "")
    found = []
    for places, others in party.members():
        members = {match.spec.parties[i]: hits for i, hits in others.items()}
        members[match.me] = np.ones(len(places), np.bool_)
        found.append(places[audience.select(members)])
    matched = np.zeros(match.audience.people, np.bool_)
    for rows in deck.rows_at(np.sort(np.concatenate(found))):
        matched[rows] = True
    return matched


def _add_venn(
    reply: wire.MatchReply,
    match: Match,
    noise: SizeNoise,
    counts: Mapping[overlap.Cell, int],
    own_sizes: list[int],
) -> None:
    """Cells of exactly those parties, set sizes, and the audience from both."""
    names = match.spec.parties
    for cell, value in counts.items():
        name = " & ".join(names[i] for i in cell)
        reply.figures.append(
            wire.Figure(name=name, value=value, deviation=noise.deviation * 2.0**0.5)
        )
    for i, value in enumerate(own_sizes):
        reply.figures.append(
            wire.Figure(name=f"size {names[i]}", value=value, deviation=noise.deviation)
        )
    if match.spec.audience is None:
        return
    audience = algebra.parse(match.spec.audience)

    def inside(cell: overlap.Cell) -> int:
        members = {n: np.array([i in cell]) for i, n in enumerate(names)}
        return int(audience.select(members)[0])

    alone = [inside((i,)) for i in range(len(names))]
    estimate, variance = 0.0, 0.0
    for i, size in enumerate(own_sizes):
        estimate += alone[i] * size
        variance += alone[i] ** 2
    for cell, size in counts.items():
        weight = inside(cell) - sum(alone[i] for i in cell)
        estimate += weight * size
        variance += 2 * weight**2
    deviation = noise.deviation * variance**0.5
    reply.figures.append(wire.Figure(name="audience", value=estimate, deviation=deviation))


# ---------------------------------------------------------------------- results


def _write_people(match: Match, chosen: NDArray[np.bool_]) -> None:
    with new_private(match.result_file()) as file:
        file.write(b"person\n")
        file.writelines(f"{csv_cell(key)}\n".encode() for _, key in match.audience.keys(chosen))


def _write_pseudonyms(match: Match, deck: Deck, mine: Log) -> None:
    """``person,pseudonym``: a line for each person and identifier, in order of person."""
    found = np.frombuffer(b"".join(mine.read(i) for i in range(len(mine))), np.uint8)
    found = found.reshape(-1, engine.TOKEN_BYTES)
    pairs = list(deck.members())
    people = np.concatenate([rows for _, rows in pairs])
    places = np.concatenate([positions for positions, _ in pairs])
    order = np.argsort(people, kind="stable")
    people, places = people[order], places[order]
    chosen = np.zeros(match.audience.people, np.bool_)
    chosen[people] = True
    at = 0
    with new_private(match.result_file()) as file:
        file.write(b"person,pseudonym\n")
        for number, key in match.audience.keys(chosen):
            while at < len(people) and people[at] == number:
                file.write(f"{csv_cell(key)},{found[places[at]].tobytes().hex()}\n".encode())
                at += 1


def _write_union(match: Match, stage: Stage, mine: Log, others: Log, expected: int) -> None:
    """Every pseudonym of either side, padding's too, sorted: the same file at both."""
    left = tokens.Shelf.of(stage.spool, "left", mine, expected)
    right = tokens.Shelf.of(stage.spool, "right", others, expected)
    with new_private(match.result_file("-union")) as file:
        file.write(b"pseudonym\n")
        for bucket in range(1 << left.bits):
            both = [shelf.read(bucket).as_bytes() for shelf in (left, right)]
            for token in np.unique(np.concatenate(both), axis=0):
                file.write(token.tobytes().hex().encode() + b"\n")
    stage.spool.discard("left")
    stage.spool.discard("right")


_SPECIAL = re.compile('[,"\r\n]')


def csv_cell(text: str) -> str:
    """A cell, quoted where it must be (RFC 4180, 2)."""
    if _SPECIAL.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text
