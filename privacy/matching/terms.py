"""What both sides of a match agree on, and how each side's set is made ready for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from privacy.errors import ParameterError, ProtocolError
from privacy.matching.channel import Channel
from privacy.matching.deck import NO_ROW, Deck, Rows
from privacy.matching.engine import LABEL_BYTES, SESSION_BYTES, Array, Engine
from privacy.matching.size import PaddingNoise, SizeNoise
from privacy.matching.storage import Spool
from privacy.noisy_sum.masks import derive
from privacy.randomness import Randomness, permutation, stream


@dataclass(frozen=True)
class Terms:
    """``session``: 16 bytes of the job. ``noise`` is None where no noisy size is released.

    ``padding``: None pads to the next multiple of the bucket, which is a function of the set: for exact
    results, whose sets their owner chose. For noisy ones it is drawn and charged, and a set larger than
    the cap is cut down to it (:func:`open_deck`), since a refusal would be an answer too.

    Raises ParameterError if unfit.
    """

    session: bytes
    bucket: int
    largest_set: int
    noise: SizeNoise | None = None
    dummy_groups: int = 1
    padding: PaddingNoise | None = None

    def __post_init__(self) -> None:
        if self.bucket < 1 or self.largest_set < 1 or len(self.session) != SESSION_BYTES:
            raise ParameterError("bucket and cap must be positive, a session has 16 bytes")

    @property
    def dummies(self) -> int:
        """Public dummies in play."""
        return self.noise.dummies * self.dummy_groups if self.noise else 0

    def padded(self, items: int, randomness: Randomness | None = None) -> int:
        """Elements sent for a set: the next multiple of the bucket, plus all dummies.

        With ``padding``: the next multiple above min(items, largest_set) plus a draw in [0, 2B] from
        ``randomness``. One person changes min(items, largest_set) by at most 1, so this is one noisy
        size, cut off and rounded up: :mod:`privacy.matching.size` has its price.

        Raises ParameterError if the set exceeds the cap and there is no ``padding``, or if there is and
        no ``randomness``.
        """
        if self.padding is None:
            if items > self.largest_set:
                raise ParameterError("the set is larger than the contract allows")
            return self._buckets(items) + self.dummies
        if randomness is None:
            raise ParameterError("drawn padding needs a source of randomness")
        drawn = min(items, self.largest_set) + self.padding.draw(randomness)
        return self._buckets(drawn) + self.dummies

    def check_padded(self, count: int) -> None:
        """ProtocolError unless ``count`` could come from :meth:`padded` of an allowed set."""
        body = count - self.dummies
        most = self._buckets(self.largest_set + (self.padding.most if self.padding else 0))
        if body < self.bucket or body > most or body % self.bucket:
            raise ProtocolError("a set's padded size is not one that the contract allows")

    def _buckets(self, items: int) -> int:
        return max(1, -(-items // self.bucket)) * self.bucket


class Secrets:
    """Everything secret of one side of one match, from one sealed seed of 32 bytes.

    A side that restarts with the same seed sends the same bytes again.
    """

    def __init__(self, seed: bytes, session: bytes) -> None:
        self._seed, self._session = seed, session

    def bytes_for(self, what: str) -> bytes:
        """32 bytes for one use."""
        return derive(self._seed, self._session, b"tallystick/v1/match/" + what.encode())

    def source(self, what: str) -> Randomness:
        """A stream for one use."""
        return stream(self.bytes_for(what))


def dummy_labels(session: bytes, count: int, group: int = 0) -> Array:
    """``count`` public labels that no identifier can have."""
    start = b"tallystick/v1/dummy" + session + group.to_bytes(4, "big")
    data = b"".join(hashlib.sha256(start + i.to_bytes(8, "big")).digest() for i in range(count))
    return np.frombuffer(data, np.uint8).reshape(count, LABEL_BYTES)


def chosen_dummies(terms: Terms, randomness: Randomness, group: int = 0) -> Array:
    """z of a group's dummies, z drawn from the shifted noise: see :mod:`privacy.matching.size`."""
    if terms.noise is None:
        return np.empty((0, LABEL_BYTES), np.uint8)
    every = dummy_labels(terms.session, terms.noise.dummies, group)
    return every[permutation(randomness, len(every))[: terms.noise.draw_shifted(randomness)]]


def open_deck(
    terms: Terms,
    records: Iterable[tuple[Array, Rows]],
    secrets: Secrets,
    spool: Spool,
    expected: int,
) -> tuple[Deck, int]:
    """A deck of a set's labels, still open, and the number of elements it will enter.

    ``records``: labels and the row of each. A set that exceeds the cap raises ParameterError without
    ``padding``; with it, :meth:`Deck.capped` keeps ``largest_set`` of its labels.
    """
    order = secrets.bytes_for("order")[:16]
    deck = Deck(spool, "deck", order, expected)
    for labels, rows in records:
        deck.add(labels, rows)
    items = deck.count()
    if terms.padding is None:
        return deck, terms.padded(items)
    if items > terms.largest_set:
        deck = deck.capped(terms.largest_set, secrets.bytes_for("cap")[:16])
    return deck, terms.padded(items, secrets.source("padding draw"))


def close_deck(deck: Deck, size: int, secrets: Secrets, dummies: Array | None = None) -> None:
    """Add dummies and padding, and fix the order."""
    if dummies is not None:
        deck.add(dummies, np.full(len(dummies), NO_ROW, np.int64))
    deck.pad(size, secrets.source("padding"))
    deck.close()


@dataclass(frozen=True)
class Side:
    """One side of a running match. ``theirs``: elements the other side sends, agreed at the start.

    ``progress`` is told elements as they are dealt with.
    """

    session: bytes
    engine: Engine
    secrets: Secrets
    deck: Deck
    spool: Spool
    channel: Channel
    theirs: int
    progress: Callable[[int], None] = lambda _: None

    def key(self, what: str = "blind") -> bytes:
        """This side's scalar."""
        return self.engine.new_key(self.secrets.source(f"{what}/{self.engine.name}"))
