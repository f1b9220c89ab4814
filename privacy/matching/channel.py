"""What a matching protocol needs of its connection, and two ways of using it.

Protocols are written as if frames never got lost. What makes that true after a crash: every frame a
side has dealt with is in one of its logs, the other side knows how many those are
(:meth:`Channel.peer_has`), and everything sent follows from sealed seeds and logs, so that it is the
same bytes when it is sent again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from privacy.errors import ProtocolError
from privacy.matching.deck import CHUNK
from privacy.matching.engine import Array


class Channel(Protocol):
    """An authenticated, ordered connection to the other side. Anything off is a ProtocolError."""

    def send(self, kind: int, index: int, data: bytes) -> None:
        """Send a frame; waits while the peer is slow."""

    def receive(self) -> tuple[int, int, bytes]:
        """Kind, index and data of the next frame."""

    def peer_has(self, kind: int) -> int:
        """Frames of this kind that the peer had dealt with when the connection was made."""

    def abort(self) -> None:
        """Make both directions fail."""


@dataclass(frozen=True)
class Expected:
    """Frames of one kind: from ``start`` up to ``total``, each handed to ``take`` once, in order."""

    start: int
    total: int
    take: Callable[[int, bytes], None]


def gather(channel: Channel, kinds: Mapping[int, Expected]) -> None:
    """Receive all frames of these kinds, in whatever way the kinds are interleaved.

    Raises ProtocolError for a frame that was not expected now.
    """
    following = {kind: expected.start for kind, expected in kinds.items()}
    while any(following[kind] < expected.total for kind, expected in kinds.items()):
        kind, index, data = channel.receive()
        expected = kinds.get(kind)
        if expected is None or index != following[kind] or index >= expected.total:
            raise ProtocolError("a frame was not expected now")
        expected.take(index, data)
        following[kind] = index + 1


class Abortable(Protocol):
    """One connection or several."""

    def abort(self) -> None:
        """Make them fail."""


@contextmanager
def alongside(channel: Abortable, work: Callable[[], None]) -> Iterator[None]:
    """Run ``work`` in a thread beside the body; the first error of either stops both."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # handed to the caller below
            failed.append(error)
            channel.abort()

    thread = threading.Thread(target=run, name="match", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        cause = failed[0] if failed else None
        channel.abort()
        thread.join()
        if cause is not None and isinstance(error, ProtocolError):
            raise cause from error  # the body only saw the connection end
        raise
    thread.join()
    if failed:
        raise failed[0]


def chunks_of(items: int) -> int:
    """Chunks in a stream of ``items`` elements."""
    return -(-items // CHUNK)


def rows(data: bytes, width: int, index: int, items: int) -> Array:
    """Chunk ``index`` of a stream of ``items``: (m, width). Raises ProtocolError for another size."""
    count = min(CHUNK, items - index * CHUNK)
    if len(data) != width * count:
        raise ProtocolError("a chunk has a wrong size")
    return np.frombuffer(data, np.uint8).reshape(count, width)
