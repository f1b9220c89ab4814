"""Two-party intersection: one side learns which of its items the other has, or both do.

One side, R, learns (Meadows 1986; Huberman, Franklin, Hogg 1999; in the form of an oblivious
pseudo-random function, Jarecki and Liu 2010):

    1. R -> S   a H(x)                   R's items and padding, in R's secret order
    2. S -> R   b (a H(x))               in the same order
    3. S -> R   tokens of b H(y)         sorted, Elias-Fano code
    4. R        tokens of a^-1 (b a H(x)) that are among them

Both learn, and get aligned pseudonyms (private ID; Buddhavarapu, Knox, Mohassel, Sengupta, Taubeneck,
Vlaskin 2020):

    1. A -> B   a H(x)         2. B -> A   tokens of b (a H(x)), in the same order
       B -> A   b H(y)            A -> B   tokens of a (b H(y)), in the same order
    3. a token of a b H(.) is a person's pseudonym: each side knows its own rows' and the union's

a and b are fresh in each job. Each side also learns the other's padded size. Semi-honest: a side that
enters guessed items learns whether the other has them; caps and frequency bound that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from privacy.matching import tokens
from privacy.matching.channel import Expected, alongside, chunks_of, gather, rows
from privacy.matching.engine import POINT_BYTES, TOKEN_BYTES
from privacy.matching.storage import Log
from privacy.matching.terms import Side

BLINDED, TWICE, OWN, THEIRS, TOKENS = 1, 2, 3, 4, 5
"""Kinds of frames."""
Positions = NDArray[np.int64]


def receive(side: Side, own_tokens: tuple[Log, int, int] | None = None) -> Positions:
    """R's part; positions in its deck of the items that S has too, ascending.

    ``own_tokens``: S's tokens from an earlier :func:`receive_cache`, if there was one: the log, its
    number of tokens, their bits.
    """
    key = side.key()
    twice, items = side.spool.log("twice"), side.deck.distinct
    back = side.engine.inverse(key)
    start = len(twice)

    def take(index: int, data: bytes) -> None:
        points = rows(data, POINT_BYTES, index, items)
        twice.append(side.engine.tokens(side.engine.multiply(back, points)).tobytes())
        side.progress(len(points))

    with alongside(side.channel, lambda: send_blinded(side, key, BLINDED, start)):
        gather(side.channel, {TWICE: Expected(start, chunks_of(items), take)})
    if own_tokens is None:
        log, total, bits = receive_cache(side), side.theirs, tokens.BITS
    else:
        log, total, bits = own_tokens
    return join(side, twice, items, log, total, bits)


def receive_cache(side: Side, name: str = "tokens", token_bits: int = tokens.BITS) -> Log:
    """Message 3 alone, kept in a log; ``token_bits`` as the sender cut them."""
    log = side.spool.log(name)
    bits = tokens.frame_bits(side.theirs)

    def take(index: int, data: bytes) -> None:
        tokens.decode(data, index, bits, side.theirs, token_bits)
        log.append(data)
        side.progress(0)

    gather(side.channel, {TOKENS: Expected(len(log), 1 << bits, take)})
    return log


def send(side: Side, *, with_tokens: bool = True, key: bytes | None = None) -> None:
    """S's part. Without tokens where R has them from an earlier :func:`send_cache` under ``key``."""
    scalar = key or side.key()

    def take(index: int, data: bytes) -> None:
        points = rows(data, POINT_BYTES, index, side.theirs)
        side.channel.send(TWICE, index, side.engine.multiply(scalar, points).tobytes())
        side.progress(len(points))

    start = side.channel.peer_has(TWICE)
    expected = {BLINDED: Expected(start, chunks_of(side.theirs), take)}
    if not with_tokens:
        gather(side.channel, expected)
        return
    with alongside(side.channel, lambda: own_tokens(side, scalar)):
        gather(side.channel, expected)
    send_cache(side, scalar)


def send_blinded(side: Side, key: bytes, kind: int, start: int) -> None:
    """key H(.) of the deck's items, in its order, from chunk ``start``."""
    for index, labels, _ in side.deck.chunks(start):
        points = side.engine.multiply(key, side.engine.encode(side.session, labels))
        side.channel.send(kind, index, points.tobytes())


def own_tokens(side: Side, key: bytes) -> None:
    """Tokens of b H(y) for the deck's items, in a log."""
    log = side.spool.log("own")
    for _, labels, _ in side.deck.chunks(len(log)):
        points = side.engine.multiply(key, side.engine.encode(side.session, labels))
        log.append(side.engine.tokens(points).tobytes())
        side.progress(len(labels))


def send_cache(side: Side, key: bytes, token_bits: int = tokens.BITS) -> None:
    """Message 3 alone."""
    own_tokens(side, key)
    send_sorted(side, side.spool.log("own"), side.deck.distinct, token_bits)


def send_sorted(side: Side, log: Log, total: int, token_bits: int = tokens.BITS) -> None:
    """The tokens of a log, sorted, frame by frame, from where the other side needs them."""
    shelf = tokens.Shelf.of(side.spool, "sorted", log, total)
    bits, start = tokens.frame_bits(total), side.channel.peer_has(TOKENS)
    for frame, run in shelf.runs(bits):
        if frame >= start:
            data = tokens.encode(run, frame, bits, total, token_bits)
            side.channel.send(TOKENS, frame, data)
    side.spool.discard("sorted")


def join(
    side: Side, mine: Log, items: int, theirs: Log, total: int, token_bits: int = tokens.BITS
) -> Positions:
    """Places in ``mine`` of the tokens that are in the sorted frames ``theirs``, ascending."""
    bits = tokens.frame_bits(total)
    shelf = tokens.Shelf.of(side.spool, "join", mine, items)
    found: list[NDArray[np.uint32]] = []
    if shelf.bits > bits:
        frames = _Merged(theirs, bits, total, token_bits)
        pairs = ((run, frames.covering(b, shelf.bits)) for b, run in shelf.runs(shelf.bits))
    else:
        pairs = (
            (run, tokens.decode(theirs.read(frame), frame, bits, total, token_bits))
            for frame, run in shelf.runs(bits)
        )
    for run, other in pairs:
        run.require_distinct()
        found.append((run if token_bits == tokens.BITS else run.cut(token_bits)).matches(other))
    side.spool.discard("join")
    return np.sort(np.concatenate(found)).astype(np.int64) if found else np.empty(0, np.int64)


class _Merged:
    """Frames that are coarser than the shelf's buckets, the last one kept."""

    def __init__(self, log: Log, bits: int, total: int, token_bits: int) -> None:
        self._log, self._shape, self._held = log, (bits, total, token_bits), -1
        self._tokens: tokens.Sorted | None = None

    def covering(self, bucket: int, bits: int) -> tokens.Sorted:
        frame = bucket >> (bits - self._shape[0])
        if self._tokens is None or frame != self._held:
            self._held = frame
            self._tokens = tokens.decode(self._log.read(frame), frame, *self._shape)
        return self._tokens


def exchange(side: Side) -> tuple[Positions, Log, Log]:
    """Both learn: matched positions in this side's deck; logs of its own and the other's tokens,
    both in the order in which their owner sent them."""
    key = side.key()
    mine, theirs = side.spool.log("mine"), side.spool.log("theirs")
    answered = _Answers(theirs)
    items, start, peer_start = side.deck.distinct, len(mine), len(theirs)

    def blind() -> None:
        send_blinded(side, key, OWN, side.channel.peer_has(OWN))

    def answer() -> None:
        for index in range(side.channel.peer_has(THEIRS), chunks_of(side.theirs)):
            data = answered.wait(index)
            if data is None:
                return
            side.channel.send(THEIRS, index, data)

    def take_point(index: int, data: bytes) -> None:
        points = rows(data, POINT_BYTES, index, side.theirs)
        answered.append(side.engine.tokens(side.engine.multiply(key, points)).tobytes())
        side.progress(len(points))

    def take_token(index: int, data: bytes) -> None:
        rows(data, TOKEN_BYTES, index, items)
        mine.append(data)
        side.progress(0)

    with alongside(side.channel, blind), alongside(side.channel, answer), answered.ending():
        gather(
            side.channel,
            {
                OWN: Expected(peer_start, chunks_of(side.theirs), take_point),
                THEIRS: Expected(start, chunks_of(items), take_token),
            },
        )
    return _common(side, mine, items, theirs), mine, theirs


def _common(side: Side, mine: Log, items: int, theirs: Log) -> Positions:
    left = tokens.Shelf.of(side.spool, "left", mine, max(items, side.theirs))
    right = tokens.Shelf.of(side.spool, "right", theirs, max(items, side.theirs))
    found = []
    for bucket in range(1 << left.bits):
        ours, others = left.read(bucket), right.read(bucket)
        ours.require_distinct()
        others.require_distinct()
        found.append(ours.matches(others))
    side.spool.discard("left")
    side.spool.discard("right")
    return np.sort(np.concatenate(found)).astype(np.int64)


class _Answers:
    """A log that one thread fills and another sends from."""

    def __init__(self, log: Log) -> None:
        self._log, self._changed, self._ended = log, threading.Condition(), False

    def append(self, data: bytes) -> None:
        with self._changed:
            self._log.append(data)
            self._changed.notify_all()

    def wait(self, index: int) -> bytes | None:
        """Frame ``index`` once it is there; None if it never will be."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._log) > index)
            return self._log.read(index) if index < len(self._log) else None

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Nothing is appended after the body."""
        try:
            yield
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
