"""Numbered frames of a match over a sealed stream, pinned so that a resumed match is the same match.

The digest of every frame is kept, by kind and number, before it is sent and when it has come. After a
break both sides connect again with a new session key and tell each other what they have dealt with; a
frame that is sent again must be the bytes it was, on both sides, and no side can count past the number
of elements it declared first: a resume does not get around a cap.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping

from client.stream import SealedStream
from privacy.errors import ProtocolError, WireError
from privacy.matching.storage import Log, Spool
from protos import wire

OPENING, DONE = 0, 127
"""Kinds that are not pinned; other kinds of a stage are between."""
STAGE = 128
"""What a stage adds to its kinds."""
MOST_ENGINES, MOST_HELD = 8, 16
LONGEST_ENGINE = 32
COMMITMENT_BYTES = 32


class Pins:
    """Digests of the frames of one match with one peer, in both directions."""

    def __init__(self, spool: Spool, peer: str) -> None:
        self._spool, self.peer, self._lock = spool, peer, threading.Lock()

    def _log(self, way: str, kind: int) -> Log:
        return self._spool.log(f"{way} {self.peer} {kind}")

    def pin(self, way: str, kind: int, index: int, data: bytes) -> bytes:
        """The frame's digest. Raises ProtocolError if frame ``index`` was something else before, or is
        out of order."""
        digest = hashlib.sha256(data).digest()
        with self._lock:
            log = self._log(way, kind)
            if index < len(log):
                if log.read(index) != digest:
                    raise ProtocolError(f"{way} frame {kind}/{index} is not what it was before")
            elif index == len(log):
                log.append(digest)
            else:
                raise ProtocolError(f"{way} frame {kind}/{index} is out of order")
        return digest

    def chain(self, way: str, kind: int, frames: int) -> bytes:
        """SHA-256 over the digests of the first frames. Raises ProtocolError if there are fewer."""
        with self._lock:
            log, whole = self._log(way, kind), hashlib.sha256()
            if frames > len(log):
                raise ProtocolError(f"more frames of kind {kind} than there were")
            for index in range(frames):
                whole.update(log.read(index))
            return whole.digest()


class MatchChannel:
    """All stages of a match with one peer over one connection."""

    def __init__(self, stream: SealedStream, pins: Pins) -> None:
        self._stream, self.pins = stream, pins
        self._sending = threading.Lock()
        self._sent = hashlib.sha256()

    @property
    def bytes_sent(self) -> int:
        """On this connection, sealed."""
        return self._stream.bytes_sent

    @property
    def heads(self) -> list[wire.Signed]:
        """The journal heads that the peer stated in its handshake."""
        return self._stream.heads

    def sent_digest(self) -> bytes:
        """SHA-256 over the digests of what was sent on this connection."""
        return self._sent.digest()

    def send(self, kind: int, index: int, data: bytes) -> None:
        """Send a frame; kinds count across stages."""
        if kind % STAGE in (OPENING, DONE):
            digest = hashlib.sha256(data).digest()
        else:
            digest = self.pins.pin("sent", kind, index, data)
        frame = wire.serialise(wire.MatchFrame(kind=kind, index=index, data=data))
        with self._sending:
            self._sent.update(digest)
            self._stream.send(frame)

    def receive(self) -> tuple[int, int, bytes]:
        """The next frame. Raises ProtocolError."""
        try:
            frame = wire.parse(wire.MatchFrame, self._stream.receive())
        except WireError as error:
            raise ProtocolError("a frame does not parse") from error
        if frame.kind % STAGE not in (OPENING, DONE):
            self.pins.pin("got", frame.kind, frame.index, frame.data)
        return frame.kind, frame.index, frame.data

    def close(self) -> None:
        """End the connection in good order."""
        self._stream.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._stream.abort()


class StageChannel:
    """One stage: see :class:`privacy.matching.channel.Channel`.

    Made by :meth:`open`, which tells the peer what this side has and hears the same.
    """

    def __init__(self, whole: MatchChannel, stage: int, opening: wire.MatchOpening) -> None:
        self._whole, self._base, self.opening = whole, STAGE * stage, opening
        self._held = {held.kind: held.frames for held in opening.held}

    @classmethod
    def open(
        cls, whole: MatchChannel, stage: int, items: int, engines: tuple[str, ...],
        held: Mapping[int, int], commitment: bytes = b"",
    ) -> StageChannel:  # fmt: skip
        """``held``: frames of each kind that this side has dealt with; ``commitment``: to its set.

        Raises ProtocolError unless what the peer has is what was sent to it.
        """
        base, pins = STAGE * stage, whole.pins
        mine = wire.MatchOpening(items=items, engines=engines, commitment=commitment)
        for kind, frames in held.items():
            chain = pins.chain("got", base + kind, frames)
            mine.held.append(wire.Held(kind=kind, frames=frames, chain=chain))
        whole.send(base + OPENING, 0, wire.serialise(mine))
        kind, index, data = whole.receive()
        if kind != base + OPENING or index:
            raise ProtocolError("not the opening of this stage")
        try:
            theirs = wire.parse(wire.MatchOpening, data, 1 << 13)
        except WireError as error:
            raise ProtocolError("an opening does not parse") from error
        _check_bounds(theirs)
        for said in theirs.held:
            if said.chain != pins.chain("sent", base + said.kind, said.frames):
                raise ProtocolError("the peer dealt with other frames than were sent")
        return cls(whole, stage, theirs)

    def send(self, kind: int, index: int, data: bytes) -> None:
        self._whole.send(self._base + kind, index, data)

    def receive(self) -> tuple[int, int, bytes]:
        kind, index, data = self._whole.receive()
        if not self._base <= kind < self._base + STAGE:
            raise ProtocolError("a frame of another stage")
        return kind - self._base, index, data

    def peer_has(self, kind: int) -> int:
        return self._held.get(kind, 0)

    def abort(self) -> None:
        self._whole.abort()


def _check_bounds(opening: wire.MatchOpening) -> None:
    """What a peer may state: each kind once, engines by name, a commitment or none. A kind that is looked
    up becomes a file here, so there are few."""
    kinds = [said.kind for said in opening.held]
    if len(kinds) > MOST_HELD or len(set(kinds)) != len(kinds):
        raise ProtocolError("an opening states too many kinds")
    if any(not OPENING < kind < DONE for kind in kinds):
        raise ProtocolError("an opening states a kind that there is not")
    if len(opening.engines) > MOST_ENGINES or any(len(e) > LONGEST_ENGINE for e in opening.engines):
        raise ProtocolError("an opening states too many engines")
    if len(opening.commitment) not in (0, COMMITMENT_BYTES):
        raise ProtocolError("a commitment has a wrong length")
