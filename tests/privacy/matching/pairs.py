"""Matches in one process: channels made of queues, parties made of threads."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from privacy.errors import ProtocolError
from privacy.matching import engine as engines
from privacy.matching.channel import Channel
from privacy.matching.storage import MemorySpool
from privacy.matching.terms import Secrets, Side, Terms, close_deck, open_deck

QUEUED = 4


class Broken(ProtocolError):
    """A test cut the connection."""


class Pipe:
    """One end of a connection. ``tamper`` may change, drop (None) or break what is sent."""

    def __init__(self, inbox: queue.Queue[Any], outbox: queue.Queue[Any]) -> None:
        self.inbox, self.outbox = inbox, outbox
        self.held: dict[int, int] = {}
        self.tamper: Callable[[int, int, bytes], Any] = lambda kind, index, data: (
            kind,
            index,
            data,
        )
        self.sent: list[tuple[int, int, bytes]] = []
        self.stopped = threading.Event()
        self.other: Pipe | None = None

    def send(self, kind: int, index: int, data: bytes) -> None:
        self.sent.append((kind, index, data))
        frame = self.tamper(kind, index, data)
        while frame is not None:
            if self.stopped.is_set():
                raise Broken
            try:
                self.outbox.put(frame, timeout=0.02)
                return
            except queue.Full:
                continue

    def receive(self) -> tuple[int, int, bytes]:
        while True:
            try:
                frame: tuple[int, int, bytes] = self.inbox.get(timeout=0.02)
                return frame
            except queue.Empty:
                if self.stopped.is_set():
                    raise Broken from None

    def peer_has(self, kind: int) -> int:
        return self.held.get(kind, 0)

    def abort(self) -> None:
        self.stopped.set()
        if self.other:
            self.other.stopped.set()


def pipe() -> tuple[Pipe, Pipe]:
    one: queue.Queue[Any] = queue.Queue(QUEUED)
    two: queue.Queue[Any] = queue.Queue(QUEUED)
    left, right = Pipe(one, two), Pipe(two, one)
    left.other, right.other = right, left
    return left, right


def labels(items: Iterable[int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    data = [hashlib.sha256(b"item %d" % i).digest() for i in items]
    return np.frombuffer(b"".join(data), np.uint8).reshape(len(data), 32)


class Player:
    """One party's state, which outlives its connections."""

    def __init__(
        self, terms: Terms, items: list[int], engine: str, seed: int | None = None
    ) -> None:
        self.terms, self.items = terms, items
        key = os.urandom(32) if seed is None else seed.to_bytes(32, "big")
        self.secrets = Secrets(key, terms.session)
        self.spool = MemorySpool()
        self.engine = engines.engine(engine)

    def deck(self, dummies: Any = None, *, close: bool = True) -> tuple[Any, int]:
        rows = np.arange(len(self.items), dtype=np.int64)
        records = [(labels(self.items), rows)] if self.items else []
        deck, size = open_deck(self.terms, records, self.secrets, self.spool, len(self.items))
        if close:
            close_deck(deck, size, self.secrets, dummies)
        return deck, size

    def side(self, deck: Any, channel: Channel, theirs: int) -> Side:
        return Side(
            self.terms.session, self.engine, self.secrets, deck, self.spool, channel, theirs
        )


def matched(deck: Any, positions: Any, items: list[int]) -> set[int]:
    """Items behind positions."""
    return {items[row] for part in deck.rows_at(positions) for row in part.tolist()}


def together(*work: Callable[[], Any]) -> list[Any]:
    """Run all at once; the first error is raised."""
    with ThreadPoolExecutor(len(work)) as pool:
        futures = [pool.submit(one) for one in work]
    return [future.result() for future in futures]
