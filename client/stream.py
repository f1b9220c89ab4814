"""A sealed stream between two gates, through a relay that can read nothing.

Both sides send a handshake signed with their identity key (a fresh X25519 key, bound to contract, job,
sender and receiver, with the journal heads of the two as the sender holds them); keys for each direction
come from HKDF over the shared secret and both handshakes (the signed Diffie-Hellman of Krawczyk 2003,
SIGMA, in its simplest mutually authenticated form). A handshake is made before any row is read, so nothing
in it can depend on one. Frames are ChaCha20-Poly1305 (RFC 8439) with a counter nonce: a frame that
was changed, repeated, dropped or put in another place ends the match.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privacy.errors import ProtocolError, WireError
from privacy.matching.deck import CHUNK
from privacy.matching.engine import POINT_BYTES
from privacy.noisy_sum.masks import agree, derive, public_key
from privacy.randomness import Randomness
from protos import wire
from protos.alliance import Contract

LARGEST_FRAME = CHUNK * POINT_BYTES + 1024
LARGEST_HANDSHAKE = 4096
MOST_HEADS = 2
"""Of the two parties that shake hands; whether they fit is for :mod:`client.heads` to say."""


class StreamLost(ProtocolError):
    """The connection ended. What was agreed and dealt with stands: connect again and go on."""


class PeerGaveUp(ProtocolError):
    """The peer says that the match failed for good."""


class Stream(Protocol):
    """Frames to and from the peer, in order. Raises StreamLost when it ends."""

    def send(self, frame: bytes) -> None:
        """Queue one frame; blocks while the peer is slow."""

    def receive(self) -> bytes:
        """The next frame."""

    def close(self) -> None:
        """End the stream in good order."""

    def abort(self) -> None:
        """End the stream at once."""

    def lost(self) -> bool:
        """Whether the connection is gone, without waiting to find out."""


class SealedStream:
    """Frames sealed end to end. ``heads``: what this side states; afterwards what the peer stated."""

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
        heads: Sequence[wire.Signed] = (),
        over: bool = False,
    ) -> None:
        self._stream, self.bytes_sent = stream, 0
        private = randomness(32)
        mine = wire.state(
            identity,
            me,
            wire.Handshake(
                contract=contract.digest(), job=job, sender=me, receiver=peer,
                key=public_key(private), heads=heads, over=over,
            ),
        )  # fmt: skip
        self._raw_send(wire.serialise(mine))
        try:
            theirs = wire.parse(wire.Signed, stream.receive(), LARGEST_HANDSHAKE)
            shake = wire.read_statement(wire.Handshake, theirs, contract.identity_of(peer))
        except WireError as error:
            raise ProtocolError("the handshake does not parse") from error
        said = (theirs.party, shake.contract, shake.job, shake.sender, shake.receiver)
        if said != (peer, contract.digest(), job, peer, me):
            raise ProtocolError("the handshake is of another match or party")
        if shake.over:
            raise PeerGaveUp("the peer says that the match is over")
        if shake.commitment or len(shake.heads) > MOST_HEADS:
            raise ProtocolError("the handshake says more than it may")
        self.heads = list(shake.heads)
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
        """Seal and send one frame. Raises ProtocolError for one that the peer would not take."""
        if len(plain) > LARGEST_FRAME - 16:
            raise ProtocolError("a frame to send is too long")
        nonce = self._sent.to_bytes(12, "big")
        self._sent += 1
        self._raw_send(self._out.encrypt(nonce, plain, b""))

    def receive(self) -> bytes:
        """Open the next frame. Raises ProtocolError if anything is off."""
        frame = self._stream.receive()
        if len(frame) > LARGEST_FRAME:
            raise ProtocolError("a frame is too long")
        nonce = self._got.to_bytes(12, "big")
        self._got += 1
        try:
            return self._in.decrypt(nonce, frame, b"")
        except InvalidTag as error:
            raise ProtocolError("a frame was changed, repeated, dropped or moved") from error

    def _raw_send(self, frame: bytes) -> None:
        self.bytes_sent += len(frame)
        self._stream.send(frame)

    def close(self) -> None:
        """End the stream in good order."""
        self._stream.close()

    def abort(self) -> None:
        """End the stream at once."""
        self._stream.abort()
