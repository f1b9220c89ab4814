"""What every kind of match has in common at one partner: its terms, and its stages.

A waterfall is one stage for each kind of identifier; everything else is one stage. Each stage has its
own session, keys and logs. Both sides open a stage by telling their padded sizes, their engines and what
they have dealt with before; the first opening holds a commitment to the set too.

Sizes. For a noisy result the padded size is drawn and charged (:mod:`privacy.matching.terms`). The sets of a
waterfall, exact, are padded to the size of the largest of them before anybody is taken out, in every stage:
how many are left for a later stage is in no size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.audience import Audience
from client.channel import COMMITMENT_BYTES, MatchChannel, StageChannel
from privacy.errors import ParameterError, ProtocolError
from privacy.matching import engine, intersection, terms
from privacy.matching.deck import Deck
from privacy.matching.intersection import OWN, THEIRS, TOKENS, TWICE, Positions
from privacy.matching.size import SizeNoise
from privacy.matching.storage import Buckets, Log, Spool
from privacy.matching.terms import Terms
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
class Progress:
    """Padded elements dealt with, of how many; public numbers."""

    done: int = 0
    total: int = 0

    def begin(self, total: int) -> Callable[[int], None]:
        """Start to count up to ``total``; what to tell elements to."""
        self.done, self.total = 0, total

        def note(elements: int) -> None:
            self.done += elements

        return note


@dataclass
class Match:
    """A match as one partner sees it. ``seed``: 32 bytes, sealed; ``audiences``: for results.

    ``commitment``: to the set that this side enters; ``pin``: told each peer's, once it is opened.
    ``as_is``: results are for machines, no cell is quoted for spreadsheets.
    """

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
    progress: Progress
    fast_lane: bool
    commitment: bytes
    pin: Callable[[str, bytes], None]
    as_is: bool = False

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

    def terms(self, session: bytes, noise: SizeNoise | None = None, groups: int = 1) -> terms.Terms:
        """The contract's bounds for one session, with the noise of sizes where there is any."""
        matching = self.contract.matching
        if matching is None:
            raise ProtocolError("the contract has no matching rules")
        padding = self.spec.padding_noise(self.mu2) if noise is not None else None
        return terms.Terms(session, matching.bucket, matching.largest_set, noise, groups, padding)

    def largest(self, agreed: Terms) -> int:
        """What every stage of a waterfall is padded to."""
        return max(agreed.padded(self.audience.distinct(kind)) for kind in self.spec.identifiers)

    def people_at(self, deck: Deck, positions: Positions) -> NDArray[np.bool_]:
        """Which people of the audience are behind these places of a deck, (people,)."""
        chosen = np.zeros(self.audience.people, np.bool_)
        for rows in deck.rows_at(positions):
            chosen[rows] = True
        return chosen

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
        self, agreed: terms.Terms, without: NDArray[np.bool_] | None, dummies: Any = None,
        padded: int = 0,
    ) -> Deck:  # fmt: skip
        """The stage's deck, closed; ``padded``: to at least so many elements."""
        deck, size = self.open_deck(agreed, without)
        terms.close_deck(deck, max(size, padded), self.secrets, dummies)
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

        Raises ProtocolError for a size the contract does not allow, another than before, or another than
        in an earlier stage, and for a commitment where there must be none, or none where there must.
        """
        frames = {kind: len(self.spool.log(name)) for kind, name in held.items()}
        own = self.match.commitment if not self.number else b""
        stage = StageChannel.open(channel, self.number, items, self.match.engines(), frames, own)
        peer, theirs = channel.pins.peer, stage.opening.items
        agreed.check_padded(theirs)
        enters = peer in self.match.spec.entering and not self.number
        if len(stage.opening.commitment) != (COMMITMENT_BYTES if enters else 0):
            raise ProtocolError("a commitment is missing, or one too many")
        if not self.number:
            self.match.pin(peer, stage.opening.commitment)
        pinned = self.match.spool.log(f"size of {peer}")  # of all stages
        if not len(pinned):
            pinned.append(theirs.to_bytes(8, "big"))
        elif int.from_bytes(pinned.read(0), "big") != theirs:
            raise ProtocolError("another size than before")
        return stage, theirs

    def side(
        self, deck: Deck, stage: StageChannel, theirs: int, expected: int,
        session: bytes | None = None, name: str | None = None,
    ) -> terms.Side:  # fmt: skip
        """This side of a blinded protocol. ``expected``: elements that progress counts up to."""
        note = self.match.progress.begin(expected)
        name = name or engine.agreed(self.match.engines(), stage.opening.engines)
        return terms.Side(
            session or self.session, engine.engine(name), self.secrets, deck, self.spool, stage,
            theirs, note,
        )  # fmt: skip


def add_figure(reply: wire.MatchReply, name: str, value: float, deviation: float) -> None:
    """A figure of a result. Raises ParameterError unless it is finite, which nothing honest can cause."""
    if not (math.isfinite(value) and math.isfinite(deviation)):
        raise ParameterError("a figure is not finite")
    reply.figures.append(wire.Figure(name=name, value=value, deviation=deviation))


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
