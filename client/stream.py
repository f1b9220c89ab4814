"""A sealed stream between two gates, through a relay that can read nothing.

Both sides send a handshake signed with their identity key (a fresh X25519 key, bound to contract,
job and sender); keys for each direction come from HKDF over the shared secret and both handshakes
(the signed Diffie-Hellman of Krawczyk 2003, SIGMA, in its simplest mutually authenticated form).
Frames are ChaCha20-Poly1305 (RFC 8439) with a counter nonce: a frame that was changed, repeated,
dropped or put in another place ends the match.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privacy.errors import ProtocolError, WireError
from privacy.matching.group import CHUNK, POINT_BYTES
from privacy.noisy_sum.masks import agree, derive, public_key
from privacy.randomness import Randomness
from protos import wire
from protos.alliance import Contract

LARGEST_FRAME = CHUNK * POINT_BYTES + 1024


class Stream(Protocol):
    """Frames to and from the peer, in order. ``receive`` raises ProtocolError when it ends."""

    def send(self, frame: bytes) -> None:
        """Queue one frame; blocks while the peer is slow."""

    def receive(self) -> bytes:
        """The next frame."""

    def close(self) -> None:
        """End the stream."""


class SealedStream:
    """Frames sealed end to end; counts and hashes what it sent, for the journal."""

    def __init__(
        self,
        stream: Stream,
        *,
        contract: Contract,
        job: str,
        me: str,
        peer: str,
        identity: Ed25519PrivateKey,
        randomness: Randomness,
    ) -> None:
        self._stream = stream
        self.bytes_sent, self.sent_digest = 0, hashlib.sha256()
        private = randomness(32)
        mine = wire.state(
            identity,
            me,
            wire.Handshake(contract=contract.digest(), job=job, sender=me, key=public_key(private)),
        )
        self._raw_send(wire.serialise(mine))
        try:
            theirs = wire.parse(wire.Signed, stream.receive(), 4096)
            shake = wire.read_statement(wire.Handshake, theirs, contract.identity_of(peer))
        except WireError as error:
            raise ProtocolError from error
        if shake.contract != contract.digest() or shake.job != job or shake.sender != peer:
            raise ProtocolError
        secret = agree(private, shake.key)
        salt = wire.digest_statements([mine, theirs])
        self._out = ChaCha20Poly1305(
            derive(secret, salt, b"tallystick/v1/match from " + me.encode())
        )
        self._in = ChaCha20Poly1305(
            derive(secret, salt, b"tallystick/v1/match from " + peer.encode())
        )
        self._sent = self._got = 0

    def send(self, plain: bytes) -> None:
        """Seal and send one frame."""
        nonce = self._sent.to_bytes(12, "big")
        self._sent += 1
        self._raw_send(self._out.encrypt(nonce, plain, b""))

    def receive(self) -> bytes:
        """Open the next frame. Raises ProtocolError if anything is off."""
        frame = self._stream.receive()
        if len(frame) > LARGEST_FRAME:
            raise ProtocolError
        nonce = self._got.to_bytes(12, "big")
        self._got += 1
        try:
            return self._in.decrypt(nonce, frame, b"")
        except InvalidTag as error:
            raise ProtocolError from error

    def send_points(self, kind: int, points: list[bytes]) -> None:
        """A set of points: a header with their number, then chunks of 8,192."""
        self.send(wire.serialise(wire.MatchHeader(items=len(points))))
        for chunk in chunks(kind, points):
            self.send(wire.serialise(chunk))

    def receive_points(self, kind: int, most: int) -> list[bytes]:
        """A set of at most ``most`` points. Raises ProtocolError for any other shape."""
        try:
            total = wire.parse(wire.MatchHeader, self.receive(), 64).items
            if total > most:
                raise ProtocolError
            points: list[bytes] = []
            while len(points) < total:
                chunk = wire.parse(wire.MatchChunk, self.receive(), LARGEST_FRAME)
                data = chunk.points
                size = min(CHUNK, total - len(points))
                if chunk.kind != kind or chunk.first != len(points):
                    raise ProtocolError
                if len(data) != size * POINT_BYTES:
                    raise ProtocolError
                points += [data[i : i + POINT_BYTES] for i in range(0, len(data), POINT_BYTES)]
        except WireError as error:
            raise ProtocolError from error
        return points

    def _raw_send(self, frame: bytes) -> None:
        self.bytes_sent += len(frame)
        self.sent_digest.update(frame)
        self._stream.send(frame)

    def close(self) -> None:
        """End the stream."""
        self._stream.close()


def chunks(kind: int, points: list[bytes]) -> Iterator[wire.MatchChunk]:
    """Points in chunks of 8,192."""
    for first in range(0, len(points), CHUNK):
        part: Iterable[bytes] = points[first : first + CHUNK]
        yield wire.MatchChunk(kind=kind, first=first, points=b"".join(part))
